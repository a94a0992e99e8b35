"""The study's claims as tests on the runs of one setup."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd
from scipy import stats

from methods import METHODS

from .estimates import estimate
from .evidence import CONTRADICTED, SUPPORTED, UNDECIDED, Pooled, judge, pair, pool
from .published import UNIFORM
from .study import CELL, REFERENCE, Study
from .style import ORDER

#: Methods that favour images by what the network makes of them.
IMPORTANCE = tuple(name for name in ORDER if name in METHODS and METHODS[name].importance)
STRONG = "ricap"  # the stronger augmentation, named beforehand so that none is picked by its result
NEGLIGIBLE = 0.5  # points: a smaller advantage is none
CLOSE = 1.0  # points: within which accuracies are about equal
CONSISTENT = 0.75  # of the cells, that a consistent advantage shows in
LEAST_METHODS = 4  # to correlate over

#: From pooled differences, and the number of tests that the claim has to pass, to a verdict.
Judge = Callable[[Pooled, int], str]


class Case(NamedTuple):
    """One case of a claim: what is compared, the evidence, None if too little, and its judge."""

    subject: str
    pooled: Pooled | None
    judge: Judge
    unit: str = " points"
    most: float = math.inf  # absolute value that a mean can have
    counts: bool = True  # towards the verdict on the claim


def above(bound: float) -> Judge:
    """Judges whether the expected difference is above a bound."""
    return lambda pooled, tests: judge(pooled.seeds, bound, tests)


def methods_of(part: Study, names: tuple[str, ...]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Label and runs of those of some methods that there are runs of, variants apart."""
    for label, method, _ in part.methods:
        if method in names:
            yield label, part.runs[part.runs["method_label"] == label]


def select(part: Study, **values: object) -> pd.DataFrame:
    """Runs whose columns have some values."""
    runs = part.runs
    for column, value in values.items():
        runs = runs[runs[column] == value]
    return runs


def budgeted(part: Study) -> Study:
    return Study(part.runs[part.runs["budget"] < 1], part.curves)


def no_consistent_advantage(part: Study) -> Iterator[Case]:
    """Each importance-sampling method against unif-SGD, under a budget."""
    part = budgeted(part)
    uniform = select(part, method=REFERENCE)

    def verdict(pooled: Pooled, tests: int) -> str:
        reversed_verdict = judge(-pooled.seeds, 0, tests)
        if pooled.positive >= CONSISTENT * len(pooled.cells) and reversed_verdict == CONTRADICTED:
            return CONTRADICTED
        small = estimate(pooled.seeds).high < NEGLIGIBLE
        return SUPPORTED if small else UNDECIDED

    for label, runs in methods_of(part, IMPORTANCE):
        yield Case(f"{label} - {REFERENCE}", pair(runs, uniform, CELL), verdict)


def augmentation_helps_more(part: Study) -> Iterator[Case]:
    """unif-SGD with the stronger augmentation against each method with the standard one."""
    part = budgeted(part)
    strong = select(part, method=REFERENCE, augmentation_label=STRONG)
    for label, runs in methods_of(part, IMPORTANCE):
        pooled = pair(strong, runs[runs["augmentation"] == "standard"], ["budget"])
        yield Case(f"{REFERENCE} {STRONG} - {label} standard", pooled, above(0))


def third_equals_whole(part: Study) -> Iterator[Case]:
    """unif-SGD with the stronger augmentation at 30% against SGD with the standard one at 100%."""
    if part.runs["dataset"].iloc[0] in UNIFORM:
        strong = select(part, method=REFERENCE, augmentation_label=STRONG, budget=0.3)
        whole = select(part, method="SGD", augmentation_label="standard", budget=1.0)
        pooled = pair(strong, whole, ["setup"])
        subject = f"{REFERENCE} {STRONG} 30% - SGD standard 100%"
        yield Case(subject, pooled, above(-CLOSE))


def even_use_is_better(part: Study) -> Iterator[Case]:
    """Rank correlation of entropy and accuracy over methods, in each cell and seed."""
    rows = []
    for (augmentation, budget), cell in budgeted(part).runs.groupby(CELL):
        seeds = [(seed, runs) for seed, runs in cell.groupby("seed") if len(runs) >= LEAST_METHODS]
        # Over the same methods in every seed: numbers of different ones are no sample.
        common = set(cell["method_label"]).intersection(
            *(runs["method_label"] for _, runs in seeds)
        )
        for seed, runs in seeds:
            runs = runs[runs["method_label"].isin(common)]
            varied = runs["count_entropy"].nunique() > 1 and runs["test_accuracy"].nunique() > 1
            if len(runs) >= LEAST_METHODS and varied:
                rho = stats.spearmanr(runs["count_entropy"], runs["test_accuracy"]).statistic
                rows.append((augmentation, budget, seed, rho))
    pooled = pool(pd.DataFrame(rows, columns=[*CELL, "seed", "value"]), CELL)
    yield Case("rank correlation", pooled, above(0), unit="", most=1)


def beats_fixed_subset(part: Study) -> Iterator[Case]:
    """unif-SGD against a fixed random subset, at each budget over all augmentations."""
    part = budgeted(part)
    for budget in part.budgets:
        here = part.where("budget", budget)
        fixed = select(here, method="random-subset")
        pooled = pair(select(here, method=REFERENCE), fixed, CELL)
        yield Case(f"{REFERENCE} - random-subset at {100 * budget:g}%", pooled, above(0))


def stays_close_to_whole(part: Study) -> Iterator[Case]:
    """unif-SGD at each published budget against SGD at the whole one, standard augmentation."""
    published = UNIFORM.get(part.runs["dataset"].iloc[0], {})
    if set(part.runs["schedule"]) != {"linear"}:
        return
    whole = select(part, method="SGD", augmentation_label="standard", budget=1.0)
    for budget in [budget for budget in published if budget < 1]:
        runs = select(part, method=REFERENCE, augmentation_label="standard", budget=budget)
        loss = published[1.0] - published[budget]
        ours = f", mean {runs['test_accuracy'].mean():.2f}%" if len(runs) else ""
        subject = (
            f"{REFERENCE} {100 * budget:g}%{ours} (published {published[budget]:.1f}%, "
            f"{-loss:+.1f} points) - SGD 100%"
        )
        yield Case(subject, pair(runs, whole, ["setup"]), above(-loss - CLOSE))


def worst_class_gains(part: Study) -> Iterator[Case]:
    yield from hardness_weighting_gains(part, "worst_class_accuracy")


def low_percentile_gains(part: Study) -> Iterator[Case]:
    yield from hardness_weighting_gains(part, "class_accuracy_p5")


def worst_group_gains(part: Study) -> Iterator[Case]:
    yield from hardness_weighting_gains(part, "worst_group_accuracy")


def low_group_percentile_gains(part: Study) -> Iterator[Case]:
    yield from hardness_weighting_gains(part, "group_accuracy_p5")


def hardness_weighting_gains(part: Study, column: str) -> Iterator[Case]:
    """dro against SGD in an accuracy over classes or groups, at every budget.

    With its default options, which the claim is of; its variants stand beside it.
    """
    plain = select(part, method="SGD")
    for label, runs in methods_of(part, ("dro",)):
        pooled = pair(runs, plain, CELL, column)
        yield Case(f"{label} - SGD", pooled, above(0), counts=label == "dro")
