"""Samplers and mixings of budgeted training, for any training loop.

HardnessWeightedSampler    each batch by the last known losses
PSGDSampler, CSGDSampler   each epoch by how often the network was wrong, or undecided
SelectiveBackpropSelector  which images of a scored batch are worth a step
cvar_weights               counts only the worst losses of a batch
nearest_mean_subset        the part of a scored batch that has its mean loss
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
    cvar_weights,
    nearest_mean_subset,
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
    "cvar_weights",
    "mixup",
    "nearest_mean_subset",
    "per_image",
    "ricap",
]
