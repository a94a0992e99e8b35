"""Images that come one after the other from another library, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image

from errors import UsageError

from .dataset import Dataset, channel_statistics
from .image_files import DEEP, GREY, blank, planes

Pair = tuple[Image.Image, int]


def decode_parts(
    parts: Sequence[Sequence[Pair]], scratch: Path, side: int | None, what: str
) -> dict[str, np.ndarray]:
    """Decode the parts of a data set, each of pairs of image and label.

    Args:
        parts: those to train and to test on; iterated twice.
        scratch, side: as of `image_files.decode_images`.
        what: the data set's name, for errors.

    Returns:
        `images` uint8 [n, channels, height, width] of all parts, of one channel if all are grey;
        and `labels` int64 [n].

    Raises:
        UsageError: for images of several sizes without `side`, or of more than 8 bits.
    """
    sizes: set[tuple[int, int]] = set()
    modes: set[str] = set()
    for image, _ in pairs(parts, what):
        sizes.add(image.size)
        modes.add(image.mode)
    if any(mode.startswith(DEEP) for mode in modes):
        raise UsageError(f"`dataset` {what}: images of more than 8 bits per channel; convert them")
    if side is None and len(sizes) > 1:
        raise UsageError(
            f"`dataset` {what}: images of {len(sizes)} sizes; give `image_size`, such as 64"
        )
    width, height = (side, side) if side else next(iter(sizes))
    grey = modes <= GREY
    number = sum(map(len, parts))
    images = blank((number, 1 if grey else 3, height, width), scratch)
    labels = np.empty(number, np.int64)
    for place, (image, label) in enumerate(pairs(parts, what)):
        try:
            pixels = image.convert("L" if grey else "RGB")
        except (OSError, SyntaxError) as error:  # Pillow decodes here
            raise not_decoded(what, place, error) from None
        images[place] = planes(pixels, (width, height))
        labels[place] = label
    return {"images": images, "labels": labels}


def pairs(parts: Sequence[Sequence[Pair]], what: str) -> Iterator[Pair]:
    """Image and label of all parts; where a library decodes at once, it fails here."""
    following = chain.from_iterable(parts)
    for place in count():
        try:
            pair = next(following, None)
        except (OSError, SyntaxError) as error:
            raise not_decoded(what, place, error) from None
        if pair is None:
            return
        yield pair


def not_decoded(what: str, place: int, error: Exception) -> UsageError:
    return UsageError(f"`dataset` {what}: image {place} cannot be decoded ({error}); replace it")


def dataset_of(
    images: np.ndarray,
    labels: np.ndarray,
    train: int,
    classes: Iterable[str],
    sha256: str,
    flip: float = 0.5,
) -> Dataset:
    """The data set whose first `train` images [n, c, h, w] are for training.

    Args:
        classes: name of each label.
        sha256: of all of it.
        flip: probability of mirroring an image in training.
    """
    classes = tuple(classes)
    if not 0 < train < len(labels):
        raise UsageError("`dataset`: training and testing need an image each")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise UsageError(
            f"`dataset`: labels from {labels.min()} to {labels.max()} of {len(classes)} classes"
        )
    mean, std = channel_statistics(images[:train])
    return Dataset(
        train_images=images[:train],
        train_labels=labels[:train],
        test_images=images[train:],
        test_labels=labels[train:],
        classes=classes,
        mean=mean,
        std=std,
        sha256=sha256,
        flip=flip,
    )
