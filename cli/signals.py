"""Handle SIGTERM, SIGINT and SIGHUP: the first asks to stop and keeps what is done, the next ends it.

Exit statuses of a training: 0 it is finished, 1 it failed, 128 + the signal that stopped it (SIGTERM: 143,
Ctrl-C: 130, SIGHUP: 129), 75 stopped by --stop-after. After these four the same command resumes.
"""

import errno
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cli.display import clear_line, hush, say

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
OUT_OF_TIME = os.EX_TEMPFAIL  # 75: "try again later"
ONE = 1.0  # seconds within which two signals count as one: a batch system and torchrun both send it

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


@contextmanager
def handled(handler: Handler) -> Iterator[Callable[[Handler], None]]:
    """Give the signals a handler in the block, which may change it by calling what it is given.

    SIGHUP stays ignored where it was, as nohup has it.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]

    def change(handler: Handler) -> None:
        for number in before:
            signal.signal(number, handler)

    change(handler)
    try:
        yield change
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def leave(number: int, frame: FrameType | None) -> None:
    """Leave at a signal, and let what is half written be removed on the way out."""
    clear_line()
    raise SystemExit(128 + number)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """End the block at a signal, with a line; for work that is kept piece by piece as it is done."""
    stop = StopRequest(None)

    def end(number: int, frame: FrameType | None) -> None:
        again = stop()
        stop.receive(number, frame)
        if not again:
            raise SystemExit(stop())

    with handled(end):
        try:
            yield
        finally:
            if stop.number:
                clear_line()
                name = signal.Signals(stop.number).name
                say(f"stopped by {name}; the same command resumes here", err=True)


class StopRequest:
    """Note requests to stop: call it for the exit status with which to stop, or 0 to go on."""

    def __init__(self, minutes: float | None) -> None:
        self.deadline = time.monotonic() + 60 * (math.inf if minutes is None else minutes)
        self.number, self.received = 0, 0.0

    def __call__(self) -> int:
        if self.number:
            return 128 + self.number
        return OUT_OF_TIME if time.monotonic() > self.deadline else 0

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal. The first one is a wish, and a second one an order."""
        if self.number and time.monotonic() - self.received > ONE:
            clear_line()
            os._exit(128 + number)
        if not self.number:
            self.number, self.received = number, time.monotonic()
            hush()

    def unbroken(self, tell: Callable[..., None]) -> Callable[..., None]:
        """Let `tell` survive a lost output; a pipe that has lost its reader is a wish to stop."""

        def told(*values: Any) -> None:
            try:
                tell(*values)
            except OSError as error:
                hush(every=True)
                if error.errno == errno.EPIPE:
                    self.receive(signal.SIGPIPE)

        return told
