"""A results folder as a study: its runs and curves, cells, differences and gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pandas as pd

from augmentations import AUGMENTATIONS
from engine.run_folder import GROUP_COLUMNS, TRAINING_SECONDS
from engine.runs import CLASS_COLUMNS, NEEDED

from .cells import arrange
from .estimates import Estimate, Unpaired, estimate, without_pairing
from .evidence import paired
from .runs import read_runs
from .style import in_order

REFERENCE = "unif-SGD"  # that the others are compared with
CELL = ["augmentation_label", "budget"]  # of one setup, in which methods meet
Place = tuple[str, str, float]  # of a cell in its setup: labels of method and augmentation, budget
ACCURACIES = ["test_accuracy", *CLASS_COLUMNS]
GROUPS = list(GROUP_COLUMNS)  # likewise, of runs whose images come in groups
COSTS = ["count_entropy", "images_scored", "images_trained", "seconds"]


@dataclass(frozen=True)
class Study:
    """Runs to compare.

    `runs` has a row per run: its place in the grid and the numbers of its last epoch, which are
    those that count. `curves` has a row per run and epoch. `notes` are lines for the user.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def where(self, column: str, *values: object) -> Study:
        """The part whose `column` has one of some values."""
        return Study(*(table[table[column].isin(values)] for table in (self.runs, self.curves)))

    def compared(self) -> Study:
        """The part at budgets that have two methods or more to compare; all, if none has."""
        methods = self.runs.groupby("budget")["method_label"].nunique()
        return self.where("budget", *methods.index[(methods > 1) | (methods.max() == 1)])

    def split(self, column: str) -> Iterator[tuple[str, Study]]:
        """A part for each value of a column, in the order that they are found."""
        for value in self.runs[column].unique() if len(self.runs) else ():
            yield value, self.where(column, value)

    @property
    def title(self) -> str:
        """Return the title of a study of one setup."""
        return self.runs["title"].iloc[0]

    @property
    def budget_unit(self) -> str:
        """Return what the budgets of one setup are fractions of."""
        return "compute" if self.runs["compute_budget"].iloc[0] else "iterations"

    @property
    def augmented_title(self) -> str:
        """Return the title of a study of one setup and augmentation."""
        return f"{self.title}, {self.runs['augmentation_label'].iloc[0]}"

    @property
    def accuracy(self) -> str:
        """Return what the accuracies of one setup are of, for an axis."""
        return "test" if self.runs["validation"].isna().all() else "validation"

    @property
    def augmentations(self) -> list[str]:
        pairs = self.runs[["augmentation", "augmentation_label"]].drop_duplicates()
        known = {name: i for i, name in enumerate(AUGMENTATIONS)}
        ordered = sorted(
            pairs.itertuples(index=False), key=lambda pair: (known.get(pair[0], len(known)), *pair)
        )
        return [label for _, label in ordered]

    @property
    def budgets(self) -> list[float]:
        return sorted(self.runs["budget"].unique())

    @property
    def methods(self) -> list[tuple[str, str, int]]:
        """Label, method and variant of each, in order."""
        return in_order(self.runs)


def read_study(results: Path) -> Study:
    """Read the finished runs below a folder; there may be none, as the notes then say.

    Raises:
        UsageError: when `results` is no folder, or holds two results for one cell and seed.
    """
    runs, notes = read_runs(results)
    if not runs:
        return Study(pd.DataFrame(), pd.DataFrame(), notes)
    table, more = arrange(runs, results)
    numbers = ["step", "train_accuracy", *NEEDED, *CLASS_COLUMNS, *GROUPS]
    curves = pd.concat(
        [runs[index].curve.reindex(columns=numbers).assign(run=index) for index in table.index]
    )
    curves["seconds"] = curves[list(TRAINING_SECONDS)].sum(axis=1)
    curves["images_processed"] = curves["images_scored"] + curves["images_trained"]
    curves = curves.merge(table, left_on="run", right_index=True)
    study = Study(curves[curves["epoch"] == curves["epochs"]], curves, [*notes, *more])
    study.notes.extend(gaps(study))
    return study


