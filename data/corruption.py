"""Training parts made harder on purpose: classes of unequal size, labels that are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from errors import UsageError

from .dataset import Dataset, ranks_within_class

# What a random choice is for: part of its seed. Not 0, with which NumPy's generators repeat the
# draws of the data seed alone, and so those of splits.
IMBALANCE, NOISE = 1, 2


def long_tailed(dataset: Dataset, ratio: float, seed: int) -> Dataset:
    """Keep so many random training images that classes get exponentially rarer.

    Class c of C, in the order of labels, keeps round(M * ratio**(-c / (C - 1))) images, with the
    largest M for which every class has that many (Cui et al. 2019, "Class-Balanced Loss Based on
    Effective Number of Samples", who round down). Images stay in order, and a larger ratio keeps
    part of what a smaller one keeps where M is the same.

    Args:
        dataset: its test part and its facts, mean and std among them, stay as they are.
        ratio: of the largest class to the smallest, above 1.
        seed: of the choice.

    Raises:
        UsageError: when nothing would be left of a class.
    """
    labels = dataset.train_labels
    check_two_classes(dataset, f"`imbalance` {ratio:g}")
    counts = np.bincount(labels, minlength=len(dataset.classes))
    if not counts.all():
        raise UsageError(
            f"`imbalance` {ratio:g}: class {dataset.classes[counts.argmin()]} has no training "
            "images to keep any of; leave it out"
        )
    sizes = long_tailed_sizes(counts, ratio)
    if sizes[-1] < 1:
        raise UsageError(
            f"`imbalance` {ratio:g}: no image would be left of class {dataset.classes[-1]}; "
            f"give at most {largest_ratio(counts):.2f}"
        )
    rng = np.random.default_rng([seed, IMBALANCE])
    kept = ranks_within_class(labels, rng.permutation(len(labels))) < sizes[labels]
    return dataset.chosen("train", kept)


def long_tailed_sizes(counts: np.ndarray, ratio: float) -> np.ndarray:
    """The images int64 [C] that classes of `counts` [C] images keep, the largest class first."""
    exponents = np.arange(len(counts)) / (len(counts) - 1)
    largest = (counts * ratio**exponents).min()
    # First to nine places, so that a half is one whatever the last bits of a machine's powers.
    return (largest * ratio**-exponents).round(9).round().astype(np.int64)


def largest_ratio(counts: np.ndarray) -> float:
    """The ratio, rounded down to hundredths, above which the last of C classes keeps no image.

    Class c allows ratios at which the last one's count_c * ratio**(c / (C - 1) - 1) is above 1/2.
    """
    last = len(counts) - 1
    powers = last / np.arange(last, 0, -1)
    bound = np.exp((np.log(2 * counts[:-1]) * powers).min())
    return np.floor(bound * (1 - 1e-9) * 100) / 100  # 1/2 itself is rounded to 0


def with_label_noise(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Give round(fraction * N) random training images another label, any other one equally likely.

    That is symmetric noise (Han et al. 2018, "Co-teaching").

    Args:
        dataset: its N training images and its test part stay as they are.
        fraction: of the training images, in (0, 1).
        seed: of the choice of images and labels.

    Raises:
        UsageError: when there is no other label.
    """
    check_two_classes(dataset, f"`label_noise` {fraction:g}")
    labels, classes = np.array(dataset.train_labels), len(dataset.classes)
    rng = np.random.default_rng([seed, NOISE])
    chosen = rng.choice(len(labels), round(fraction * len(labels)), replace=False)
    labels[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return replace(dataset, train_labels=labels)


def check_two_classes(dataset: Dataset, setting: str) -> None:
    if len(dataset.classes) < 2:
        raise UsageError(f"{setting}: the data set has one class only; leave it out")
