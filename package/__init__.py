"""Samplers and mixings of budgeted training, for any training loop.

HardnessWeightedSampler    each batch by the last known losses
PSGDSampler, CSGDSampler   each epoch by how often the network was wrong, or undecided
SelectiveBackpropSelector  which images of a scored batch are worth a step
cutmix, mixup, ricap       three ways of mixing a batch
per_image                  losses per pixel or voxel as one per image
"""

from .augmentations import MixedBatch, cutmix, mixup, ricap
from .methods import (
    CSGDSampler,
    HardnessWeightedSampler,
    PSGDSampler,
    SelectiveBackpropSelector,
    __version__,
    per_image,
)

__all__ = [
    "CSGDSampler",
    "HardnessWeightedSampler",
    "MixedBatch",
    "PSGDSampler",
    "SelectiveBackpropSelector",
    "__version__",
    "cutmix",
    "mixup",
    "per_image",
    "ricap",
]
