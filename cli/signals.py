"""SIGTERM and SIGINT ask to stop: the work in hand is finished and saved. A second one ends at once."""

import os
import signal
from types import FrameType


class StopSignal:
    """Call it to ask whether a stop was wished for."""

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        return self.number != 0

    @property
    def status(self) -> int:
        """The exit status that says which signal it was."""
        return 128 + self.number

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number
