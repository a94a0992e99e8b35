"""Ways to spend a training budget. To add one: one file here and one line below."""

from .base import Method, OptionError, Selecting, Task
from .batch import Batch
from .coreset import Coreset, RandomSubset
from .cvar import CVaR
from .dro import HardnessWeighted
from .grad_norm import GradNorm
from .infobatch import InfoBatch
from .obftf import OBFTF
from .rho_loss import RhoLoss
from .selective_backprop import SelectiveBackprop
from .subset import CSGD, PSGD, UnifSGD

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

__all__ = ["METHODS", "Batch", "Method", "OptionError", "Selecting", "Task"]
