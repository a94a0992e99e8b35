"""The form of every data set, and the ways of splitting one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from errors import UsageError

from .rows import Rows

SUBSET = 3  # what a random choice is for: part of its seed, see `corruption`
PART = 1000  # images of a large array that are read at once


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory (or memory-mapped), and the facts that go with it."""

    train_images: np.ndarray | Rows  # uint8 [N, channels, height, width]
    train_labels: np.ndarray  # int64 [N]
    test_images: np.ndarray | Rows  # uint8 [M, channels, height, width]
    test_labels: np.ndarray  # int64 [M]
    classes: tuple[str, ...]  # name of each label
    mean: tuple[float, ...]  # per channel, of values in [0, 1]
    std: tuple[float, ...]  # per channel, of values in [0, 1]
    flip: float = 0.5  # probability of mirroring an image in training
    padding: int = 4  # pixels around an image before its random crop
    sha256: str | None = None  # of all images and labels as loaded, before any choice among them
    #: Of train or test, the names of the files as loaded, where images are files.
    names: Callable[[str], list[str]] | None = None
    groups: tuple[str, ...] = ()  # name of each group of images, where these are told apart
    train_groups: np.ndarray | None = None  # int64 [N], where all of them are known
    test_groups: np.ndarray | None = None  # int64 [M]

    def chosen(self, part: str, kept: np.ndarray) -> Dataset:
        """The data set with some images of a part only, which have lost their files' names.

        Args:
            part: train or test.
            kept: bool [n] or positions.
        """
        kept = np.arange(len(self.labels(part)))[kept]
        changes: dict[str, Any] = {
            f"{part}_images": Rows.of(getattr(self, f"{part}_images"))[kept],
            f"{part}_labels": self.labels(part)[kept],
        }
        groups = getattr(self, f"{part}_groups")
        if groups is not None:
            changes[f"{part}_groups"] = groups[kept]
        return replace(self, names=None, **changes)

    def labels(self, part: str) -> np.ndarray:
        """Labels int64 [n] of train or test."""
        return getattr(self, f"{part}_labels")


def check_dataset(dataset: Any) -> None:
    """Raise a ValueError, of one line, if a user's own function made no data set.

    Labels and facts are looked at whole, of images only type and shape.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"gave a {type(dataset).__name__}; give a data.Dataset")
    classes = len(dataset.classes) if isinstance(dataset.classes, Sequence) else 0
    shapes = set()
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"{part}_images"), dataset.labels(part)
        shape = tuple(getattr(images, "shape", ()))
        if len(shape) != 4 or images.dtype != np.uint8:
            kind = getattr(images, "dtype", type(images).__name__)
            raise ValueError(
                f"{part}_images are {kind} {list(shape)}; give uint8 [n, channels, height, width], "
                "of 0 to 255"
            )
        shapes.add(shape[1:])
        if not (isinstance(labels, np.ndarray) and labels.dtype == np.int64):
            kind = getattr(labels, "dtype", type(labels).__name__)
            raise ValueError(f"{part}_labels are {kind}; give a NumPy array of int64")
        if labels.shape != shape[:1]:
            raise ValueError(f"{shape[0]} {part}_images and {part}_labels {list(labels.shape)}")
        if not len(labels):
            raise ValueError(f"no {part} images; give one at least")
        if not 0 <= labels.min(initial=0) <= labels.max(initial=0) < classes:
            raise ValueError(
                f"{part}_labels from {labels.min()} to {labels.max()}; give 0 to {classes - 1}, "
                f"places in `classes`, which names {classes}"
            )
    if len(shapes) > 1:
        raise ValueError("train_images and test_images are of different shapes")
    channels = next(iter(shapes))[0]
    for name in ("mean", "std"):
        numbers = np.atleast_1d(getattr(dataset, name))
        if len(numbers) != channels:
            raise ValueError(
                f"{name} has {len(numbers)} numbers and images have {channels} channels; images "
                "are [n, channels, height, width]"
            )


def parts_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return images and labels of both parts by the names that `Dataset` gives them."""
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return {name: arrays[name] for name in names}


def content_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of arrays of any shape, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        for start in range(0, len(array), PART):
            digest.update(np.ascontiguousarray(array[start : start + PART]).data)
    return digest.hexdigest()


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel of uint8 images [n, c, h, w], as values in [0, 1]."""
    values = np.arange(256) / 255
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), PART):  # a part at a time, as all may not fit in memory
        for channel, plane in zip(counts, images[start : start + PART].swapaxes(0, 1)):
            channel += np.bincount(plane.reshape(-1), minlength=256)
    means, stds = [], []
    for channel in counts:
        mean = np.average(values, weights=channel)
        means.append(float(mean))
        std = np.sqrt(np.average((values - mean) ** 2, weights=channel))
        stds.append(float(max(std, 1 / 255)))  # a constant channel has none
    return tuple(means), tuple(stds)


def stratified(
    labels: np.ndarray, count: int, rng: np.random.Generator, proportional: bool = False
) -> np.ndarray:
    """`count` random positions of `labels` [n], as equal in number over classes as can be.

    Or, if `proportional`, as nearly in proportion to the sizes of the classes.
    """
    order = rng.permutation(len(labels))
    rank = ranks_within_class(labels, order)
    if proportional:
        rank = (rank + 0.5) / np.bincount(labels)[labels]
    # A stable sort by rank takes one of each class, then a second of each, and so on.
    return order[np.argsort(rank[order], kind="stable")][:count]


def ranks_within_class(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return each image's place, from 0, among those of its class as they come in `order` [n]."""
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def class_balanced_subset(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Keep `count` random training images, as equal in number over classes as can be.

    Images stay in order, and a larger subset contains the smaller ones of the same seed. The test
    part and the facts, mean and std among them, stay as they are.

    Raises:
        UsageError: when there are fewer training images.
    """
    n = len(dataset.train_labels)
    if count > n:
        raise UsageError(
            f"`train_images` {count}: the training set has {n} images; give at most that number"
        )
    rng = np.random.default_rng([seed, SUBSET])
    return dataset.chosen("train", np.sort(stratified(dataset.train_labels, count, rng)))


def hold_out(dataset: Dataset, count: int, seed: int, proportional: bool = False) -> Dataset:
    """Evaluate on a part of the training set, taken out of it, not on test.

    It is class-balanced or, if `proportional` or if that would take all images of a class, has the
    classes in the proportions of the whole.
    """
    held = held_out(dataset, count, seed, proportional)
    if dataset.groups and dataset.train_groups is None:
        raise UsageError("`validation`: `groups` names no group for some training images; add them")
    tested = dataset.chosen("train", held)
    return replace(
        dataset.chosen("train", ~held),
        test_images=tested.train_images,
        test_labels=tested.train_labels,
        test_groups=tested.train_groups,
    )


def held_out(dataset: Dataset, count: int, seed: int, proportional: bool = False) -> np.ndarray:
    """Return which training images `hold_out` takes out: bool [N]."""
    n = len(dataset.train_labels)
    if not 0 < count < n:
        raise UsageError(
            f"`validation` {count}: the training set has {n} images; hold out fewer of them, "
            f"for example `validation` {max(1, n // 10)}"
        )
    labels = dataset.train_labels
    chosen = stratified(labels, count, np.random.default_rng(seed), proportional)
    left = np.bincount(labels) - np.bincount(labels[chosen], minlength=labels.max() + 1)
    if not left[labels].all():
        chosen = stratified(labels, count, np.random.default_rng(seed), proportional=True)
    held = np.zeros(n, dtype=bool)
    held[chosen] = True
    return held
