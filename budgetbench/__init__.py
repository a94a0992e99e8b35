"""Samplers, selection, mixing and scores of budgeted training, for any training loop.

HardnessWeightedSampler    each batch by the last known losses
PSGDSampler, CSGDSampler   each epoch by 1 - p(own class), or by how uncertain that is
SelectiveBackpropSelector  which images of a scored batch are worth a step
cvar_weights               counts only the worst losses of a batch
nearest_mean_subset        the part of a scored batch that has its mean loss
cutmix, mixup, ricap       three ways of mixing a batch, which give a MixedBatch
el2n, grand, entropy, margin,
distance_to_median         scores of images, from one forward pass
k_center                   an order of images in which any number of the first covers all
draw_without_replacement   k of N indices in proportion to weights
per_image                  losses per pixel or voxel as one per image
unreduced                  any loss of a batch as one per sample

`budgetbench.nnunet`, `.lightning`, `.transformers` and `.monai` are for these frameworks. All else
needs PyTorch and NumPy alone. The version is semantic: the names in `__all__`, their arguments and
what they return are public, and change incompatibly only with the first number of the version
(while that is 0, with the second). All else may change with any version, such as other names of the
modules and what is in a `state_dict`, which is to be loaded by the version that saved it. The same
seed gives the same draws within a version.
"""

from .covering import k_center
from .drawing import draw_without_replacement
from .hardness_weighted import HardnessWeightedSampler
from .mixing import MixedBatch, cutmix, mixup, ricap
from .sampler import per_image
from .scores import distance_to_median, el2n, entropy, grand, margin
from .selection import SelectiveBackpropSelector, cvar_weights, nearest_mean_subset
from .subset import CSGDSampler, PSGDSampler
from .unreduced import unreduced

__version__ = "0.2.0"

__all__ = [
    "CSGDSampler",
    "HardnessWeightedSampler",
    "MixedBatch",
    "PSGDSampler",
    "SelectiveBackpropSelector",
    "__version__",
    "cutmix",
    "cvar_weights",
    "distance_to_median",
    "draw_without_replacement",
    "el2n",
    "entropy",
    "grand",
    "k_center",
    "margin",
    "mixup",
    "nearest_mean_subset",
    "per_image",
    "ricap",
    "unreduced",
]
