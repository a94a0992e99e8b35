"""The interface of an augmentation. The base class is the standard one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mixed(NamedTuple):
    """Images made of K rows of a batch each, and what they are made of; by default of their own."""

    images: Tensor  # [b, channels, height, width] float32
    sources: Tensor | None = None  # [K, b] int64 rows of the batch that image j is made of
    shares: Sequence[float] = (1.0,)  # K weights that sum to one, the same for every image

    def owners(self) -> Tensor:
        """Rows [b] of the sources with the largest share, to which each image belongs."""
        if self.sources is None:
            return torch.arange(len(self.images), device=self.images.device)
        return self.sources[self.shares.index(max(self.shares))]

    def blend(self, targets: Tensor) -> Tensor:
        """Soft labels [b, classes] of the mixed images from those of the batch, alike."""
        if self.sources is None:
            return targets
        # index_select, because indexing with [] costs several times as much.
        return sum(
            share * targets.index_select(0, source)
            for source, share in zip(self.sources, self.shares)
        )


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
