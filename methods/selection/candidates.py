"""What a rule of selection may know of the images it chooses among."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base import subset_size


@dataclass(frozen=True)
class Candidates:
    """n images in a random order, so that a stable sort decides at random between equal ones."""

    scores: np.ndarray  # float32 [n]
    low_is_hard: bool  # whether the lowest scores are those of the hardest images
    rng: np.random.Generator
    budget: float  # fraction of all images of the data set that is to be chosen
    dropped: float | None = None  # fraction of all, the hardest, never chosen; None is the rule's
    means: np.ndarray | None = None  # float32 [n], mean probability of the class while training
    features: np.ndarray | None = None  # float16 [n, d], the last layer's input
    errors: np.ndarray | None = None  # float16 [n, C], softmax minus target

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: np.ndarray) -> Candidates:
        columns = ("scores", "means", "features", "errors")
        given = {name: getattr(self, name) for name in columns}
        part: dict[str, Any] = {
            name: None if each is None else each[rows] for name, each in given.items()
        }
        return replace(self, **part)

    @property
    def hardness(self) -> np.ndarray:
        """The scores, turned so that the hardest image has the highest, as float64 [n]."""
        return self.scores.astype(np.float64) * (-1 if self.low_is_hard else 1)

    def without_the_hardest(self, size: int, default: float) -> np.ndarray:
        """Rows that are left without the hardest fraction, of which there are at least `size`."""
        share = default if self.dropped is None else self.dropped
        order = np.argsort(-self.hardness, kind="stable")
        return order[min(subset_size(share, len(order)), len(order) - size) :]

    def gradient_products(self) -> np.ndarray:
        """Inner products [n, n] of the last layer's gradients, float32.

        A gradient is the outer product of the error and the features, with the constant 1 that the
        layer's bias sees as the last of these.
        """
        assert self.errors is not None
        assert self.features is not None
        errors, features = (each.astype(np.float32) for each in (self.errors, self.features))
        features = np.concatenate([features, np.ones((len(features), 1), np.float32)], 1)
        products = errors @ errors.T
        products *= features @ features.T
        return products


@dataclass(frozen=True)
class Rule:
    """A way to choose, and what it goes by.

    `choose(candidates, size)` gives the rows int64 [size] of those chosen, and how much the loss of
    each is to count, float [size], or None where all count alike.
    """

    choose: Callable[[Candidates, int], tuple[np.ndarray, np.ndarray | None]]
    by_features: bool = False  # needs the network's features and errors
    by_score: bool = True
    by_means: bool = False  # needs the mean probabilities, dual-mean
    drops: bool = False  # goes `without_the_hardest`
    always_per_class: bool = False
