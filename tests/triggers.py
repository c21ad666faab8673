"""What is set into a command's process before it starts, so that things happen to it at a chosen moment."""

import ctypes
import itertools
import os
import pkgutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.errors import RunError


@dataclass(frozen=True)
class Trigger:
    """Before the `nth` call of `where` ("os:fsync", "model.step:Step.__call__"): `act`."""

    where: str
    nth: int
    act: Callable[[], object]

    def __call__(self) -> None:
        calls = 0

        def count(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == self.nth:
                self.act()

        before(self.where, count)


@dataclass(frozen=True)
class DieWriting:
    """SIGKILL when only half of a file of this name has reached the disk."""

    name: str

    def __call__(self) -> None:
        before("os:fsync", self.look)

    def look(self, descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name == self.name:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()


@dataclass(frozen=True)
class DieRenaming:
    """SIGKILL right before the first file takes this name."""

    name: str

    def __call__(self) -> None:
        before("os:replace", self.look)

    def look(self, old: Path, new: Path) -> None:
        if new.name == self.name:
            die()


def before(where: str, act: Callable[..., object]) -> None:
    """`act` with the arguments, before every call of `where`."""
    module, _, path = where.partition(":")
    owner_path, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(f"{module}:{owner_path}")
    original = getattr(owner, name)

    def caught(*arguments: Any, **named: Any) -> Any:
        act(*arguments)
        return original(*arguments, **named)

    setattr(owner, name, caught)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def nohup() -> None:
    """The connection is lost, of which nohup has this process hear nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Trigger("model.step:Step.__call__", 3, hang_up)()


def break_pipe() -> None:
    """Whoever reads what is printed has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def fill_log() -> None:
    """What is printed goes to a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def insist() -> None:
    """SIGTERM, and once more."""
    terminate()
    time.sleep(1.1)
    terminate()
    time.sleep(60)


def fail() -> None:
    raise RunError("what a user can mend")


@dataclass(frozen=True)
class Elsewhere:
    """This process is given other data."""

    data: Path

    def __call__(self) -> None:
        from cli.commands import train
        from cli.compose import trained
        from pipeline import dataset

        original = dataset.open_dataset
        train.open_dataset = trained.open_dataset = lambda root: original(self.data)


@dataclass(frozen=True)
class Hold:
    """Wait until there is such a file."""

    until: Path

    def __call__(self) -> None:
        while not self.until.exists():
            time.sleep(0.01)


@dataclass(frozen=True)
class Shrink:
    """Cut a file short."""

    path: Path

    def __call__(self) -> None:
        os.truncate(self.path, 100)


def exhaust() -> None:
    """More memory than there is."""
    torch.empty(2**50)


def exhaust_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def powerless() -> None:
    """Root loses the right to read and write what permissions forbid; another user never had it."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, none):
        raise OSError("capset")


def backwards() -> None:
    """From now on the clock loses a minute whenever someone looks."""
    now = itertools.count(time.time(), -60)
    time.time = lambda: next(now)
