"""Run tasks in parallel processes that end with their parent, and whose errors are raised in it."""

import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")
PR_SET_PDEATHSIG = 1
AHEAD = 2  # tasks a worker holds, so that it need not wait while the parent is busy


def count_cores(limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Count the cores this process may use, no more than its container's share of the machine."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = limits.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def run_tasks(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result, as they come. Leaving the loop early kills the workers."""
    queue = iter(tasks)
    crew: dict[Any, Any] = {}  # the pipe to each process
    given: dict[Any, list[Task]] = {}
    try:
        with _for_children():
            for _ in range(workers):
                _hire(function, crew)
        given.update((connection, []) for connection in crew)
        for connection in list(crew) * AHEAD:
            _give(connection, given[connection], queue)
        while waiting := [connection for connection in crew if given[connection]]:
            for connection in cast(list[Any], wait(waiting)):
                result = connection.recv()
                if isinstance(result, Exception):
                    raise result
                task = given[connection].pop(0)
                _give(connection, given[connection], queue)
                yield task, result
    except (EOFError, ConnectionError):
        crew[connection].join(5)
        raise DataError(
            f"a worker process died (exit status {crew[connection].exitcode}; -9 is often a lack of memory): "
            "run the same command again to resume, perhaps with fewer --workers"
        ) from None
    finally:
        for process in crew.values():
            process.kill()
        for connection, process in crew.items():
            process.join()
            connection.close()


def _hire(function: Callable[[Any], Any], crew: dict[Any, Any]) -> None:
    context = multiprocessing.get_context("spawn")
    try:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(function, theirs, os.getpid()), daemon=True)
        process.start()
    except OSError as error:
        raise DataError(
            f"cannot start worker process {len(crew) + 1}: {error.strerror}; give fewer --workers"
        ) from None
    theirs.close()  # so that the end of the process is the end of the pipe
    crew[ours] = process


def _give(connection: Any, given: list[Task], queue: Iterator[Task]) -> None:
    for task in queue:
        connection.send(task)
        given.append(task)
        return


@contextmanager
def _for_children() -> Iterator[None]:
    """Let processes that are started in here inherit one thread for BLAS, and blocked signals.

    The signals that stop their parent do not reach them: it kills them in its own time.
    """
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in one}
    resource_tracker.ensure_running()  # otherwise the first process starts it, which unblocks signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    os.environ.update(one)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _work(function: Callable[[Any], Any], connection: Any, parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the line above
        return
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            result = function(task)
        except Exception as error:
            error.add_note(traceback.format_exc())
            result = error
        connection.send(result)
