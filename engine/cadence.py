"""Checkpoints due every so many epochs, steps or minutes."""

from __future__ import annotations

import re
import time


def passed(every: int, before: int, now: int) -> bool:
    """Return whether a multiple of `every` lies between two counts, of which some may be skipped.

    Under a budget of compute one step may end several epochs.
    """
    return now // every > before // every


class Cadence:
    """Parsed from the command line's text: `2` (epochs), `500steps` or `10minutes`."""

    def __init__(self, text: str):
        match = re.fullmatch(r"([1-9][0-9]{0,8}) *(?:(epoch|step|minute)s?)?", text.strip())
        if not match:
            raise ValueError(
                f"{text!r} is not a number of epochs, such as 2, nor like 500steps or 10minutes"
            )
        self.text, self.count, self.unit = text, int(match[1]), match[2] or "epoch"
        self.last = time.monotonic()

    def due(self, step: int, before: int, now: int) -> bool:
        """Return whether to write a checkpoint after a step, the `step`-th of the run.

        Args:
            before, now: budgeted epochs that were complete before it, and are after it.
        """
        if self.unit == "minute":
            if time.monotonic() - self.last < 60 * self.count:
                return False
            self.last = time.monotonic()
            return True
        return passed(self.count, *((step - 1, step) if self.unit == "step" else (before, now)))

    def __str__(self) -> str:
        return self.text
