"""RandAugment: a few random operations on each image, all at one magnitude."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from torch import Tensor

from .base import Augmentation
from .operations import BINS, amounts_up_to, apply_each, operations


def ranges(height: int, width: int) -> dict[str, Tensor]:
    """Amounts of torchvision's RandAugment for images of that size [pixels]."""
    furthest = 150 / 331  # of a side
    return amounts_up_to(
        slope=0.3, across=furthest * width, down=furthest * height, degrees=30, colour=0.9, bits=4
    )


class RandAugment(Augmentation):
    """N operations per image, drawn with replacement, at magnitude M of 30.

    Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search
    space". Operations, ranges and signs are torchvision's; the published study's own list
    posterizes to one bit at M = 4 and is not taken.

    Images that drew the same operation are changed together; `ahead` lets several batches share
    that, because the cost is per operation more than per image.
    """

    ahead = 16

    def __init__(
        self,
        *,
        randaugment_n: Annotated[
            int,
            dict(low=1, high=100, help="randaugment: operations per image (Arazo et al. 2021)"),
        ] = 2,
        randaugment_m: Annotated[
            int,
            dict(
                low=0,
                high=BINS - 1,
                help="randaugment: magnitude of every operation, on torchvision's scale of 0 to "
                "30 (Arazo et al. 2021)",
            ),
        ] = 4,
    ):
        self.count, self.magnitude = randaugment_n, randaugment_m
        operations()

    def transform(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        shape = (self.count, len(images))
        drawn = rng.integers(len(operations()), size=shape)
        negative = rng.random(shape) < 0.5
        amounts = ranges(*images.shape[-2:])
        for numbers, signs in zip(drawn, negative):
            images = apply_each(images, numbers, self.magnitude, signs, amounts)
        return images
