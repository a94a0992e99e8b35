"""mixup: blend each image with another one of its batch."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from torch import Tensor

from budgetbench.mixing import Mixed, mixup_images

from .base import Augmentation

ALPHA = dict(
    above=0,
    help="mixup, ricap: both parameters of the Beta distribution; small values mix "
    "little (Arazo et al. 2021)",
)


class Mixup(Augmentation):
    """lambda * x + (1 - lambda) * x[permuted], one lambda ~ Beta(alpha, alpha) per batch.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """

    def __init__(self, *, alpha: Annotated[float, ALPHA] = 0.3):
        self.alpha = alpha

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        return mixup_images(images, self.alpha, rng)
