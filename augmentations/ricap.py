"""RICAP: patch four images of a batch into one."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from torch import Tensor

from budgetbench.mixing import Mixed, ricap_images

from .base import Augmentation
from .mixup import ALPHA


class RICAP(Augmentation):
    """Four permutations of the batch, each cropped to one quadrant of the new images.

    Takahashi et al. 2019, "Data Augmentation using Random Image Cropping and Patching for Deep
    CNNs". Corner and places are drawn once per batch; targets are weighted by area.
    """

    def __init__(self, *, alpha: Annotated[float, ALPHA] = 0.3):
        self.alpha = alpha

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        return ricap_images(images, self.alpha, rng)
