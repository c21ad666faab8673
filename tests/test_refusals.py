"""The disk refuses each call that changes something, one after the other: a line, and nothing is lost."""

import builtins
import errno
import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_checkpoint import CONTENT
from test_links import work
from test_prep import files

import pipeline.prep.prepare
from model import checkpoint
from model.errors import RunError
from model.run import read_metrics
from pipeline import atomic
from pipeline.errors import DataError
from pipeline.prep.prepare import prepare
from pipeline.source.find import find_source

CALLS = ("open", "mkdir", "rmdir", "unlink", "replace", "rename", "link", "fsync", "fchmod", "truncate")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says at once that all is on it: the real one is waited for some thousand times."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Refusals:
    """Counts the calls, and refuses the one of this number."""

    def __init__(self, number: int) -> None:
        self.number, self.count = number, 0

    def look(self, *names: object) -> None:
        self.count += 1
        if (
            self.count == self.number
        ):  # of a path the system's own errors tell the name, of a number they do not
            paths = [str(name) for name in names[:1] if isinstance(name, str | Path)]
            raise OSError(errno.EIO, os.strerror(errno.EIO), *paths)


@contextmanager
def refused(number: int) -> Iterator[Refusals]:
    """Python's ways to the system, in this process."""
    refusals = Refusals(number)

    class Raw(io.FileIO):
        def __init__(self, file: Any, mode: str, *, opener: Any = None) -> None:
            refusals.look(file)
            super().__init__(file, mode, opener=opener)

        def write(self, data: Any) -> int:
            refusals.look()
            return super().write(data)

    def first(call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*arguments: Any, **options: Any) -> Any:
            refusals.look(*arguments)
            return call(*arguments, **options)

        return checked

    def opened(file: Any, mode: str = "r", *arguments: Any, opener: Any = None, **options: Any) -> Any:
        if mode == "ab":
            return io.BufferedWriter(Raw(file, mode, opener=opener))
        assert not set(mode) & set("wxa+"), f"{file} is not written by pipeline.atomic"
        return original(file, mode, *arguments, opener=opener, **options)

    original = open
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, first(getattr(os, name)))
        patch.setattr(fcntl, "flock", first(fcntl.flock))
        patch.setattr(builtins, "open", opened)
        atomic._File.__bases__ = (Raw,)
        try:
            yield refusals
        finally:
            atomic._File.__bases__ = (io.FileIO,)


def sweep(act: Callable[[Path], object], check: Callable[[Path], object], folder: Path) -> int:
    """Refuse each call in turn, then do it again undisturbed. How many calls there are."""
    number = 0
    while True:
        number += 1
        with refused(number) as refusals:
            try:
                act(folder)
            except (DataError, RunError) as error:
                assert str(folder.parent) in str(error) and "Input/output error" in str(error)
                assert refusals.count >= number
        if refusals.count < number:
            return number - 1
        act(folder)
        check(folder)
        assert not list(folder.rglob("*.tmp"))
        shutil.rmtree(folder)


def one_by_one(function: Callable[[Any], Any], tasks: Iterable[Any], workers: int) -> Iterator[Any]:
    """As run_tasks, in this process."""
    return ((task, function(task)) for task in tasks)


def test_prep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.prep.prepare, "run_tasks", one_by_one)
    for name in ("train/a/1.png", "val/a/2.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), len(path.name)).save(path)
    source = find_source(tmp_path / "root")
    undisturbed = files(prepare(source, tmp_path / "undisturbed", max_rejected=1).root)

    def make(out: Path) -> None:
        prepare(source, out, max_rejected=1)

    def check(out: Path) -> None:
        if (out / ".work").exists():  # what could not be removed is removed now
            make(out)
        assert files(out) == undisturbed

    assert sweep(make, check, tmp_path / "out") > 80


def test_a_run(tmp_path: Path) -> None:
    """A second start of it, so that there is something to lose."""
    folder = tmp_path / "run"

    def start(run: Path) -> None:
        if not (run / "last.pt").exists():
            work(run)
        saved = checkpoint.latest(run, pytest.fail)
        assert saved is not None and saved["step"] == CONTENT["step"]
        work(run)

    def check(run: Path) -> None:
        assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1]
        for name in ("last.pt", "previous.pt", "best.pt"):
            assert checkpoint.read(run / name)["step"] == CONTENT["step"]

    assert sweep(start, check, folder) > 80
