"""Greedy k-center: an order in which to take images so that any number of them covers all."""

from __future__ import annotations

from typing import Any

import numpy as np

POOLS = (64, 2048)  # least and most candidates looked at together
ROWS = 4096  # points that are updated together


def k_center(features: np.ndarray) -> np.ndarray:
    """Order points so that each is the farthest one from all before it (lowest index if several).

    The first is the one nearest to the mean. The first k are the greedy solution of k-center, the
    core-set of Sener & Savarese 2018, "Active Learning for Convolutional Neural Networks"; its
    largest distance of a point to a chosen one is at most twice the least possible.

    Plain greedy selection updates the distances of all points for every one that it picks. Here
    picks are made among a pool of the farthest points alone, for as long as the farthest of the
    pool is farther than any outside of it was when the pool was made: distances only shrink, so it
    is the farthest of all. Then one matrix product brings all points up to date. Memory is O(N d).

    Args:
        features: [N, d] floats. Squared distances are computed in float32, so points that are
            farthest within rounding may change places.

    Returns:
        [N] int64, a permutation of all indices.

    Raises:
        ValueError: for features that are NaN, infinite, or so large that their squares are.

    >>> k_center(np.array([[0.0], [1.0], [2.0], [9.0]])).tolist()
    [2, 3, 0, 1]
    """
    points = (features - features.mean(0)).astype(np.float32)
    squares = np.einsum("nd,nd->n", points, points)
    if not np.isfinite(squares).all():
        raise ValueError("features, or their squares, are NaN or infinite")
    index: Any = np.arange(len(points))
    distance: Any = np.full(len(points), np.inf, dtype=np.float32)
    chosen: Any = [int(squares.argmin())]
    size = POOLS[0]
    order: list[int] = []
    while True:
        order += index[chosen].tolist()
        update(distance, points, squares, chosen)
        picked = distance < 0
        if picked.sum() > len(index) // 8:
            kept = ~picked
            points, squares = points[kept], squares[kept]
            index, distance = index[kept], distance[kept]
        if len(index) == 0 or distance.max() <= 0:  # all that is left coincides with chosen ones
            return np.array(order + index[distance >= 0].tolist())
        pool, beyond = farthest(distance, size)
        chosen = pick(distance[pool], points[pool], squares[pool], beyond)
        if len(chosen) * 4 > len(pool):
            size = min(2 * size, POOLS[1])
        elif len(chosen) * 16 < len(pool):
            size = max(size // 2, POOLS[0])
        chosen = pool[chosen] if chosen else [int(distance.argmax())]


def update(
    distance: np.ndarray, points: np.ndarray, squares: np.ndarray, chosen: list[int]
) -> None:
    """Bring squared distances [n] up to date after rows were chosen, whose own become -1."""
    centres = -2 * points[chosen].T
    for start in range(0, len(points), ROWS):
        part = slice(start, start + ROWS)
        to_centres = points[part] @ centres
        to_centres += squares[chosen]
        nearest = np.maximum(to_centres.min(1) + squares[part], 0)
        distance[part] = np.minimum(distance[part], nearest)
    distance[chosen] = -1


def farthest(distance: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """The rows of the largest distances, in order of index; and the largest one of the others."""
    if len(distance) <= size:
        return np.arange(len(distance)), 0.0
    split = len(distance) - size - 1
    rows = np.argpartition(distance, split)
    return np.sort(rows[split + 1 :]), distance[rows[split]]


def pick(distance: np.ndarray, points: np.ndarray, squares: np.ndarray, beyond: float) -> list[int]:
    """Rows picked of a pool, in order, for as long as the farthest is farther than `beyond`."""
    between = points @ points.T
    between *= -2
    between += squares
    between += squares[:, None]
    np.maximum(between, 0, out=between)
    chosen: list[int] = []
    best = int(distance.argmax())
    while distance[best] > beyond:
        chosen.append(best)
        distance = np.minimum(distance, between[best])
        distance[best] = -1
        best = int(distance.argmax())
    return chosen
