"""Mean, standard deviation, confidence interval and test of a few numbers, by Student's t."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05  # of significance; intervals have 1 - LEVEL
LEAST_PAIRS = 3  # common seeds that a verdict needs: two that agree by rounding show no spread


class Estimate(NamedTuple):
    """Estimate of the expected value of n numbers; all but n and the mean are NaN for n = 1.

    `low` and `high` bound the confidence interval of the mean; `p` is of the two-sided test that
    the expected value is zero, NaN for fewer than `LEAST_PAIRS` numbers.
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
    p = p if n >= LEAST_PAIRS else np.nan
    return Estimate(n, mean, sd, mean - half, mean + half, p)


class Unpaired(NamedTuple):
    """Effect of pairing by seed on a comparison, and Welch's t-test, which does without.

    `correlation` is that of the two sides' numbers over seeds. Where it is negative, the spread of
    the differences is above what the two spreads make by themselves, so pairing costs power.
    `welch_low` and `welch_high` bound the confidence interval of the difference of the means;
    `welch_p` is of the two-sided test that it is zero. All are NaN for fewer than `LEAST_PAIRS`.

    Verdicts are by the paired test all the same. Chosen by the sign of the correlation that the
    data show, either test would be used where it happens to reject more: of two equal methods 6%
    to 7% would differ at the 5% level where seeds do not correlate, 8% to 10% at a correlation of
    -0.5 (n = 3 to 6), where Welch's test, which knows nothing of it, is wrong. To ask that both
    reject is no other rule: where the correlation is negative, the paired one is the stricter.
    """

    correlation: float
    welch_low: float
    welch_high: float
    welch_p: float


def without_pairing(ours: Iterable[float], theirs: Iterable[float]) -> Unpaired:
    """The correlation of paired numbers, and Welch's test of their means."""
    sides = np.array([list(ours), list(theirs)], dtype=float)
    n = sides.shape[1]
    variances = sides.var(axis=1, ddof=1) / n if n >= LEAST_PAIRS else np.zeros(2)
    if not variances.sum():  # too few, or no spread to test against
        return Unpaired(*[np.nan] * 4)
    correlation = np.corrcoef(sides)[0, 1] if variances.all() else np.nan
    mean, error = sides[0].mean() - sides[1].mean(), np.sqrt(variances.sum())
    freedom = variances.sum() ** 2 * (n - 1) / (variances**2).sum()
    half = stats.t.ppf(1 - LEVEL / 2, freedom) * error
    p = 2 * stats.t.sf(abs(mean) / error, freedom)
    return Unpaired(*map(float, (correlation, mean - half, mean + half, p)))


def is_higher(differences: Estimate) -> bool:
    """Decide whether paired differences are above zero significantly, in enough pairs."""
    return differences.mean > 0 and differences.p < LEVEL


def seeds_text(counts: Iterable[int]) -> str:
    """Say how many seeds stand behind some numbers: n = 3, or n = 2 to 3."""
    counts = list(counts)
    least, most = min(counts), max(counts)
    return f"n = {least}" if least == most else f"n = {least} to {most}"
