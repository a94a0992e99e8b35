"""Evidence for or against a claim: paired differences, pooled over cells, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from .estimates import LEAST_PAIRS, LEVEL, Estimate, Unpaired, estimate, without_pairing

SUPPORTED, CONTRADICTED = "supported", "contradicted"
UNDECIDED, TOO_FEW = "undecided", "not enough runs"


class Pooled(NamedTuple):
    """Paired differences in several cells.

    `seeds` holds, for each seed that all the cells have, its mean over them: what tests are made
    on. `cells` has an estimate for each cell by itself. `unpaired` is of the means over cells of
    the two sides, where there are two.
    """

    seeds: pd.Series
    cells: list[Estimate]
    unpaired: Unpaired | None = None

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
    return pool(paired(ours, theirs, cell, column), cell, [column, f"{column}_theirs"])


def paired(
    ours: pd.DataFrame, theirs: pd.DataFrame, cell: Sequence[str], column: str
) -> pd.DataFrame:
    """The pairs of `pair`, a row each; `value` is our number minus theirs."""
    pairs = ours.merge(theirs, on=[*cell, "seed"], suffixes=("", "_theirs"))
    return pairs.assign(value=pairs[column] - pairs[f"{column}_theirs"])


def pool(values: pd.DataFrame, cell: Sequence[str], sides: Sequence[str] = ()) -> Pooled | None:
    """Average over cells, seed by seed, so that every seed weighs the same cells alike.

    Args:
        values: with columns `value` and `seed`, and those named in `cell` and `sides`.
        sides: none, or the two columns whose difference `value` is.

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
    means = [
        values.pivot_table(side, "seed", list(cell)).loc[common.index, common.columns].mean(axis=1)
        for side in sides
    ]
    return Pooled(
        common.mean(axis=1),
        [estimate(table[name].dropna()) for name in table],
        without_pairing(*means) if sides else None,
    )


def judge(values: Iterable[float], bound: float = 0, tests: int = 1) -> str:
    """Decide whether an expected value is above a bound, by a two-sided t-test.

    Args:
        values: independent numbers, `LEAST_PAIRS` or more.
        tests: how many such tests the claim has to pass, in all setups. To contradict it one
            failure is enough, so chance gets as many tries: the level of a contradiction is
            divided by them.
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


def describe(pooled: Pooled, unit: str = " points", most: float = math.inf) -> str:
    """Counts over cells, mean, interval, p and n; where seeds' numbers correlate, how.

    Args:
        most: the largest absolute value that the mean can have, which ends the interval.
    """
    numbers = estimate(pooled.seeds)
    low, high = max(numbers.low, -most), min(numbers.high, most)
    text = (
        f"above zero in {pooled.positive}/{len(pooled.cells)} cells, mean {numbers.mean:+.2f}{unit}"
        f" (95% CI {low:+.2f} to {high:+.2f}, p = {numbers.p:.2g}, "
        f"n = {numbers.n} seeds)"
    )
    beside = pooled.unpaired
    if beside and not math.isnan(beside.correlation):
        text += f"; correlation over seeds {beside.correlation:+.2f}"
        if beside.correlation < 0:
            text += (
                f", Welch's test: {beside.welch_low:+.2f} to {beside.welch_high:+.2f}, "
                f"p = {beside.welch_p:.2g}"
            )
    return text
