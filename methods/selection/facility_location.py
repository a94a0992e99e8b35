"""CRAIG and facility location: images whose gradients represent those of all."""

from __future__ import annotations

import numpy as np

from .candidates import Candidates

AT_ONCE = 16  # candidates whose gains are computed together


def craig(candidates: Candidates, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Facility location on gradients, each weighted by the number of gradients nearest to it.

    Mirzasoleiman et al. 2020, "Coresets for Data-efficient Training of Machine Learning Models":
    facility location over the greatest distance of two gradients, of the last layer, minus theirs.
    """
    products = candidates.gradient_products()
    squares = products.diagonal().copy()
    products *= -2
    products += squares
    products += squares[:, None]
    distances = np.sqrt(np.maximum(products, 0, out=products), out=products)
    similarity = np.subtract(distances.max(), distances, out=distances)
    chosen = greedy(similarity, size)
    nearest = similarity[:, chosen].argmax(1)
    return chosen, np.bincount(nearest, minlength=size).astype(np.float64)


def facility_location(candidates: Candidates, size: int) -> tuple[np.ndarray, None]:
    """Facility location on gradients of the last layer by cosine similarity, unweighted.

    The facility-location function (Wei et al. 2015, "Submodularity in Data Subset Selection and
    Active Learning") of 1 + cosine.
    """
    products = candidates.gradient_products()
    lengths = np.sqrt(products.diagonal().clip(np.finfo(np.float32).tiny))
    products /= lengths
    products /= lengths[:, None]
    products += 1
    return greedy(products, size), None


def greedy(similarity: np.ndarray, size: int) -> np.ndarray:
    """Rows that each add most to the sum over all of the greatest similarity to one chosen.

    Args:
        similarity: non-negative and symmetric, [n, n].
        size: how many to choose.

    Returns:
        int64 [size], in the order chosen.

    Lazily (Minoux 1978): what an image adds only falls while others are chosen, so that it need not
    be computed anew while what it last added is below what another adds now.
    """
    gains = similarity.sum(1, dtype=np.float64)  # upper bounds of what each adds
    covered = np.zeros(len(similarity), similarity.dtype)
    chosen: list[int] = []
    while len(chosen) < size:
        while True:
            at_once = min(AT_ONCE, len(gains))
            candidates = np.argpartition(-gains, at_once - 1)[:at_once]
            bounds = gains[candidates]
            added = np.maximum(similarity[candidates] - covered, 0).sum(1, dtype=np.float64)
            gains[candidates] = np.where(bounds == -np.inf, bounds, added)
            best = candidates[gains[candidates].argmax()]
            others = bounds.min() if at_once < len(gains) else -np.inf
            if gains[best] >= others:  # no bound of one not looked at is higher than the lowest
                break
        chosen.append(int(best))
        covered = np.maximum(covered, similarity[best])
        gains[best] = -np.inf
    return np.array(chosen)
