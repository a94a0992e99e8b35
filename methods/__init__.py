"""Ways to spend a training budget. To add one: one file here and one line below."""

from .base import Method, OptionError, Selecting, Task, subset_size
from .batch import Batch
from .coreset import Coreset, RandomSubset
from .cvar import CVaR, cvar_weights
from .dro import HardnessWeighted, HardnessWeightedSampler
from .grad_norm import GradNorm
from .infobatch import InfoBatch
from .obftf import OBFTF, nearest_mean_subset
from .rho_loss import RhoLoss
from .sampler import per_image
from .selective_backprop import SelectiveBackprop, SelectiveBackpropSelector
from .subset import CSGD, PSGD, CSGDSampler, PSGDSampler, UnifSGD

__version__ = "0.1.0"

METHODS: dict[str, type[Method]] = {
    "SGD": Method,
    "unif-SGD": UnifSGD,
    "p-SGD": PSGD,
    "c-SGD": CSGD,
    "selective-backprop": SelectiveBackprop,
    "dro": HardnessWeighted,
    "random-subset": RandomSubset,
    "coreset": Coreset,
    "rho-loss": RhoLoss,
    "infobatch": InfoBatch,
    "grad-norm": GradNorm,
    "obftf": OBFTF,
    "cvar": CVaR,
}

__all__ = [
    "METHODS",
    "Batch",
    "CSGDSampler",
    "HardnessWeightedSampler",
    "Method",
    "OptionError",
    "PSGDSampler",
    "Selecting",
    "SelectiveBackpropSelector",
    "Task",
    "cvar_weights",
    "nearest_mean_subset",
    "per_image",
    "subset_size",
]
