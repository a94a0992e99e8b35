"""CutMix: paste a box of another image of the batch into each."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from .base import Augmentation, Mixed


class CutMix(Augmentation):
    """One box of a permutation of the batch, at the same place in all images.

    Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features". The box is the image's shape scaled by sqrt(1 - lambda), lambda ~ Beta(alpha,
    alpha), about a pixel drawn uniformly; what sticks out is cut off, and the target weights are
    the shares of the area that remain. One lambda and one box per batch.

    Every batch is mixed, as the paper says; its published code leaves half of CIFAR's as they are.
    """

    def __init__(
        self,
        *,
        cutmix_alpha: Annotated[
            float,
            dict(
                above=0,
                help="cutmix: both parameters of the Beta distribution of shares (Yun et al. 2019)",
            ),
        ] = 1.0,
    ):
        self.alpha = cutmix_alpha

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        b, _, height, width = images.shape
        scale = math.sqrt(1 - rng.beta(self.alpha, self.alpha))
        (top, bottom), (left, right) = (clipped(side, scale, rng) for side in (height, width))
        sources = torch.from_numpy(np.stack([np.arange(b), rng.permutation(b)]))
        sources = sources.to(images.device, non_blocking=True)
        mixed = images.clone()
        box = images[:, :, top:bottom, left:right]
        mixed[:, :, top:bottom, left:right] = box.index_select(0, sources[1])
        share = (bottom - top) * (right - left) / (height * width)
        return Mixed(mixed, sources, [1 - share, share])


def clipped(side: int, scale: float, rng: np.random.Generator) -> tuple[int, int]:
    """First pixel of a box and the one behind its last, along a side of so many pixels."""
    centre, half = int(rng.integers(side)), int(side * scale / 2)
    return max(centre - half, 0), min(centre + half, side)
