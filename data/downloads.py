"""torchvision's data sets: downloaded on first use, then taken as they lie on disk."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from errors import UsageError

from .cache import locked


def fetch(root: Path, name: str, files: list[str], get: Callable[[], None]) -> list[Path]:
    """The paths of `files` in `root`, after having `get` download them if one is missing."""
    paths = [root / file for file in files]
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return paths
    try:
        with locked(root, name):
            if not all(path.is_file() for path in paths):
                print(f"downloading {name} to {root}", file=sys.stderr)
                get()
    except Exception as error:  # of many kinds: network, server, checksum, disk
        reason = " ".join(str(error).split()).rstrip(":") or type(error).__name__
        raise UsageError(
            f"--data-dir {root}: {missing[0].relative_to(root)} is not there and the download of "
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


def check_labels(path: Path, kind: str, labels: np.ndarray, images: int, classes: int) -> None:
    """Refuse a file whose labels are not one of the classes for each image."""
    if len(labels) != images:
        raise unreadable(path, kind, ValueError(f"{images} images but {len(labels)} labels"))
    for strange in labels[(labels < 0) | (labels >= classes)]:
        raise unreadable(path, kind, ValueError(f"{strange} is not one of {classes} labels"))


def unreadable(path: Path, kind: str, error: Exception) -> UsageError:
    reason = " ".join([type(error).__name__, *str(error).split()])[:80]
    return UsageError(
        f"{path}: not a readable {kind} file ({reason}); delete it and run again to download it"
    )
