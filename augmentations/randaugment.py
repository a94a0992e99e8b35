"""RandAugment: a few random operations on each image, all at one magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .base import Augmentation

BINS = 31  # magnitudes 0..30 (torchvision.transforms.v2.RandAugment)


class Operation(NamedTuple):
    """One operation, `apply(images, amount)`, and its amount at full magnitude."""

    apply: Callable[[Tensor, float], Tensor]
    amount: Callable[[float, int, int], float] = lambda m, height, width: 0.0  # m in [0, 1]
    signed: bool = False  # whether a fair coin turns the amount's sign


def up_to(most: float) -> Callable[[float, int, int], float]:
    return lambda m, height, width: most * m


@cache
def operations() -> dict[str, Operation]:
    """The operations, ranges and signs of torchvision.transforms.v2.RandAugment."""
    # Imported here because it takes over a second, which other augmentations need not pay.
    from torchvision.transforms.v2 import functional as F

    def affine(images: Tensor, shear=(0.0, 0.0), move=(0.0, 0.0), **options) -> Tensor:
        degrees = [math.degrees(math.atan(slope)) for slope in shear]
        pixels = [int(distance) for distance in move]
        return F.affine(images, angle=0, translate=pixels, scale=1, shear=degrees, **options)

    corner = dict(center=[0, 0])
    return {
        "Identity": Operation(lambda x, _: x),
        "ShearX": Operation(lambda x, s: affine(x, shear=(s, 0), **corner), up_to(0.3), True),
        "ShearY": Operation(lambda x, s: affine(x, shear=(0, s), **corner), up_to(0.3), True),
        "TranslateX": Operation(
            lambda x, d: affine(x, move=(d, 0)), lambda m, h, w: 150 / 331 * w * m, True
        ),
        "TranslateY": Operation(
            lambda x, d: affine(x, move=(0, d)), lambda m, h, w: 150 / 331 * h * m, True
        ),
        "Rotate": Operation(F.rotate, up_to(30), True),
        "Brightness": Operation(lambda x, c: F.adjust_brightness(x, 1 + c), up_to(0.9), True),
        "Color": Operation(lambda x, c: F.adjust_saturation(x, 1 + c), up_to(0.9), True),
        "Contrast": Operation(lambda x, c: F.adjust_contrast(x, 1 + c), up_to(0.9), True),
        "Sharpness": Operation(lambda x, c: F.adjust_sharpness(x, 1 + c), up_to(0.9), True),
        "Posterize": Operation(
            lambda x, b: F.posterize(x, int(b)), lambda m, h, w: round(8 - 4 * m)
        ),
        "Solarize": Operation(F.solarize, lambda m, h, w: 255 * (1 - m)),
        "AutoContrast": Operation(lambda x, _: F.autocontrast(x)),
        "Equalize": Operation(lambda x, _: F.equalize(x)),
    }


class RandAugment(Augmentation):
    """N operations per image, drawn with replacement, at magnitude M of 30.

    Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search
    space". Operations, ranges and signs are torchvision's; the published study's own list
    posterizes to one bit at M = 4 and is not taken.

    Images that drew the same operation (and sign) are changed together; `ahead` lets several
    batches share that, because the cost is per operation more than per image.
    """

    ahead = 16

    def __init__(
        self,
        *,
        randaugment_n: Annotated[
            int,
            dict(low=0, high=100, help="randaugment: operations per image (Arazo et al. 2021)"),
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
        self.count, self.magnitude = randaugment_n, randaugment_m / (BINS - 1)

    def transform(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        shape = (self.count, len(images))
        drawn = rng.integers(len(operations()), size=shape)
        negative = rng.random(shape) < 0.5
        for numbers, signs in zip(drawn, negative):
            images = self.apply(images, numbers, signs)
        return images

    def apply(self, images: Tensor, numbers: np.ndarray, negative: np.ndarray) -> Tensor:
        """Apply to each image its own operation: a position in `operations()` and a sign, [n]."""
        changed = torch.empty_like(images)
        for number, operation in enumerate(operations().values()):
            amount = operation.amount(self.magnitude, *images.shape[-2:])
            mine = numbers == number
            groups = [(amount, mine)]
            if operation.signed:
                groups = [(amount, mine & ~negative), (-amount, mine & negative)]
            for signed_amount, group in groups:
                rows = torch.from_numpy(group.nonzero()[0]).to(images.device, non_blocking=True)
                if len(rows):
                    changed[rows] = operation.apply(images.index_select(0, rows), signed_amount)
        return changed
