"""TrivialAugment: one random operation on each image, at a random magnitude."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .base import Augmentation
from .operations import BINS, amounts_up_to, apply_each, operations


def ranges() -> dict[str, Tensor]:
    """Amounts of torchvision's TrivialAugmentWide."""
    return amounts_up_to(slope=0.99, across=32, down=32, degrees=135, colour=0.99, bits=6)


class TrivialAugment(Augmentation):
    """One operation per image and its magnitude, both uniform: nothing to tune.

    Müller & Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
    with its wide ranges. Operations, ranges, their 31 magnitudes and signs are those of
    torchvision's TrivialAugmentWide. Images are moved by up to 32 pixels whatever their size, as
    there, so that little or nothing remains of some small ones.
    """

    ahead = 16  # batches that share the cost of each operation

    def __init__(self):
        operations()

    def transform(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        numbers = rng.integers(len(operations()), size=len(images))
        levels = rng.integers(BINS, size=len(images))
        negative = rng.random(len(images)) < 0.5
        return apply_each(images, numbers, levels, negative, ranges())
