"""Signals of a preempting machine: finish the step, write a checkpoint, then stop or continue."""

from __future__ import annotations

import signal
import threading
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """Notes SIGINT and SIGTERM as a wish to stop, SIGUSR1 as one for a checkpoint.

    The loop looks here between steps. A second SIGINT raises KeyboardInterrupt at once. Used as a
    context, it leaves the handlers of before behind it. Only a main thread gets signals.
    """

    def __init__(self):
        self.stop: signal.Signals | None = None
        self.checkpoint = False
        self.earlier: dict[signal.Signals, signal.Handlers] = {}
        if threading.current_thread() is threading.main_thread():
            self.earlier = {number: signal.signal(number, self.note) for number in HANDLED}

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.checkpoint = True
        elif number == signal.SIGINT and self.stop is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a third must not disturb the end
            raise KeyboardInterrupt
        else:
            self.stop = signal.Signals(number)
