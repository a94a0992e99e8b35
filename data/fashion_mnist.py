"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey images of 28x28."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from .cache import Arrays, cached
from .dataset import Dataset
from .downloads import check_labels, download, fetch, unreadable

RAW = "FashionMNIST/raw/"
PREFIXES = ("train", "t10k")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load(root: Path, **_) -> Dataset:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    files = [f"{RAW}{prefix}-{kind}" for prefix in PREFIXES for kind in kinds]
    paths = fetch(root, "fashion-mnist", files, partial(download, "FashionMNIST", root))

    def decode() -> Arrays:
        train_images, train_labels, test_images, test_labels = map(read, paths)
        check_labels(paths[1], "Fashion-MNIST", train_labels, len(train_images), 10)
        check_labels(paths[3], "Fashion-MNIST", test_labels, len(test_images), 10)
        return dict(
            train_images=train_images[:, None],
            train_labels=train_labels,
            test_images=test_images[:, None],
            test_labels=test_labels,
        )

    return Dataset(
        **cached(root, "fashion-mnist", paths, decode),
        classes=CLASSES,
        mean=(0.2860,),
        deviation=(0.3530,),
    )


def read(path: Path) -> np.ndarray:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    try:
        if "images" in path.name:
            return read_image_file(str(path)).numpy()
        return read_label_file(str(path)).numpy()
    except Exception as error:  # torchvision asserts, indexes and reshapes
        raise unreadable(path, "Fashion-MNIST", error) from error
