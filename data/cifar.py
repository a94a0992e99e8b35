"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from .cache import Arrays, cached
from .dataset import Dataset
from .downloads import check_labels, fetch, unreadable


def load_cifar10(root: Path, **_) -> Dataset:
    from torchvision.datasets import CIFAR10

    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return load(CIFAR10, "cifar10", root, "labels", "label_names", mean, deviation)


def load_cifar100(root: Path, **_) -> Dataset:
    from torchvision.datasets import CIFAR100

    mean, deviation = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return load(CIFAR100, "cifar100", root, "fine_labels", "fine_label_names", mean, deviation)


def load(cls, name: str, root: Path, labels: str, names: str, mean, deviation) -> Dataset:
    parts = {
        "train": [f"{cls.base_folder}/{file}" for file, _ in cls.train_list],
        "test": [f"{cls.base_folder}/{file}" for file, _ in cls.test_list],
    }
    meta = f"{cls.base_folder}/{cls.meta['filename']}"
    files = [*parts["train"], *parts["test"], meta]
    paths = fetch(root, name, files, lambda: cls(root, download=True))

    content = unpickle(root / meta)
    if not isinstance(content, dict) or names not in content:
        raise unreadable(root / meta, "CIFAR", KeyError(f"no {names} in it"))
    classes = tuple(content[names])

    def decode() -> Arrays:
        arrays = {}
        for part, batches in parts.items():
            read = [read_batch(root / batch, labels, len(classes)) for batch in batches]
            images, targets = zip(*read)
            arrays[f"{part}_images"] = np.concatenate(images)
            arrays[f"{part}_labels"] = np.concatenate(targets)
        return arrays

    arrays = cached(root, name, paths, decode)
    return Dataset(**arrays, classes=classes, mean=mean, deviation=deviation)


def read_batch(path: Path, labels: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    content = unpickle(path)
    try:
        images = np.asarray(content["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        targets = np.asarray(content[labels], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(path, "CIFAR", error) from error
    check_labels(path, "CIFAR", targets, len(images), classes)
    return images, targets


def unpickle(path: Path) -> dict:
    try:
        with open(path, "rb") as file:
            return pickle.load(file, encoding="latin1")
    except Exception as error:  # pickle raises nearly anything on damaged bytes
        raise unreadable(path, "CIFAR", error) from error
