"""Published quantities next to the same ones here, in differences that do not depend on scale.

python -m plots published [RESULTS_DIR]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .command import run_command
from .estimates import LEAST_PAIRS, Estimate, estimate
from .evidence import paired
from .study import REFERENCE, Study, is_plain
from .tables import EMPTY, markdown_table

#: Arazo et al. 2021 read off its figures, ResNet-18 for 200 epochs: percent of unif-SGD with the
#: linear schedule by budget, 1 is full training; and of a fixed random subset.
UNIFORM = {
    "cifar10": {0.2: 92.0, 0.3: 92.8, 0.5: 93.8, 0.7: 94.0, 1.0: 94.6},
    "cifar100": {0.2: 70.5, 0.3: 71.7, 0.5: 73.1, 0.7: 74.4, 1.0: 74.6},
}
SUBSET = {
    "cifar10": {0.2: 84.5, 0.3: 87.6, 0.5: 90.2, 0.7: 91.8},
    "cifar100": {0.2: 46.2, 0.3: 54.2, 0.5: 61.7, 0.7: 65.9},
}
#: Entropies of image counts on CIFAR-10, at most log(50,000) = 10.82.
ENTROPIES = {
    "p-SGD": 10.77,
    "p-SGD (smoothing 0)": 10.69,
    "p-SGD (smoothing 0, last visit)": 10.39,
}
MOST = np.log(50_000)
IMPORTANCE = ("p-SGD", "c-SGD", "selective-backprop", "dro")
FILE = "published.md"


class Row(NamedTuple):
    """A quantity: its published value as text and, where it is a number, as one; and ours."""

    quantity: str
    published: str
    value: float | None
    ours: Estimate
    digits: int = 2


def rows_of(part: Study) -> Iterator[Row]:
    """The quantities of one setup on a data set with published numbers, with those it has runs of.

    Differences are of last-epoch accuracies, in percentage points, paired by seed.
    """
    dataset = part.runs["dataset"].iloc[0]
    uniform, subset = UNIFORM[dataset], SUBSET[dataset]
    plain = part.where("augmentation_label", "standard")
    whole = cell(plain, "SGD", 1.0)
    for budget in [budget for budget in uniform if budget < 1]:
        value = uniform[budget] - uniform[1.0]
        ours = difference(cell(plain, REFERENCE, budget), whole)
        yield Row(f"{REFERENCE} at {budget:.0%} - full training", f"{value:+.1f}", value, ours)
    for budget in subset:
        value = subset[budget] - uniform[budget]
        ours = difference(cell(plain, "random-subset", budget), cell(plain, REFERENCE, budget))
        yield Row(f"random-subset - {REFERENCE} at {budget:.0%}", f"{value:+.1f}", value, ours)
    ricap = part.where("augmentation_label", "ricap")  # with its own options, not a variant
    ours = difference(cell(ricap, REFERENCE, 0.3), whole)
    yield Row(f"{REFERENCE} with RICAP at 30% - full training, standard", "about 0", 0.0, ours)
    for budget in part.budgets:
        for label, method, _ in plain.methods:
            if method in IMPORTANCE and budget < 1:
                ours = difference(cell(plain, label, budget), cell(plain, REFERENCE, budget))
                yield Row(f"{label} - {REFERENCE} at {budget:.0%}", "about 0", 0.0, ours)
    for label, nats in ENTROPIES.items():
        for budget in part.budgets:
            runs = cell(plain, label, budget)
            ours = estimate(runs["count_entropy"] / np.log(runs["num_images"]))
            title = f"H(c) of {label} at {budget:.0%}, of the most"
            yield Row(title, f"{nats / MOST:.3f}", None, ours, 3)


def cell(part: Study, label: str, budget: float) -> pd.DataFrame:
    return part.where("method_label", label).where("budget", budget).runs


def difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> Estimate:
    return estimate(paired(ours, theirs, (), "test_accuracy")["value"])


def judged(row: Row) -> str:
    """Say whether the published number is within the interval of ours."""
    if row.value is None or row.ours.n < LEAST_PAIRS:
        return EMPTY
    if row.ours.low <= row.value <= row.ours.high:
        return "in the interval"
    return "ours is higher" if row.ours.mean > row.value else "ours is lower"


def markdown_published(study: Study) -> str:
    """A table for each setup on a data set with published numbers."""
    tables = []
    for _, part in study.split("setup"):
        runs = part.runs
        linear = (runs["schedule"] == "linear").all()
        if runs["dataset"].iloc[0] not in UNIFORM or not linear or not is_plain(runs).all():
            continue
        rows = [["quantity", "published", "here", "95% interval", "n", "published number"]]
        for row in rows_of(part):
            if row.ours.n:
                ours = row.ours
                sign = "" if row.digits == 3 else "+"
                interval = f"{ours.low:{sign}.{row.digits}f} to {ours.high:{sign}.{row.digits}f}"
                mean = f"{ours.mean:{sign}.{row.digits}f}"
                interval = interval if ours.n > 1 else EMPTY
                rows.append([row.quantity, row.published, mean, interval, str(ours.n), judged(row)])
        tables.append(
            f"{part.title}: published quantities (Arazo et al. 2021: ResNet-18, 200 epochs) and "
            "the same here, in percentage points of last-epoch accuracy, paired by seed. The last "
            f"column says whether the published number is within the 95% interval of ours "
            f"({LEAST_PAIRS} seeds or more); no level is corrected for the number of rows.\n\n"
            f"{markdown_table(rows)}"
        )
    return "\n".join(tables)


def main(arguments: Sequence[str]) -> int:
    """Print what was published beside what was found, and write it to published.md."""

    def work(study: Study, results: Path) -> None:
        text = markdown_published(study)
        print(text or "no runs on a data set with published numbers")
        if text:
            (results / FILE).write_text(text, encoding="utf-8")

    return run_command("plots published", main.__doc__ or "", work, arguments)
