"""torchvision's data sets: downloaded on first use, then taken as they lie on disk."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np

from errors import UsageError, say

from .cache import locked


def fetch(root: Path, name: str, files: list[str], get: Callable[[], None]) -> list[Path]:
    """The paths of `files` in `root`, after having `get` download them if one is missing."""
    paths = [root / file for file in files]
    missing = [path for path in paths if not path.is_file()]
    try:
        with locked(root, name):  # also where all are there: another run may be writing them
            if not all(path.is_file() for path in paths):
                say(f"downloading {name} to {root}")
                get()
    except Exception as error:  # of many kinds: network, server, checksum, disk
        if not missing:  # a folder that can only be read
            return paths
        reason = " ".join(str(error).split()).rstrip(":") or type(error).__name__
        raise UsageError(
            f"`data_dir` {root}: {missing[0].relative_to(root)} is not there and the download of "
            f"{name} failed ({reason}); put the data set's files there: {', '.join(files)}"
        ) from error
    return paths


def download(source: str, root: Path, **which: str) -> None:
    """Have torchvision download one of its data sets, `source`, for which it sets no time limit."""
    import torchvision.datasets  # here, because importing it takes seconds

    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        getattr(torchvision.datasets, source)(root, download=True, **which)
    finally:
        socket.setdefaulttimeout(limit)


def check_images(path: Path, kind: str, images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A file's images as uint8 [n, *shape]; refused if they are none, or of other sizes or values.

    Args:
        images: of any type of number; a shape of [n, pixels] is taken for one of [n, *shape].
    """
    if len(images) == 0:
        raise unreadable(path, kind, ValueError("no images in it"))
    if images.shape[1:] not in (shape, (math.prod(shape),)):
        sizes = (" x ".join(map(str, each)) for each in (images.shape[1:], shape))
        raise unreadable(path, kind, ValueError("images of {}, not of {}".format(*sizes)))
    return check_whole(path, kind, images, 255).astype(np.uint8, copy=False).reshape(-1, *shape)


def check_labels(
    path: Path, kind: str, labels: np.ndarray, images: int, classes: int
) -> np.ndarray:
    """A file's labels as int64 [n]; refused if they are not one of the classes for each image."""
    if labels.shape != (images,):
        raise unreadable(path, kind, ValueError(f"{images} images but {labels.size} labels"))
    return check_whole(path, kind, labels, classes - 1).astype(np.int64, copy=False)


def check_whole(path: Path, kind: str, values: np.ndarray, highest: int) -> np.ndarray:
    """The values, all of which have to be whole numbers from 0 to `highest`."""
    if values.dtype.kind not in "biuf":
        raise unreadable(path, kind, ValueError(f"{values.dtype} where numbers should be"))
    strange = (values < 0) | (values > highest) | (values != np.floor(values))
    if strange.any():
        value = values.flat[strange.argmax()]
        raise unreadable(path, kind, ValueError(f"{value} is no whole number from 0 to {highest}"))
    return values


def unreadable(path: Path, kind: str, error: Exception) -> UsageError:
    reason = " ".join([type(error).__name__, *str(error).split()])[:80]
    return UsageError(
        f"{path}: not a readable {kind} file ({reason}); delete it and run again to download it"
    )
