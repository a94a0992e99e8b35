"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .cache import Arrays, cached
from .dataset import Dataset, parts_of
from .downloads import check_images, check_labels, download, fetch, unreadable


class Files(NamedTuple):
    """Place of a data set, and the names of the content in its files."""

    source: str  # in torchvision.datasets
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str


CIFAR10 = Files(
    "CIFAR10",
    "cifar-10-batches-py",
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    ("test_batch",),
    "batches.meta",
    "labels",
    "label_names",
)
CIFAR100 = Files(
    "CIFAR100", "cifar-100-python", ("train",), ("test",), "meta", "fine_labels", "fine_label_names"
)


def load_cifar10(root: Path, **_) -> Dataset:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return load(root, "cifar10", CIFAR10, mean, std)


def load_cifar100(root: Path, **_) -> Dataset:
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return load(root, "cifar100", CIFAR100, mean, std)


def load(root: Path, name: str, files: Files, mean, std) -> Dataset:
    parts = {
        part: [f"{files.folder}/{batch}" for batch in batches]
        for part, batches in (("train", files.train), ("test", files.test))
    }
    meta = f"{files.folder}/{files.meta}"
    get = partial(download, files.source, root)
    paths = fetch(root, name, [*parts["train"], *parts["test"], meta], get)

    content = unpickle(root / meta)
    names = content.get(files.names) if isinstance(content, dict) else None
    if not names or not isinstance(names, list):
        raise unreadable(root / meta, "CIFAR", KeyError(f"no {files.names} in it"))
    classes = tuple(map(str, names))

    def decode() -> Arrays:
        arrays: Arrays = {}
        for part, batches in parts.items():
            read = [read_batch(root / batch, files.labels, len(classes)) for batch in batches]
            images, targets = zip(*read)
            arrays[f"{part}_images"] = np.concatenate(images)
            arrays[f"{part}_labels"] = np.concatenate(targets)
        return arrays

    arrays, sha256 = cached(root, name, paths, decode)
    return Dataset(**parts_of(arrays), classes=classes, mean=mean, std=std, sha256=sha256)


def read_batch(path: Path, labels: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    content = unpickle(path)
    try:
        images, targets = np.asarray(content["data"]), np.asarray(content[labels])
        images = check_images(path, "CIFAR", images, (3, 32, 32))
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(path, "CIFAR", error) from error
    return images, check_labels(path, "CIFAR", targets, len(images), classes)


def latin1(text: str, encoding: str) -> bytes:
    """Encode text, as which Python 3 writes bytes in the pickles of Python 2."""
    return text.encode("latin1")


_core: Any = np._core  # type: ignore[attr-defined]  # NumPy's own pickles name its parts
#: All that a pickle may call: what makes arrays, numbers of NumPy's and bytes.
CALLS = {
    "_codecs.encode": latin1,
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    "numpy._core.multiarray._reconstruct": _core.multiarray._reconstruct,
    "numpy._core.multiarray.scalar": _core.multiarray.scalar,
    "numpy._core.numeric._frombuffer": _core.numeric._frombuffer,
}


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, texts, numbers and arrays; runs no code that a file names."""

    def find_class(self, module: str, name: str) -> Callable:
        module = module.replace("numpy.core.", "numpy._core.")  # as NumPy 1 called it
        try:
            return CALLS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(
                f"calls {module}.{name}, and code of a file is not run"
            ) from None


def unpickle(path: Path) -> dict:
    try:
        with open(path, "rb") as file:
            return PlainUnpickler(file, encoding="latin1").load()
    except Exception as error:  # pickle raises nearly anything on damaged bytes
        raise unreadable(path, "CIFAR", error) from error
