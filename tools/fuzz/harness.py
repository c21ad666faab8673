"""Draw and try inputs, for every part, in a process of its own that is watched.

A `Part` draws inputs and tries them. What it finds is a `Fault`; whatever else it raises is a traceback of
the product. Each fault is kept once, by where it comes from, with the smallest input that hypothesis finds.
"""

import os
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.strategies import SearchStrategy

import pipeline.workers
from cli.display import plain
from cli.paper import baseline_stages
from model.errors import RunError
from pipeline.errors import DataError
from pipeline.prep import prepare, repair
from pipeline.source import devkit

BATCH = 25  # inputs of one seed
KINDS = ("traceback", "hang", "outside", "unaccounted", "no line", "other picture")
HOME = Path(__file__).parents[2]
Tree = dict[str, tuple[Any, ...]]


class Fault(Exception):
    """Represent a fault of the product. kind: one of KINDS; where: what distinguishes it from others."""

    def __init__(self, kind: str, where: str, text: str) -> None:
        super().__init__(kind, where, text)
        self.kind, self.where, self.text = kind, where, text

    def __str__(self) -> str:
        return self.text


class Part(Protocol):
    """Represent inputs of one sort. Everything that one of them needs or makes lies in its own folder."""

    inputs: SearchStrategy[Any]
    shrinks: bool  # whether trying one is quick enough to look for the smallest

    def attempt(self, value: Any) -> int:
        """Try an input; return how many it stands for. Raises a Fault, or whatever the product does."""


@dataclass(frozen=True)
class Tried:
    """Hold what is said of an input: `fault` only where it was not known before."""

    inputs: int
    fault: Fault | None = None
    value: bytes = b""  # pickled


def explore(part: Part, seed: int, begin: Callable[[bytes], None]) -> Iterator[list[Tried]]:
    """Yield batches of tried inputs, without end. begin: gets each input, pickled, before it is tried."""
    known: set[str] = set()
    for number in count():
        tried = batch(part, seed + number, begin, known)
        known.update(one.fault.where for one in tried if one.fault)
        yield tried


def batch(part: Part, seed: int, begin: Callable[[bytes], None], known: Set[str]) -> list[Tried]:
    """Try BATCH inputs, or up to the first fault that is not known, and on to the smallest that shows it."""
    tried: list[Tried] = []
    newest: list[Tried] = []

    def each(value: Any) -> None:
        written = pickle.dumps(value)
        begin(written)
        inputs, fault = attempt(part, value)
        tried.append(Tried(inputs))
        if fault and fault.where not in known:
            newest[:] = [Tried(0, fault, written)]
            raise fault

    limits = settings(
        max_examples=BATCH,
        phases=[Phase.generate, *[Phase.shrink] * part.shrinks],
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    try:
        hypothesis.seed(seed)(limits(given(part.inputs)(each)))()
    except Exception:  # a Fault, or hypothesis's word for one that does not come every time
        if not newest:
            raise
    return tried + newest


def attempt(part: Part, value: Any) -> tuple[int, Fault | None]:
    try:
        return part.attempt(value), None
    except Fault as fault:
        return 1, fault
    except Exception as error:
        return 1, Fault("traceback", place(error), "".join(traceback.format_exception(error)))


def place(error: BaseException) -> str:
    """Return the innermost line of the product that an exception passed, and its type."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(HOME) and "/tools/" not in
            frame.filename and "/.venv/" not in frame.filename]  # fmt: skip
    frame = (ours or frames)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.name}:{frame.line}"


def one_line(work: Callable[[], Any], *names: str) -> Any:
    """Return what `work` returns, or None where it says in one line with one of `names` what is wrong."""
    try:
        return work()
    except (DataError, RunError) as error:
        text = plain(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        text = plain(f"{error.filename}: {error.strerror}")
    check_line(text, *names)
    return None


def check_line(text: str, *names: str) -> None:
    if len(text.splitlines()) > 1 or not any(name in text for name in names):
        raise Fault(
            "no line",
            "no line: " + re.sub(r"[\d'\"/].*", "", text[:60]),
            f"not a line that names a file: {text!r}",
        )


def snapshot(*folders: Path, leave: Path | None = None) -> Tree:
    """Return what is in folders: each entry's kind, size, times and bytes; but for `leave`."""
    tree: Tree = {}
    for folder in folders:
        left = [os.fspath(folder)]
        while left:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    if leave and f"{leave}/".startswith(f"{entry.path}/"):  # --out, and what it lies in
                        left += [entry.path] * (entry.is_dir() and entry.path != os.fspath(leave))
                        continue
                    stat: os.stat_result | None = entry.stat(follow_symlinks=False)
                    content: Any = None
                    if entry.is_symlink():
                        content = os.readlink(entry.path)
                    elif entry.is_dir():
                        left.append(entry.path)
                        stat = None if leave else stat  # a folder's times change with --out inside it
                    elif entry.is_file():
                        content = Path(entry.path).read_bytes()
                    about = (stat.st_mode, stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else ()
                    tree[entry.path] = (*about, content)
    return tree


def compare(before: Tree, after: Tree) -> None:
    """Raise a Fault where a file was made, changed or removed."""
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            what = "made" if path not in before else "removed" if path not in after else "changed"
            raise Fault("outside", f"{what} {Path(path).name[:20]}", f"{what}: {path}")


def in_this_process() -> None:
    """Let prep and the baselines start no processes: with one worker they would only be slower.

    A devkit is still read in a process of its own, which limits its time and memory; each kit only once.
    """
    kits: dict[bytes, list[Any]] = {}

    def run_tasks(function: Any, tasks: Any, workers: int) -> Iterator[Any]:
        for task in tasks:
            yield task, function(task)

    def read_kit(function: Any, tasks: list[bytes], workers: int) -> list[Any]:
        if tasks[0] not in kits:
            kits[tasks[0]] = list(workers_of_its_own(function, tasks, workers))
        return kits[tasks[0]]

    workers_of_its_own = pipeline.workers.run_tasks
    devkit.run_tasks = read_kit  # type: ignore[assignment,attr-defined]
    for module in (prepare, repair, baseline_stages):
        module.run_tasks = run_tasks  # type: ignore[attr-defined]


def quiet() -> None:
    """Discard what native code and libraries print of odd inputs."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
