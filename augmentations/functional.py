"""mixup, RICAP and CutMix as plain functions on a batch, for any training loop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .base import Augmentation
from .cutmix import CutMix
from .mixup import Mixup
from .ricap import RICAP


class MixedBatch(NamedTuple):
    """A batch of mixed images, and what to train and credit them with."""

    images: Tensor  # [b, channels, height, width] float32
    targets: Tensor  # [b, classes] float32 soft labels; each row sums to one
    owners: Tensor  # [b] int64 rows of the source that fills most of each image


def mixup(
    images: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.3,
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """lambda * x + (1 - lambda) * x[permuted], one lambda ~ Beta(alpha, alpha) (Zhang et al. 2018).

    Args:
        images: [b, channels, height, width] floats.
        targets: [b, classes] floats, one-hot or soft.
        alpha: both parameters of the Beta distribution, above 0.
        generator: source of all randomness, on the CPU; by default PyTorch's global one.

    Raises:
        ValueError: for targets that are not one row per image.
    """
    return mix(Mixup(alpha=alpha), images, targets, generator)


def ricap(
    images: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.3,
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """Four permutations of the batch, each cropped to one quadrant (Takahashi et al. 2019).

    Arguments and errors as for `mixup`.
    """
    return mix(RICAP(alpha=alpha), images, targets, generator)


def cutmix(
    images: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """A box of x[permuted] in x, at one place for the batch (Yun et al. 2019).

    Arguments and errors as for `mixup`.
    """
    return mix(CutMix(cutmix_alpha=alpha), images, targets, generator)


def mix(
    augmentation: Augmentation, images: Tensor, targets: Tensor, generator: torch.Generator | None
) -> MixedBatch:
    if targets.ndim != 2 or len(targets) != len(images):
        raise ValueError(
            f"targets {list(targets.shape)}: give [{len(images)}, classes], one-hot or soft, for "
            "example torch.nn.functional.one_hot(labels, classes).float()"
        )
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    mixed = augmentation.mix(images, np.random.default_rng(seed))
    return MixedBatch(mixed.images, mixed.blend(targets), mixed.owners())
