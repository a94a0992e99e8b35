"""CutMix: paste a box of another image of the batch into each."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from torch import Tensor

from budgetbench.mixing import Mixed, cutmix_images

from .base import Augmentation


class CutMix(Augmentation):
    """One box of a permutation of the batch, at the same place in all images.

    Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features". Targets are weighted by the area of the box that lies inside of the image.

    Every batch is mixed, as the paper says; its published code leaves half of CIFAR's as they are.
    """

    def __init__(
        self,
        *,
        cutmix_alpha: Annotated[
            float,
            dict(
                above=0,
                help="cutmix: both parameters of the Beta distribution (Yun et al. 2019)",
            ),
        ] = 1.0,
    ):
        self.alpha = cutmix_alpha

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        return cutmix_images(images, self.alpha, rng)
