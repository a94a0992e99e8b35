"""SVHN (Netzer et al. 2011): 73,257 + 26,032 colour digits of 32x32; never mirrored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .cache import Arrays, cached
from .dataset import Dataset, parts_of
from .downloads import check_images, check_labels, download, fetch, unreadable


def load(root: Path, **_) -> Dataset:
    parts = {part: f"{part}_32x32.mat" for part in ("train", "test")}

    def get() -> None:
        for part in parts:
            download("SVHN", root, split=part)

    paths = fetch(root, "svhn", list(parts.values()), get)

    def decode() -> Arrays:
        arrays: Arrays = {}
        for part, path in zip(parts, paths):
            arrays[f"{part}_images"], arrays[f"{part}_labels"] = read(path)
        return arrays

    arrays, sha256 = cached(root, "svhn", paths, decode)
    return Dataset(
        **parts_of(arrays),
        classes=tuple("0123456789"),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        flip=0.0,
        sha256=sha256,
    )


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        images, labels = content["X"].transpose(3, 2, 0, 1), content["y"].reshape(-1)
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise unreadable(path, "SVHN", error) from error
    images = np.ascontiguousarray(check_images(path, "SVHN", images, (3, 32, 32)))
    labels = np.where(labels == 10, 0, labels)  # the file writes zero as ten
    return images, check_labels(path, "SVHN", labels, len(images), 10)