def cells(part: Study) -> Iterator[tuple[Place, pd.DataFrame]]:
    """Method, augmentation and budget of each cell of one setup, and its runs."""
    yield from part.runs.groupby(["method_label", *CELL], sort=False)


def summarise(study: Study) -> pd.DataFrame:
    """One row per cell: what it is, n seeds, and of each accuracy mean, sd and interval.

    The interval is `low` to `high`, 95% by Student's t; it and sd are NaN for n = 1. Entropy,
    images and seconds are means over the seeds, of whole runs, without evaluation.
    """
    place = ["setup", "dataset", "model", "epochs", "imbalance", "label_noise", "method"]
    place += ["method_options", "augmentation", "augmentation_options", "compute_budget", "budget"]
    rows = []
    for _, part in study.split("setup"):
        for _, cell in cells(part):
            row = cell[place].iloc[0].to_dict() | {"n": len(cell)}
            row["seeds"] = " ".join(map(str, sorted(cell["seed"])))
            for column in ACCURACIES + [name for name in GROUPS if cell[name].notna().all()]:
                numbers = estimate(cell[column])._asdict()
                row |= {f"{column}_{name}": numbers[name] for name in ("mean", "sd", "low", "high")}
            row |= {column: cell[column].mean() for column in COSTS}
            row |= {"tuned": cell["tuned"].iloc[0]}
            row |= {"other_settings": cell["others"].iloc[0], "versions": cell["versions"].iloc[0]}
            rows.append(row)
    return pd.DataFrame(rows)


def is_plain(runs: pd.DataFrame) -> pd.Series:
    """Whether runs are of balanced classes with right labels, on a budget of iterations."""
    return runs["imbalance"].isna() & runs["label_noise"].isna() & ~runs["compute_budget"]


def paired_differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Every run against `REFERENCE`'s run of the same setup, augmentation, budget and seed.

    Returns:
        The runs that have such a counterpart, as `paired` does: `value` is in percentage points.
    """
    reference = runs["method"] == REFERENCE
    theirs = runs.loc[reference, ["setup", *CELL, "seed", "test_accuracy"]]
    return paired(runs[~reference], theirs, ["setup", *CELL], "test_accuracy")


def summarise_differences(study: Study) -> pd.DataFrame:
    """One row per cell with a counterpart: the mean difference to `REFERENCE`, paired by seed.

    Beside it the correlation over seeds, and Welch's test, which does not pair.
    """
    place = ["setup", "method_label", "augmentation_label", "budget"]
    sides = ["test_accuracy", "test_accuracy_theirs"]
    return pd.DataFrame(
        [
            dict(zip(place, key))
            | estimate(pairs["value"])._asdict()
            | without_pairing(*(pairs[side] for side in sides))._asdict()
            for key, pairs in paired_differences(study.runs).groupby(place, sort=False)
        ],
        columns=[*place, *Estimate._fields, *Unpaired._fields],
    )


def grid_of(part: Study) -> tuple[list[Place], list[Place]]:
    """All cells of one setup's grid; and those of them without a finished run."""
    labels = [label for label, *_ in part.methods]
    wanted = list(product(labels, part.augmentations, part.budgets))
    present = {place for place, _ in cells(part)}
    return wanted, [place for place in wanted if place not in present]


def gaps(study: Study) -> list[str]:
    """A line for each setup whose grid has cells without a finished run."""
    lines = []
    for name, part in study.split("setup"):
        wanted, missing = grid_of(part)
        if missing:
            texts = [f"{m} {a} {b:g}" for m, a, b in missing[:3]] + ["..."] * (len(missing) > 3)
            lines.append(
                f"{name}: no finished run in {len(missing)} of {len(wanted)} cells of the grid: "
                + ", ".join(texts)
            )
    return lines
