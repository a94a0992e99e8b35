"""D2: hard images that do not lie close to each other."""

from __future__ import annotations

import heapq

import numpy as np
import torch

from .candidates import Candidates
from .stratified import strata

NEIGHBOURS = 5  # k
GAMMA = 0.1  # how far the choice of an image counts against others
DROPPED, STRATA = 0.4, 25
ROWS = 1024  # images whose neighbours are looked for at once


def d2(candidates: Candidates, size: int) -> tuple[np.ndarray, None]:
    """Select greedily by a score that neighbours add to, and that falls once one of them is chosen.

    Maharana et al. 2024, "D2 Pruning: Message Passing for Balancing Diversity and Difficulty in
    Data Pruning". On the graph of the 5 nearest neighbours in feature space at distances d, an
    image has v_i = s_i + the sum over neighbours j of exp(-d_ij) s_j. The image of the highest v is
    taken, and its neighbours' v_j fall by exp(-0.1 d_ij) v_i. That is done in each of 25 strata of
    the score, after the hardest 0.4 of all have been dropped, as `stratified` does.

    Scores are turned so that the hardest has the highest, and moved so that the easiest has 0.
    """
    rest = candidates.without_the_hardest(size, DROPPED)
    assert candidates.features is not None
    distances, neighbours = nearest(candidates.features[rest].astype(np.float32), NEIGHBOURS)
    score = candidates.hardness[rest]
    score -= score.min()
    value = score + (np.exp(-distances) * score[neighbours]).sum(1)
    lost = np.exp(-GAMMA * distances)
    chosen: list[int] = []
    for members, count in strata(score, np.arange(len(rest)), size, STRATA):
        chosen += greedily(value, neighbours, lost, members, count)
    return rest[chosen], None


def greedily(
    value: np.ndarray, neighbours: np.ndarray, lost: np.ndarray, members: np.ndarray, count: int
) -> list[int]:
    """Take the highest values [n] of some rows, one by one; neighbours' values change in place."""
    waiting = {row: place for place, row in enumerate(members.tolist())}
    heap = [(-value[row], place, row) for row, place in waiting.items()]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < count:
        minus, place, row = heapq.heappop(heap)
        if row not in waiting:
            continue
        if -minus > value[row]:  # has fallen since it was put there
            heapq.heappush(heap, (-value[row], place, row))
            continue
        chosen.append(row)
        del waiting[row]
        near = neighbours[row]
        value[near] -= lost[row] * value[row]
        if value[row] < 0:  # then they have risen
            for other in near.tolist():
                if other in waiting:
                    heapq.heappush(heap, (-value[other], waiting[other], other))
    return chosen


def nearest(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows [n, k] of the k nearest other points of each, of fewer if there are."""
    given = torch.from_numpy(points - points.mean(0))
    squares = given.square().sum(1)
    k = min(k, len(points) - 1)
    distances, rows = [], []
    for start in range(0, len(given), ROWS):
        part = given[start : start + ROWS]
        # To each row a point's own square is the same, so it can wait.
        between = torch.addmm(squares[None], part, given.T, alpha=-2)
        own = torch.arange(len(part))
        between[own, start + own] = torch.inf
        values, indices = between.topk(k, largest=False)
        distances.append((values + squares[start : start + ROWS, None]).clamp(min=0).sqrt())
        rows.append(indices)
    return torch.cat(distances).numpy(), torch.cat(rows).numpy()
