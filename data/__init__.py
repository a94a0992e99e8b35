"""Data sets. To add one: one file here with a `load` and one line below."""

from collections.abc import Callable

from . import cifar, digits, fashion_mnist, folder, mini_imagenet, svhn
from .corruption import long_tailed, with_label_noise
from .dataset import Dataset, class_balanced_subset, held_out, hold_out
from .rows import Rows

#: Each takes the data folder and, by keyword, data_seed and image_size.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits.load,
    "fashion-mnist": fashion_mnist.load,
    "cifar10": cifar.load_cifar10,
    "cifar100": cifar.load_cifar100,
    "svhn": svhn.load,
    "mini-imagenet": mini_imagenet.load,
    "folder": folder.load,
}

__all__ = [
    "DATASETS",
    "Dataset",
    "Rows",
    "class_balanced_subset",
    "held_out",
    "hold_out",
    "long_tailed",
    "with_label_noise",
]
