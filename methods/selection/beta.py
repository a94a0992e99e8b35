"""DUAL's sampling: by the score, with more easy images the smaller the core-set."""

from __future__ import annotations

import numpy as np

from .candidates import Candidates

SUM = 16  # of both parameters of the beta distribution
HARDEST = 10  # images whose mean probability it starts from


def beta(candidates: Candidates, size: int) -> tuple[np.ndarray, None]:
    """Sample without replacement in proportion to the score times a beta density.

    Cho et al. 2025, "Lightweight Dataset Pruning without Full Training via Example Difficulty and
    Prediction Uncertainty", with their score `dual`. The density is that of the image's mean
    probability under Beta(16 - B, B) with B = 15 * (1 - mu) * (1 - r^4), where mu is the mean
    probability of the ten images of the highest scores and r the fraction that is left out.
    """
    scores = candidates.scores.astype(np.float64)
    assert candidates.means is not None
    means = candidates.means.clip(1e-6, 1 - 1e-6).astype(np.float64)
    best = np.argsort(-scores, kind="stable")[:HARDEST]
    left_out = 1 - size / len(scores)
    b = (SUM - 1) * (1 - means[best].mean()) * (1 - left_out**4)
    density = (SUM - b - 1) * np.log(means) + (b - 1) * np.log1p(-means)  # but for a constant
    # The largest of keys log(weight) + Gumbel noise are such a draw (Vieira 2014).
    keys = density + np.log(scores.clip(1e-12)) + candidates.rng.gumbel(size=len(scores))
    return np.argsort(-keys)[:size], None
