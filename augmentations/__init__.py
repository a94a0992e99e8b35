"""Augmentations. To add one: one file here and one line below."""

from .base import Augmentation, Mixed
from .functional import MixedBatch, mixup, ricap
from .mixup import Mixup
from .randaugment import RandAugment
from .ricap import RICAP

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "standard": Augmentation,
    "mixup": Mixup,
    "ricap": RICAP,
    "randaugment": RandAugment,
}

__all__ = [
    "AUGMENTATIONS",
    "RICAP",
    "Augmentation",
    "Mixed",
    "MixedBatch",
    "Mixup",
    "RandAugment",
    "mixup",
    "ricap",
]
