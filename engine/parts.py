"""Forward passes without gradient, in parts that fit the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")

#: Values of an input that are forwarded at once where no gradient is wanted. On a CPU more fall out
#: of its caches, which takes twice as long; a GPU would idle with as few.
FORWARD_VALUES = {"cpu": 400_000, "cuda": 16_000_000}


class Parts:
    """Cuts batches in parts: FORWARD_VALUES each, or what has turned out to fit in memory.

    A wide network may not have the memory for 5,000 images even where it trains on 128 at a time.
    What fits is found out once, and then holds for all later batches. Only the grouping of images
    depends on it, so results differ in their last digits at most.

    Args:
        device: that the network is on.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.fitting = math.inf  # values that fit, as far as known

    def at_once(self, shape: Sequence[int]) -> int:
        """Return how many images of a shape (c, h, w) make a part, at least 1."""
        most = min(FORWARD_VALUES[self.device.type], self.fitting)
        return max(1, int(most // math.prod(shape)))

    def over(
        self, start: int, stop: int, shape: Sequence[int], forward: Callable[[int, int], T]
    ) -> Iterator[T]:
        """Results of `forward(first, last)` for ranges of images that make up start to stop.

        A range that does not fit is tried again with half of its images.

        Args:
            start, stop: numbers of the first image and of the one after the last.
            shape: (c, h, w) of an image.
            forward: what to do with each range, without gradient; it has no effects of its own.

        Raises:
            torch.OutOfMemoryError: for a single image that does not fit.
        """
        while start < stop:
            size = min(self.at_once(shape), stop - start)
            try:
                result = forward(start, start + size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                # Tried again outside of this block, within which the error holds on to its tensors.
                self.fitting = size // 2 * math.prod(shape)
                continue
            yield result
            start += size
