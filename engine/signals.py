"""Signals of a preempting machine: finish the step, write a checkpoint, then stop or go on."""

from __future__ import annotations

import signal
from types import FrameType


class Signals:
    """Notes SIGINT and SIGTERM as a wish to stop, SIGUSR1 as one for a checkpoint.

    The loop looks here between steps. A second SIGINT raises KeyboardInterrupt at once.
    """

    def __init__(self):
        self.stop: signal.Signals | None = None
        self.checkpoint = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.checkpoint = True
        elif number == signal.SIGINT and self.stop is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a third must not disturb the end
            raise KeyboardInterrupt
        else:
            self.stop = signal.Signals(number)
