"""Start commands of alexnet-dali quickly, as processes, for the soak and for tests.

They are real processes with their own signals, statuses and files. Only the imports are shared: each is
forked from a server that has loaded torch and DALI already, which takes seconds.
"""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch.nn.parallel", "torch.fx.experimental.symbolic_shapes", "tensorboard.summary.writer.record_writer",
     "cli.compose.devices", "cli.display", "model.run", "model.train", "pipeline.batches",
     "pipeline.prep.prepare"]
)  # fmt: skip


class Command:
    """Represent a running command in `folder`. before: called first in its process, as to inject a fault."""

    def __init__(
        self,
        *words: object,
        folder: Path,
        environment: Mapping[str, object] | None = None,
        before: Callable[[], object] | None = None,
    ) -> None:
        texts = [str(word) for word in words]
        settings = {name: str(value) for name, value in (environment or {}).items()}
        self.output = folder / f"output.{os.urandom(6).hex()}"
        self.process = SERVER.Process(target=_run, args=(texts, folder, self.output, settings, before))
        self.process.start()

    def wait(self, seconds: float = 100) -> int:
        """Return its status, or minus the signal that killed it. Kill it after `seconds`: TimeoutError."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"not finished after {seconds} s, with this output: {self.text}")
        return self.process.exitcode

    def send(self, signal: int) -> None:
        """Send a signal, if the process is still there."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal)

    @property
    def text(self) -> str:
        """Return what it has said so far, on stdout and stderr."""
        return self.output.read_text() if self.output.exists() else ""


def ranks(
    world: int,
    *words: object,
    folder: Path,
    before: Mapping[int, Callable[[], object]] | None = None,
    only: int | None = None,
) -> list[Command]:
    """Start the processes of one run on this machine, as a batch system does. before: by rank.

    only: the one process that is started.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Command(
            *words,
            folder=folder,
            environment={**shared, "RANK": rank, "LOCAL_RANK": rank},
            before=(before or {}).get(rank),
        )
        for rank in (range(world) if only is None else [only])
    ]


def _run(
    words: Sequence[str],
    folder: Path,
    output: Path,
    environment: Mapping[str, str],
    before: Callable[[], object] | None,
) -> None:
    with open(output, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["alexnet-dali", *words]
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started this, as nohup, may ignore it
    if before:
        before()
    from cli import main

    main(list(words))
