"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey images of 28x28."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from .cache import Arrays, cached
from .dataset import Dataset, parts_of
from .downloads import check_images, check_labels, download, fetch, unreadable

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
        arrays: Arrays = {}
        for part, (file, labelled) in (("train", paths[:2]), ("test", paths[2:])):
            images = check_images(file, "Fashion-MNIST", read(file)[:, None], (1, 28, 28))
            labels = check_labels(labelled, "Fashion-MNIST", read(labelled), len(images), 10)
            arrays |= {f"{part}_images": images, f"{part}_labels": labels}
        return arrays

    arrays, sha256 = cached(root, "fashion-mnist", paths, decode)
    return Dataset(
        **parts_of(arrays),
        classes=CLASSES,
        mean=(0.2860,),
        std=(0.3530,),
        sha256=sha256,
    )


def read(path: Path) -> np.ndarray:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    try:
        if "images" in path.name:
            return read_image_file(str(path)).numpy()
        return read_label_file(str(path)).numpy()
    except Exception as error:  # torchvision asserts, indexes and reshapes
        raise unreadable(path, "Fashion-MNIST", error) from error
