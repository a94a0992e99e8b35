"""Ways to spend a training budget. To add one: one file here and one line below."""

from .bandits import UCB, EpsilonGreedy
from .base import Method, OptionError, Score, Selecting, Task, subset_size
from .batch import Batch
from .coreset import Coreset, RandomSubset
from .cvar import CVaR
from .divbs import DivBS
from .dro import HardnessWeighted
from .grad_norm import GradNorm
from .ies import IES
from .infobatch import InfoBatch
from .obftf import OBFTF
from .orderdp import OrderDP
from .rho_loss import RhoLoss
from .selective_backprop import SelectiveBackprop
from .seta import SeTa
from .subset import CSGD, PSGD, UnifSGD
from .topk import EntropyTopK, LossTopK, MarginTopK

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
    "seta": SeTa,
    "orderdp": OrderDP,
    "epsilon-greedy": EpsilonGreedy,
    "ucb": UCB,
    "ies": IES,
    "divbs": DivBS,
    "loss-topk": LossTopK,
    "entropy-topk": EntropyTopK,
    "margin-topk": MarginTopK,
}

__all__ = ["METHODS", "Batch", "Method", "OptionError", "Score", "Selecting", "Task", "subset_size"]
