"""A machine that grants little: each limit is one line with exit status 1, and with more all goes on."""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from runs import train
from test_faults import fails

from cli.failures import explain
from pipeline.dataset import Dataset
from tools.commands import Command


@dataclass(frozen=True)
class Limit:
    """What is granted to a process that has started."""

    kind: int
    more: int  # than it has already

    def __call__(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        used = pages * resource.getpagesize() if self.kind == resource.RLIMIT_AS else 0
        resource.setrlimit(self.kind, (used + self.more, used + self.more))


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Limit(resource.RLIMIT_AS, 2**28), "out of memory: the limit of address space (ulimit -v) leaves "),
        (Limit(resource.RLIMIT_FSIZE, 1000), "File too large; what was saved before is kept"),
        (Limit(resource.RLIMIT_NOFILE, 12), "Too many open files"),
    ],
    ids=lambda value: str(getattr(value, "kind", "")),
)
def test_a_training(dataset: Dataset, tmp_path: Path, limit: Callable[[], None], said: str) -> None:
    words = train(dataset.root, tmp_path / "run", "--epochs", 1)
    assert said in fails(tmp_path, *words, before=limit)
    again = Command(*words, folder=tmp_path)
    assert again.wait() == 0, again.text


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Limit(resource.RLIMIT_FSIZE, 1000), "File too large; no finished shard is lost"),
        (Limit(resource.RLIMIT_NOFILE, 8), "Too many open files"),
    ],
    ids=lambda value: str(getattr(value, "kind", "")),
)
def test_prep(folders: Path, tmp_path: Path, limit: Callable[[], None], said: str) -> None:
    words = ("prep", "--imagenet-root", folders, "--out", tmp_path / "out", "--workers", 2)
    words += ("--max-rejected", 0.5)
    command = Command(*words, folder=tmp_path, before=limit)
    assert command.wait() == 1 and "Traceback" not in command.text, command.text
    assert command.text.splitlines()[-1].startswith("Error: ") and said in command.text, command.text
    again = Command(*words, folder=tmp_path)
    assert again.wait() == 0, again.text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("libdali_kernels.so: failed to map segment from shared object"), "out of memory"),
        (RuntimeError("could not create a primitive"), "out of memory"),
        (RuntimeError("can't start new thread"), "no more threads can be started"),
        (RuntimeError("Resource temporarily unavailable"), "no more threads can be started"),
    ],
)
def test_the_words_of_libraries(error: Exception, said: str) -> None:
    """As Python, torch and DALI 2.4 said them under such limits."""
    line = explain(error)
    assert line is not None and line.startswith(said) and str(error) in line
