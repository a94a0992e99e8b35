"""Coverage-centric selection: equally many images from each stratum of the score."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .candidates import Candidates

STRATA = 50


def stratified(candidates: Candidates, size: int) -> tuple[np.ndarray, None]:
    """Equally many images from each stratum of the score, after dropping the hardest.

    Zheng et al. 2023, "Coverage-centric Coreset Selection for High Pruning Rates". The hardest
    fraction is dropped (0.3 of all for budgets of up to 0.1, 0.2 up to 0.2, else 0.1), the range
    of the rest cut in 50 equal parts, each of which gives equally many, uniformly chosen; a part
    that has fewer gives all. Never so much is dropped that less than the core-set is left.
    """
    dropped = 0.3 if candidates.budget <= 0.1 else 0.2 if candidates.budget <= 0.2 else 0.1
    rest = candidates.without_the_hardest(size, dropped)
    chosen = [
        candidates.rng.choice(members, count, replace=False)
        for members, count in strata(candidates.scores, rest, size, STRATA)
    ]
    return np.concatenate(chosen), None


def strata(
    scores: np.ndarray, rows: np.ndarray, size: int, number: int
) -> Iterator[tuple[np.ndarray, int]]:
    """The rows of each stratum that has any, fewest first, and how many of them to take."""
    low, high = scores[rows].min(), scores[rows].max()
    places = (scores[rows] - low) / (high - low if high > low else 1) * number
    level = np.minimum(places.astype(np.int64), number - 1)
    groups = [rows[level == each] for each in np.unique(level)]
    groups.sort(key=len)
    for done, members in enumerate(groups):
        count = min(len(members), size // (len(groups) - done))
        size -= count
        yield members, count
