"""Mean, standard deviation, confidence interval and test of a few numbers, by Student's t."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05  # of significance; intervals have 1 - LEVEL
LEAST_PAIRS = 3  # common seeds that a verdict needs: two that agree by rounding show no spread


class Estimate(NamedTuple):
    """What n numbers say about their expected value; all but n and the mean are NaN for n = 1.

    `low` and `high` bound the confidence interval of the mean; `p` is of the two-sided test that
    the expected value is zero.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p: float


def estimate(values: Iterable[float], level: float = LEVEL) -> Estimate:
    """The estimate from numbers that are independent of each other; there may be none.

    For paired data the numbers are the differences within the pairs, which makes `p` that of the
    paired t-test.
    """
    values = np.asarray(list(values), dtype=float)
    n = len(values)
    mean = float(values.mean()) if n else np.nan
    if n < 2:
        return Estimate(n, mean, *[np.nan] * 4)
    sd = float(values.std(ddof=1))
    error = sd / np.sqrt(n)
    half = stats.t.ppf(1 - level / 2, n - 1) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Estimate(n, mean, sd, mean - half, mean + half, p)


def is_higher(differences: Estimate) -> bool:
    """Whether paired differences are above zero significantly, in enough pairs."""
    return differences.n >= LEAST_PAIRS and differences.mean > 0 and differences.p < LEVEL


def seeds_text(counts: Iterable[int]) -> str:
    """How many seeds stand behind some numbers: n = 3, or n = 2 to 3."""
    counts = list(counts)
    least, most = min(counts), max(counts)
    return f"n = {least}" if least == most else f"n = {least} to {most}"
