"""Cutout: blank a square of each image."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from budgetbench.mixing import Mixed

from .base import Augmentation


class Cutout(Augmentation):
    """One square of each image set to zero after normalisation, that is, to the mean colour.

    DeVries & Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout".
    Its centre is uniform over the image's pixels and it is clipped at the border; all images are
    cut. Their 16 pixels for CIFAR-10 are half of its side, which is the default for any size.
    """

    def __init__(
        self,
        *,
        cutout_size: Annotated[
            int | None,
            dict(
                low=1,
                help="cutout: side of the square [pixels]; default: half of the images' shorter "
                "side, which is 16 for CIFAR (DeVries & Taylor 2017)",
            ),
        ] = None,
    ):
        self.size = cutout_size

    def check(self, height: int, width: int) -> None:
        shorter = min(height, width)
        if self.size is not None and self.size > shorter:
            raise ValueError(
                f"--cutout-size {self.size}: the images have {height}x{width} pixels; "
                f"give at most {shorter}"
            )

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        b, _, height, width = images.shape
        size = self.size or min(height, width) // 2
        rows, columns = (covered(side, size, b, rng) for side in (height, width))
        # One copy to the device, of both.
        there = torch.from_numpy(np.hstack([rows, columns])).to(images.device, non_blocking=True)
        rows, columns = there.split([height, width], dim=1)
        square = rows[:, None, :, None] & columns[:, None, None, :]
        # A product, because filling by a mask of fewer channels takes half as long again.
        return super().mix(images * ~square, rng)


def covered(side: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels along a side that lie in squares about random centres: bool [count, side]."""
    first = rng.integers(side, size=(count, 1)) - size // 2
    pixels = np.arange(side)
    return (first <= pixels) & (pixels < first + size)
