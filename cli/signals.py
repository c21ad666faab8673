"""SIGTERM and SIGINT ask to stop: the work in hand is finished and saved. A second one ends at once.

Exit statuses of a training: 0 it is finished, 1 it failed, 128 + the signal that stopped it (SIGTERM: 143,
Ctrl-C: 130), 75 stopped by --stop-after. The last three go on with the same command.
"""

import math
import os
import signal
import time
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
OUT_OF_TIME = os.EX_TEMPFAIL  # 75: "try again later"
ONE = 1.0  # seconds in which a signal that comes twice is one: a batch system sends it, and so does torchrun


class StopWish:
    """Call it for the exit status with which to stop, or 0 to go on. A context manager.

    Signals end the process at once until it listens: there is nothing to save yet, and it may be waiting for
    processes that never come.
    """

    def __init__(self, minutes: float | None) -> None:
        self.deadline = time.monotonic() + 60 * (math.inf if minutes is None else minutes)
        self.number, self.received = 0, 0.0

    def __enter__(self) -> "StopWish":
        self.before = [signal.signal(number, signal.SIG_DFL) for number in SIGNALS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in zip(SIGNALS, self.before, strict=True):
            signal.signal(number, handler)

    def listen(self) -> None:
        """From now on a signal is a wish, and a second one an order."""
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def __call__(self) -> int:
        if self.number:
            return 128 + self.number
        return OUT_OF_TIME if time.monotonic() > self.deadline else 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() - self.received > ONE:
            os._exit(128 + number)
        if not self.number:
            self.number, self.received = number, time.monotonic()
