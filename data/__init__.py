"""Data sets. To add one: one file here with a `load` and one line below."""

from collections.abc import Callable
from dataclasses import dataclass

from . import (
    cifar,
    digits,
    fashion_mnist,
    folder,
    hugging_face,
    mini_imagenet,
    npz,
    svhn,
    torchvision_sets,
)
from .corruption import long_tailed, with_label_noise
from .dataset import Dataset, check_dataset, class_balanced_subset, held_out, hold_out
from .packed import PackedRows
from .rows import Rows
from .tables import grouped, relabelled, with_classes


@dataclass(frozen=True)
class Source:
    """An entry of the registry: how to load a data set, and what a run takes by default.

    Without a network or a number of epochs of its own, it is trained as in the published study.
    """

    load: Callable[..., Dataset]  # of the data folder and, by keyword, data_seed and image_size
    model: str | None = None
    epochs: int | None = None
    resizes: bool = False  # whether image_size may be given
    argument: str | None = None  # what follows its name and a colon, as `load` takes it by `name`


DATASETS: dict[str, Source] = {
    "digits": Source(digits.load, model="resnet10-w16", epochs=50),
    "fashion-mnist": Source(fashion_mnist.load),
    "cifar10": Source(cifar.load_cifar10),
    "cifar100": Source(cifar.load_cifar100),
    "svhn": Source(svhn.load),
    "mini-imagenet": Source(mini_imagenet.load, resizes=True),
    "folder": Source(folder.load, resizes=True),
    "npz": Source(npz.load, argument="FILE"),
    "torchvision": Source(torchvision_sets.load, resizes=True, argument="NAME"),
    "hf": Source(hugging_face.load, resizes=True, argument="NAME_OR_FOLDER"),
}

__all__ = [
    "DATASETS",
    "Dataset",
    "PackedRows",
    "Rows",
    "Source",
    "check_dataset",
    "class_balanced_subset",
    "grouped",
    "held_out",
    "hold_out",
    "long_tailed",
    "relabelled",
    "with_classes",
    "with_label_noise",
]
