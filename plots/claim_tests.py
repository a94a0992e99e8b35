"""The study's claims as tests on the runs of one setup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd
from scipy import stats

from .estimates import estimate
from .evidence import (
    CONTRADICTED,
    SUPPORTED,
    TOO_FEW,
    UNDECIDED,
    Evidence,
    Pooled,
    describe,
    judge,
    pair,
    pool,
)
from .study import CELL, REFERENCE, Study

#: Methods that favour images by what the network makes of them.
IMPORTANCE = (
    "p-SGD",
    "c-SGD",
    "selective-backprop",
    "dro",
    "infobatch",
    "grad-norm",
    "rho-loss",
    "obftf",
    "cvar",
)
STRONG = "ricap"  # the stronger augmentation, named beforehand so that none is picked by its result
NEGLIGIBLE = 0.5  # points: a smaller advantage is none
CLOSE = 1.0  # points: within which accuracies are about equal
CONSISTENT = 0.75  # of the cells, that a consistent advantage shows in
LEAST_METHODS = 4  # to correlate over
#: Arazo et al. 2021: percent of unif-SGD, linear schedule, by budget; 1 is full training.
PUBLISHED = {
    "cifar10": {0.2: 92.0, 0.3: 92.8, 0.5: 93.8, 0.7: 94.0, 1.0: 94.6},
    "cifar100": {0.2: 70.5, 0.3: 71.7, 0.5: 73.1, 0.7: 74.4, 1.0: 74.6},
}


class Case(NamedTuple):
    """One case of a claim: what is compared, and the evidence."""

    subject: str
    evidence: Evidence


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


def evidence(pooled: Pooled | None, verdict: Callable[[Pooled], str]) -> Evidence:
    if pooled is None:
        return Evidence(TOO_FEW, "")
    return Evidence(verdict(pooled), describe(pooled))


def budgeted(part: Study) -> Study:
    return Study(part.runs[part.runs["budget"] < 1], part.curves)


def no_consistent_advantage(part: Study) -> Iterator[Case]:
    """Each importance-sampling method against unif-SGD, under a budget."""
    part = budgeted(part)
    uniform = select(part, method=REFERENCE)
    found = list(methods_of(part, IMPORTANCE))

    def verdict(pooled: Pooled) -> str:
        reversed_verdict = judge(-pooled.seeds, 0, len(found))
        if pooled.positive >= CONSISTENT * len(pooled.cells) and reversed_verdict == CONTRADICTED:
            return CONTRADICTED
        small = estimate(pooled.seeds).high < NEGLIGIBLE
        return SUPPORTED if small else UNDECIDED

    for label, runs in found:
        yield Case(f"{label} - {REFERENCE}", evidence(pair(runs, uniform, CELL), verdict))


def augmentation_helps_more(part: Study) -> Iterator[Case]:
    """unif-SGD with the stronger augmentation against each method with the standard one."""
    part = budgeted(part)
    strong = select(part, method=REFERENCE, augmentation=STRONG)
    found = list(methods_of(part, IMPORTANCE))
    for label, runs in found:
        pooled = pair(strong, runs[runs["augmentation"] == "standard"], ["budget"])
        subject = f"{REFERENCE} {STRONG} - {label} standard"
        yield Case(subject, evidence(pooled, lambda pooled: judge(pooled.seeds, 0, len(found))))


def third_equals_whole(part: Study) -> Iterator[Case]:
    """unif-SGD with the stronger augmentation at 30% against SGD with the standard one at 100%."""
    if part.runs["dataset"].iloc[0] in PUBLISHED:
        strong = select(part, method=REFERENCE, augmentation=STRONG, budget=0.3)
        whole = select(part, method="SGD", augmentation="standard", budget=1.0)
        pooled = pair(strong, whole, ["setup"])
        subject = f"{REFERENCE} {STRONG} 30% - SGD standard 100%"
        yield Case(subject, evidence(pooled, lambda pooled: judge(pooled.seeds, -CLOSE)))


def even_use_is_better(part: Study) -> Iterator[Case]:
    """Rank correlation of entropy and accuracy over methods, in each cell and seed."""
    rows = []
    for (augmentation, budget, seed), runs in budgeted(part).runs.groupby([*CELL, "seed"]):
        varied = runs["count_entropy"].nunique() > 1 and runs["test_accuracy"].nunique() > 1
        if len(runs) >= LEAST_METHODS and varied:
            rho = stats.spearmanr(runs["count_entropy"], runs["test_accuracy"]).statistic
            rows.append((augmentation, budget, seed, rho))
    pooled = pool(pd.DataFrame(rows, columns=[*CELL, "seed", "value"]), CELL)
    if pooled is None:
        yield Case("rank correlation", Evidence(TOO_FEW, ""))
    else:
        yield Case("rank correlation", Evidence(judge(pooled.seeds), describe(pooled, "")))


def beats_fixed_subset(part: Study) -> Iterator[Case]:
    """unif-SGD against a fixed random subset, at each budget over all augmentations."""
    part = budgeted(part)
    for budget in part.budgets:
        here = part.where("budget", budget)
        fixed = select(here, method="random-subset")
        pooled = pair(select(here, method=REFERENCE), fixed, CELL)
        subject = f"{REFERENCE} - random-subset at {100 * budget:g}%"
        tests = len(part.budgets)
        yield Case(
            subject,
            evidence(pooled, lambda pooled, tests=tests: judge(pooled.seeds, 0, tests)),
        )


def stays_close_to_whole(part: Study) -> Iterator[Case]:
    """unif-SGD at each published budget against SGD at the whole one, standard augmentation."""
    published = PUBLISHED.get(part.runs["dataset"].iloc[0], {})
    if set(part.runs["schedule"]) != {"linear"}:
        return
    whole = select(part, method="SGD", augmentation="standard", budget=1.0)
    for budget in [budget for budget in published if budget < 1]:
        runs = select(part, method=REFERENCE, augmentation="standard", budget=budget)
        loss = published[1.0] - published[budget]
        bound, tests = -loss - CLOSE, len(published) - 1
        outcome = evidence(
            pair(runs, whole, ["setup"]),
            lambda pooled, bound=bound, tests=tests: judge(pooled.seeds, bound, tests),
        )
        ours = f", mean {runs['test_accuracy'].mean():.2f}%" if len(runs) else ""
        subject = (
            f"{REFERENCE} {100 * budget:g}%{ours} (published {published[budget]:.1f}%, "
            f"{-loss:+.1f} points) - SGD 100%"
        )
        yield Case(subject, outcome)


def worst_class_gains(part: Study) -> Iterator[Case]:
    yield from hardness_weighting_gains(part, "worst_class_accuracy")


def low_percentile_gains(part: Study) -> Iterator[Case]:
    yield from hardness_weighting_gains(part, "class_accuracy_p5")


def hardness_weighting_gains(part: Study, column: str) -> Iterator[Case]:
    """dro against SGD in a class accuracy, at every budget."""
    plain = select(part, method="SGD")
    found = list(methods_of(part, ("dro",)))
    for label, runs in found:
        pooled = pair(runs, plain, CELL, column)
        outcome = evidence(pooled, lambda pooled: judge(pooled.seeds, 0, len(found)))
        yield Case(f"{label} - SGD", outcome)
