"""A file of NumPy arrays in the layout of MedMNIST (Yang et al. 2023)."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from errors import UsageError

from .dataset import Dataset, content_digest
from .loose import dataset_of

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def load(root: Path, *, name: str, image_size: int | None = None, **_) -> Dataset:
    """The file `name`, in `root` or anywhere, with these arrays; others are left alone.

    train_images, test_images    uint8 [n, height, width] or [n, height, width, 3]
    train_labels, test_labels    whole numbers from 0 on, [n] or [n, 1]

    MedMNIST's val_images and val_labels are left out: `validation` takes a part of what is trained
    on.
    """
    path = root / name if (root / name).is_file() else Path(name)
    if image_size:
        raise UsageError(
            "`image_size`: the images of an npz file are taken as they are; leave it out"
        )
    try:
        file = np.load(path)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with file:
            missing = [key for key in ARRAYS if key not in file]
            if missing:
                raise UsageError(f"{path}: no array {missing[0]}; it needs {', '.join(ARRAYS)}")
            arrays = {key: file[key] for key in ARRAYS}
    except FileNotFoundError:
        raise UsageError(f"{path}: not there, nor in `data_dir` {root}; give its path") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: not an npz file ({error})") from error
    images = [as_images(arrays[key], f"{path}: {key}") for key in ("train_images", "test_images")]
    labels = [as_labels(arrays[key], f"{path}: {key}") for key in ("train_labels", "test_labels")]
    for part, (rows, marks) in enumerate(zip(images, labels)):
        if len(rows) != len(marks):
            raise UsageError(
                f"{path}: {len(rows)} {ARRAYS[2 * part]} and {len(marks)} {ARRAYS[2 * part + 1]}"
            )
    if images[0].shape[1:] != images[1].shape[1:]:
        raise UsageError(f"{path}: images to train and to test on have different shapes")
    joined = np.concatenate(labels)
    names = map(str, range(int(joined.max(initial=0)) + 1))
    both = np.concatenate(images)
    sha256 = content_digest({"images": both, "labels": joined})
    return dataset_of(both, joined, len(labels[0]), names, sha256)


def as_images(array: np.ndarray, where: str) -> np.ndarray:
    """Images [n, c, h, w] of an array; a UsageError for what is no set of images."""
    grey, colour = array.ndim == 3, array.ndim == 4 and array.shape[-1] in (1, 3)
    if array.dtype != np.uint8 or not (grey or colour):
        raise UsageError(
            f"{where}: {array.dtype} {list(array.shape)}; give uint8 [n, height, width] or "
            "[n, height, width, 3]"
        )
    return array[:, None] if grey else np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def as_labels(array: np.ndarray, where: str) -> np.ndarray:
    """Labels int64 [n] of an array; a UsageError for several labels an image, and for fractions."""
    single = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    if not single or not np.issubdtype(array.dtype, np.integer):
        raise UsageError(
            f"{where}: {array.dtype} {list(array.shape)}; give one whole number for each image"
        )
    return array.reshape(-1).astype(np.int64)
