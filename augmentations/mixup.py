"""mixup: blend each image with another one of its batch."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from .base import Augmentation, Mixed

ALPHA = dict(
    above=0,
    help="mixup, ricap: both parameters of the Beta distribution of shares; small values mix "
    "little (Arazo et al. 2021)",
)


class Mixup(Augmentation):
    """lambda * x + (1 - lambda) * x[permuted], one lambda ~ Beta(alpha, alpha) per batch.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """

    def __init__(self, *, alpha: Annotated[float, ALPHA] = 0.3):
        self.alpha = alpha

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        share = rng.beta(self.alpha, self.alpha)
        rows = np.arange(len(images))
        sources = torch.from_numpy(np.stack([rows, rng.permutation(rows)]))
        sources = sources.to(images.device, non_blocking=True)
        mixed = images[sources[1]].lerp_(images, share)
        return Mixed(mixed, sources, [share, 1 - share])
