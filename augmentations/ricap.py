"""RICAP: patch four images of a batch into one."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from .base import Augmentation, Mixed
from .mixup import ALPHA


class RICAP(Augmentation):
    """Four permutations of the batch, each cropped to one quadrant of the new images.

    Takahashi et al. 2019, "Data Augmentation using Random Image Cropping and Patching for Deep
    CNNs". The quadrants meet at (round(W * beta1), round(H * beta2)), beta ~ Beta(alpha, alpha),
    and each is cut at a random place; corner and places are drawn once per batch. The target
    weights are the quadrants' shares of the area.
    """

    def __init__(self, *, alpha: Annotated[float, ALPHA] = 0.3):
        self.alpha = alpha

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        b, _, height, width = images.shape
        split_x, split_y = (
            round(side * rng.beta(self.alpha, self.alpha)) for side in (width, height)
        )
        columns = [(0, split_x), (split_x, width)]
        rows = [(0, split_y), (split_y, height)]
        sources = torch.from_numpy(np.stack([rng.permutation(b) for _ in range(4)]))
        sources = sources.to(images.device, non_blocking=True)

        patched, shares = torch.empty_like(images), []
        quadrants = [(row, column) for row in rows for column in columns]
        for source, ((top, bottom), (left, right)) in zip(sources, quadrants):
            h, w = bottom - top, right - left
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            crop = images[:, :, y : y + h, x : x + w]
            patched[:, :, top:bottom, left:right] = crop.index_select(0, source)
            shares.append(h * w / (height * width))
        return Mixed(patched, sources, shares)
