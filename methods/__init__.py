"""Ways to spend a training budget. To add one: one file here and one line below."""

from .base import Method, Task
from .batch import Batch
from .dro import HardnessWeighted
from .selective_backprop import SelectiveBackprop
from .subset import CSGD, PSGD, UnifSGD

METHODS: dict[str, type[Method]] = {
    "SGD": Method,
    "unif-SGD": UnifSGD,
    "p-SGD": PSGD,
    "c-SGD": CSGD,
    "selective-backprop": SelectiveBackprop,
    "dro": HardnessWeighted,
}

__all__ = ["METHODS", "Batch", "Method", "Task"]
