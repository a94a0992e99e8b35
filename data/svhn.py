"""SVHN (Netzer et al. 2011): 73,257 + 26,032 colour digits of 32x32; never mirrored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .cache import Arrays, cached
from .dataset import Dataset
from .downloads import check_labels, download, fetch, unreadable


def load(root: Path, **_) -> Dataset:
    parts = {part: f"{part}_32x32.mat" for part in ("train", "test")}

    def get() -> None:
        for part in parts:
            download("SVHN", root, split=part)

    paths = fetch(root, "svhn", list(parts.values()), get)

    def decode() -> Arrays:
        arrays = {}
        for part, path in zip(parts, paths):
            arrays[f"{part}_images"], arrays[f"{part}_labels"] = read(path)
        return arrays

    return Dataset(
        **cached(root, "svhn", paths, decode),
        classes=tuple("0123456789"),
        mean=(0.5, 0.5, 0.5),
        deviation=(0.5, 0.5, 0.5),
        flip=0.0,
    )


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1), dtype=np.uint8)
        labels = content["y"].reshape(-1).astype(np.int64)
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise unreadable(path, "SVHN", error) from error
    labels[labels == 10] = 0  # the file writes zero as ten
    check_labels(path, "SVHN", labels, len(images), 10)
    return images, labels
