"""Tuning: for each cell of a grid the best of some values, by one trial of each.

A cell is a method with an augmentation, a budget and whatever else the grid says, but for the
values tuned and the seed. A trial has the first seed and is evaluated on images held out of
training. The values with the highest accuracy there after the last epoch, or the first of several,
are then run with the other seeds and evaluated on the test set. So neither the test set nor a seed
that is reported has any part in the choice, and every method has as many trials as the others.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Any

from errors import UsageError

from ..config import settings_with, tunable_settings
from ..flags import build_parser, flag_of, parse, unknown_flag
from ..run_folder import TUNING, write_whole
from ..status import ENDED
from .estimate import DAMAGES
from .grid import Grid, Words, expand, grid_of_words, is_known, owners_of_flags
from .runs import Run, each_once, flatten, read_run

CHOICES = "tuned.csv"  # in the results folder
TRIALS_SEED = 0  # of the choice of --trials
ALWAYS_NAMED = ("dataset", "model", "method", "augmentation", "budget")
#: Settings of a run that are the same in all cells.
NEVER_NAMED = ("seed", "validation", "results_dir", "experiment_name")


@dataclass(frozen=True, eq=False)
class Cell:
    """The trials of a cell, and for each of them the runs to make if it does best."""

    trials: list[Run]
    tests: list[list[Run]]  # of each trial, with the other seeds
    tuned: list[str]  # names of the settings tuned that it takes

    @property
    def results(self) -> Path:
        return Path(self.tests[0][0].settings["results_dir"])

    def has_ended(self) -> bool:
        return all(run.status() in ENDED for run in self.trials)

    def choice(self) -> int | None:
        """The place of the best trial, the first of equals; None if all diverged."""
        accuracies = [accuracy_of(run) for run in self.trials]
        found = [each for each in accuracies if each is not None]
        return accuracies.index(max(found)) if found else None

    def chosen_runs(self) -> list[Run]:
        choice = self.choice()
        return [] if choice is None else self.tests[choice]

    def values(self, trial: int) -> dict[str, object]:
        """The values of the settings tuned that a trial has."""
        settings = flatten(self.trials[trial].settings)
        return {name.replace("_", "-"): settings[name] for name in self.tuned}


def accuracy_of(run: Run) -> float | None:
    """Return the accuracy on the images held out, percent, at the end; None if it diverged."""
    if run.status() == "diverged":
        return None
    try:
        return float(run.stored().last_row()["test_accuracy"])
    except DAMAGES:
        stored = run.stored()
        raise UsageError(
            f"{stored.where('curve.csv')}: damaged; delete {stored.deletion} and start the same "
            "command again"
        ) from None


def list_cells(
    grids: Sequence[Grid], tuned: Mapping[str, Sequence[str]], count: int | None
) -> tuple[list[Cell], list[str]]:
    """The cells of some grids, each once; and train.py's notes on their runs.

    Args:
        grids: without the values tuned.
        tuned: flag -> the values to try.
        count: of trials in each cell, chosen at random; None for all.

    Raises:
        UsageError: on flags that cannot be tuned, on cells with unequal numbers of trials, on
            a single seed, and as `list_runs` does.
    """
    check_tuned(grids, tuned)
    seed = grids[0].get("--seed", [("--seed", "1")])[0]
    cells: list[Cell] = []
    notes: dict[str, None] = {}
    for grid in grids:
        seeds = [each for each in dict.fromkeys(grid.get("--seed", [])) if not same(each, seed)]
        if not seeds:
            raise UsageError(
                f"--tune: tunes with seed {seed[1]} and tests with other ones; give more than one "
                "--seed"
            )
        held_out = grid.get("--validation", [("--validation",)])
        if len(held_out) > 1:
            raise UsageError("--tune: trials hold out one number of images; give one --validation")
        rest = {name: grid[name] for name in grid if name not in ("--seed", "--validation")}
        lines, owners = [*product(*grid_of_words(tuned).values())], owners_of_flags()
        for base in expand([{**rest, **{flag: [()] for flag in tuned}}]):
            pairs = [*pairwise(base)]
            values = [
                tuple(chain(*(words for words in line if is_known(words, pairs, owners))))
                for line in lines
            ]
            cell, more = read_cell(base, values, seed, seeds, held_out[0])
            cells.append(cell)
            notes |= dict.fromkeys(more)
    each_once(run for cell in cells for run in (*cell.trials, *chain(*cell.tests)))
    cells = merged(cells)
    for flag in tuned:
        if not any(flag[2:].replace("-", "_") in cell.tuned for cell in cells):
            raise UsageError(f"--tune {flag[2:]}: no method of the grid takes it; leave it out")
    return with_equal_trials(cells, count), list(notes)


def same(words: Words, others: Words) -> bool:
    """Decide whether two seeds are one, as 1 and 01 are."""
    try:
        return [*map(int, words[1:])] == [*map(int, others[1:])]
    except ValueError:  # which is refused as the run is read
        return words == others


def check_tuned(grids: Sequence[Grid], tuned: Iterable[str]) -> None:
    known = [flag_of(name) for name in tunable_settings()]
    for flag in tuned:
        if f"--{flag[2:]}" not in known:
            raise unknown_tuned(known, flag)
    if any("--experiment-name" in grid for grid in grids):
        raise UsageError("--experiment-name: not with --tune, whose runs have names of their own")


def unknown_tuned(known: Sequence[str], flag: str) -> UsageError:
    if flag in build_parser().known_flags():
        names = ", ".join(name[2:] for name in known[: len(settings_with("tunable"))])
        return UsageError(
            f"--tune {flag[2:]}: not to be tuned; give one of {names}, or an option with a value "
            "of a method or an augmentation"
        )
    return unknown_flag(known, flag)


def read_cell(
    base: Words, values: Sequence[Words], seed: Words, seeds: Sequence[Words], held_out: Words
) -> tuple[Cell, list[str]]:
    """The cell of some flags, `base`, in which each of `values` is tried; and notes on its runs."""
    results = parse(base)[0].results_dir
    into = ("--results-dir", str(Path(results) / TUNING))
    trials: dict[Path, Run] = {}
    tests, notes = [], []
    for words in values:
        run, more = read_run((*base, *seed, *words, *held_out, *into))
        notes += more
        if run.path in trials:  # values that the method does not take
            continue
        trials[run.path] = run
        tuned = [name for name in names_of(values) if name in flatten(run.settings)]
        mark = ("--tuned", ",".join(name.replace("_", "-") for name in tuned)) if tuned else ()
        tests.append([read_run((*base, *other, *words, *mark))[0] for other in seeds])
        if tests[-1][0].settings["validation"]:
            raise UsageError("--tune: tests on the test set; hold images out by --validation alone")
    return Cell(list(trials.values()), tests, tuned), notes


def names_of(values: Sequence[Words]) -> list[str]:
    """The settings that words such as --lr 0.1 --gamma 0.2 give."""
    return [word[2:].replace("-", "_") for word in values[0] if word.startswith("--")]


def merged(cells: Iterable[Cell]) -> list[Cell]:
    """The different ones of some cells, each with the test runs of all its equals."""
    found: dict[tuple[Path, ...], Cell] = {}
    for cell in cells:
        first = found.setdefault(tuple(run.path for run in cell.trials), cell)
        if first is not cell:
            for ours, theirs in zip(first.tests, cell.tests):
                ours += theirs
    return list(found.values())


def with_equal_trials(cells: Sequence[Cell], count: int | None) -> list[Cell]:
    """The cells with so many trials each, or all of them if they are equally many."""
    fewest = min(cells, key=lambda cell: len(cell.trials))
    most = max(cells, key=lambda cell: len(cell.trials))
    low, high = (
        f"{cell.trials[0].settings['method']} has {len(cell.trials)}" for cell in (fewest, most)
    )
    if count is None and len(fewest.trials) < len(most.trials):
        raise UsageError(
            f"--tune: {low} trials and {high}; give --trials {len(fewest.trials)} to try as many "
            "of each, chosen at random"
        )
    if count is not None and count > len(fewest.trials):
        raise UsageError(f"--trials {count}: {low} only; give more values, or fewer trials")
    return [cell if count is None else sample(cell, count) for cell in cells]


def sample(cell: Cell, count: int) -> Cell:
    """The cell with `count` of its trials, the same in every sweep, in their order."""
    places = sorted(random.Random(TRIALS_SEED).sample(range(len(cell.trials)), count))
    return Cell([cell.trials[i] for i in places], [cell.tests[i] for i in places], cell.tuned)


def write_choices(cells: Iterable[Cell]) -> None:
    """Write what was tried and chosen, a row for each cell whose trials have ended."""
    of_results: dict[Path, list[Cell]] = {}
    for cell in cells:
        if cell.has_ended():
            of_results.setdefault(cell.results, []).append(cell)
    for results, ended in of_results.items():
        places = [flatten(cell.trials[0].settings) for cell in ended]
        named = [name for name in places[0] if is_named(name, places)]
        tuned = {*chain(*(cell.tuned for cell in ended))}
        rows = [
            {name: place.get(name) for name in named if name not in tuned} | row_of(cell)
            for cell, place in zip(ended, places)
        ]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, dict.fromkeys(chain(*rows)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(results / CHOICES, text.getvalue().encode())


def is_named(name: str, places: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether to say what value a setting, which all cells have, has in each."""
    if name in NEVER_NAMED or not all(name in place for place in places):
        return False
    return name in ALWAYS_NAMED or any(place[name] != places[0][name] for place in places)


def row_of(cell: Cell) -> dict[str, object]:
    """The values chosen, their accuracy in percent, and that of each trial."""
    accuracies = [accuracy_of(run) for run in cell.trials]
    choice = cell.choice()
    best = {}
    if choice is not None:
        best = cell.values(choice) | {"validation_accuracy": accuracies[choice]}
    trials = {}
    for place, accuracy in enumerate(accuracies):
        values = " ".join(f"{name}={value}" for name, value in cell.values(place).items())
        trials[values] = "diverged" if accuracy is None else accuracy
    return best | trials
