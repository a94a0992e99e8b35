"""The interface of an augmentation. The base class is the standard one."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from budgetbench.mixing import Mixed


class Augmentation:
    """`standard`: random crop and flip alone; override what differs.

    Randomness comes from the NumPy generators given, on the host: a few numbers per image, so
    that a device has the same draws as a CPU and is never waited for.

    Options are the keyword arguments of the constructor, as for a method.
    """

    #: Batches that are transformed and cropped at once where the draws are known that far ahead: as
    #: many as fit a CPU's cache. One alone is, to a large part, the cost of starting operations.
    ahead = 4

    def check(self, height: int, width: int) -> None:
        """Raise a ValueError, of one line for the user, if images so large [pixels] don't fit."""

    def transform(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Change uint8 images [n, c, h, w], each in its own way, before the crop and flip.

        They may be of several batches: `rng` has `random` and `integers`, with a `size` whose last
        axis is the images.
        """
        return images

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        """Mix or change float32 images [b, c, h, w] of one batch, after all else."""
        return Mixed(images)
