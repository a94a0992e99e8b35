"""What runs say for or against a claim: paired differences, pooled over cells, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from .estimates import LEAST_PAIRS, LEVEL, Estimate, estimate

SUPPORTED, CONTRADICTED = "supported", "contradicted"
UNDECIDED, TOO_FEW = "undecided", "not enough runs"


class Evidence(NamedTuple):
    """A verdict and the numbers it rests on, a line."""

    verdict: str
    numbers: str


class Pooled(NamedTuple):
    """Paired differences in several cells.

    `seeds` holds, for each seed that all the cells have, its mean over them: what tests are made
    on. `cells` has an estimate for each cell by itself.
    """

    seeds: pd.Series
    cells: list[Estimate]

    @property
    def positive(self) -> int:
        """Cells whose mean difference is above zero."""
        return sum(cell.mean > 0 for cell in self.cells)


def pair(
    ours: pd.DataFrame, theirs: pd.DataFrame, cell: Sequence[str], column: str = "test_accuracy"
) -> Pooled | None:
    """Our numbers minus theirs of the same cell and seed.

    Args:
        ours, theirs: runs of one setup and, each, one method.
        cell: the columns in which a pair agrees, besides the seed.

    Returns:
        What `pool` does.
    """
    pairs = ours.merge(theirs, on=[*cell, "seed"], suffixes=("", "_theirs"))
    pairs["value"] = pairs[column] - pairs[f"{column}_theirs"]
    return pool(pairs, cell)


def pool(values: pd.DataFrame, cell: Sequence[str]) -> Pooled | None:
    """Average over cells, seed by seed, so that every seed weighs the same cells alike.

    Args:
        values: with columns `value` and `seed`, and those named in `cell`.

    Returns:
        None where fewer than `LEAST_PAIRS` seeds are common to the cells that have so many.
    """
    values = values.dropna(subset="value")
    if values.empty:
        return None
    table = values.pivot_table("value", "seed", list(cell))
    table = table.loc[:, table.count() >= LEAST_PAIRS]
    common = table.dropna()
    if table.empty or len(common) < LEAST_PAIRS:
        return None
    return Pooled(common.mean(axis=1), [estimate(table[name].dropna()) for name in table])


def judge(values: Iterable[float], bound: float = 0, tests: int = 1) -> str:
    """Whether an expected value is above a bound, by a two-sided t-test.

    Args:
        values: independent numbers, `LEAST_PAIRS` or more.
        tests: how many such tests the claim has to pass. To contradict it one failure is enough,
            so chance gets as many tries: the level of a contradiction is divided by them.
    """
    values = list(values)
    if estimate(values).low > bound:
        return SUPPORTED
    if estimate(values, LEVEL / tests).high < bound:
        return CONTRADICTED
    return UNDECIDED


def combine(verdicts: Iterable[str]) -> str:
    """The verdict on a claim that has to hold in every one of several cases.

    Cases with too few runs are left out, as long as there are others.
    """
    verdicts = set(verdicts)
    for verdict in (CONTRADICTED, UNDECIDED, SUPPORTED):
        if verdict in verdicts:
            return verdict
    return TOO_FEW


def describe(pooled: Pooled, unit: str = " points") -> str:
    """Counts over cells, mean, interval, p and n."""
    numbers = estimate(pooled.seeds)
    return (
        f"above zero in {pooled.positive}/{len(pooled.cells)} cells, mean {numbers.mean:+.2f}{unit}"
        f" (95% CI {numbers.low:+.2f} to {numbers.high:+.2f}, p = {numbers.p:.2g}, "
        f"n = {numbers.n} seeds)"
    )
