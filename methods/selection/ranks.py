"""The ends or the middle of the order by score."""

from __future__ import annotations

import numpy as np

from .candidates import Candidates


def top(candidates: Candidates, size: int) -> tuple[np.ndarray, None]:
    """Images with the highest scores."""
    return np.argsort(-candidates.scores, kind="stable")[:size], None


def bottom(candidates: Candidates, size: int) -> tuple[np.ndarray, None]:
    """Images with the lowest scores."""
    return np.argsort(candidates.scores, kind="stable")[:size], None


def middle(candidates: Candidates, size: int) -> tuple[np.ndarray, None]:
    """Images at ranks (0.5 - b/2) * n to (0.5 + b/2) * n, as Moderate does (Xia et al. 2023)."""
    start = (len(candidates) - size) // 2
    return np.argsort(candidates.scores, kind="stable")[start : start + size], None
