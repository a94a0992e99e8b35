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
    """One operation, `apply(images, amount)`, and its amounts at each magnitude."""

    apply: Callable[[Tensor, float], Tensor]
    amounts: Callable[[int, int], Tensor] = lambda height, width: torch.zeros(BINS)
    signed: bool = False  # whether a fair coin turns the amount's sign


def up_to(most: float) -> Callable[[int, int], Tensor]:
    return lambda height, width: torch.linspace(0, most, BINS)


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
    furthest = 150 / 331  # of a side
    return {
        "Identity": Operation(lambda x, _: x),
        "ShearX": Operation(lambda x, s: affine(x, shear=(s, 0), **corner), up_to(0.3), True),
        "ShearY": Operation(lambda x, s: affine(x, shear=(0, s), **corner), up_to(0.3), True),
        "TranslateX": Operation(
            lambda x, d: affine(x, move=(d, 0)), lambda h, w: up_to(furthest * w)(h, w), True
        ),
        "TranslateY": Operation(
            lambda x, d: affine(x, move=(0, d)), lambda h, w: up_to(furthest * h)(h, w), True
        ),
        "Rotate": Operation(F.rotate, up_to(30), True),
        "Brightness": Operation(lambda x, c: F.adjust_brightness(x, 1 + c), up_to(0.9), True),
        "Color": Operation(lambda x, c: F.adjust_saturation(x, 1 + c), up_to(0.9), True),
        "Contrast": Operation(lambda x, c: F.adjust_contrast(x, 1 + c), up_to(0.9), True),
        "Sharpness": Operation(lambda x, c: F.adjust_sharpness(x, 1 + c), up_to(0.9), True),
        "Posterize": Operation(
            lambda x, bits: F.posterize(x, int(bits)), lambda h, w: (8 - up_to(4)(h, w)).round()
        ),
        "Solarize": Operation(
            lambda x, t: F.solarize(x, 255 * t), lambda h, w: torch.linspace(1, 0, BINS)
        ),
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
        self.count, self.magnitude = randaugment_n, randaugment_m

    def transform(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        shape = (self.count, len(images))
        drawn = rng.integers(len(operations()), size=shape)
        negative = rng.random(shape) < 0.5
        for numbers, signs in zip(drawn, negative):
            images = self.apply(images, numbers, signs)
        return images

    def apply(self, images: Tensor, numbers: np.ndarray, negative: np.ndarray) -> Tensor:
        """Apply to each image its own operation: a position in `operations()` and a sign, [n]."""
        known = list(operations().values())
        signed = np.array([operation.signed for operation in known])
        kinds = 2 * numbers + (negative & signed[numbers])
        # Sorted by kind, so that groups are slices and results are put back all at once: a
        # gather and a scatter per group would cost as much as the operations.
        order = kinds.argsort(kind="stable")
        rows = torch.from_numpy(np.stack([order, order.argsort()]))
        order, back = rows.to(images.device, non_blocking=True)
        sizes = np.bincount(kinds, minlength=2 * len(known)).tolist()
        changed = []
        for kind, group in enumerate(images.index_select(0, order).split(sizes)):
            if len(group):
                operation, negated = known[kind // 2], kind % 2
                amount = float(operation.amounts(*images.shape[-2:])[self.magnitude])
                changed.append(operation.apply(group, -amount if negated else amount))
        return torch.cat(changed).index_select(0, back)
