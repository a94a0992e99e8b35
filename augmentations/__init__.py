"""Augmentations. To add one: one file here and one line below."""

from .base import Augmentation
from .cutmix import CutMix
from .cutout import Cutout
from .mixup import Mixup
from .randaugment import RandAugment
from .ricap import RICAP
from .trivialaugment import TrivialAugment

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "standard": Augmentation,
    "mixup": Mixup,
    "ricap": RICAP,
    "cutmix": CutMix,
    "cutout": Cutout,
    "randaugment": RandAugment,
    "trivialaugment": TrivialAugment,
}

__all__ = [
    "AUGMENTATIONS",
    "RICAP",
    "Augmentation",
    "CutMix",
    "Cutout",
    "Mixup",
    "RandAugment",
    "TrivialAugment",
]
