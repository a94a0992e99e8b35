"""Reading what runs left in a results folder: the finished ones, with notes on the others."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from engine.config_file import BadRun, Config, read_config
from engine.run_folder import TRAINING_SECONDS, TUNING
from engine.status import find_file, folders_of_runs, read_status
from engine.values import quoted
from errors import UsageError

NEEDED = [
    "epoch",
    "test_accuracy",
    "images_scored",
    "images_trained",
    "count_entropy",
    *TRAINING_SECONDS,
]
GROWING = ["images_scored", "images_trained", *TRAINING_SECONDS]  # counted from the run's start
CLASS_COLUMNS = ["worst_class_accuracy", "class_accuracy_p5"]  # older runs did not log them


class Run(NamedTuple):
    """One finished run.

    The curve has a row per epoch and all of `NEEDED` and `CLASS_COLUMNS`.
    """

    folder: Path
    config: Config
    curve: pd.DataFrame


def read_runs(results: Path) -> tuple[list[Run], list[str]]:
    """Every finished run below `results`, in the order of their folders.

    Returns:
        The runs; and a line on those left out for being unfinished, and on each that is damaged.

    Raises:
        UsageError: when `results` is no folder.
    """
    if not results.is_dir():
        raise UsageError(f"{results}: no such folder; give the one that holds the runs")
    folders = folders_of_runs(results)
    folders = [each for each in folders if TUNING not in each.relative_to(results).parts]
    runs, unfinished, notes = [], Counter(), []
    for folder in folders:
        status = read_status(folder)
        if status != "finished":
            unfinished[status or "without a status"] += 1
            continue
        try:
            runs.append(read_run(folder))
        except BadRun as error:
            notes.append(f"{error}; the run is left out, make it again or remove its folder")
    if unfinished:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(unfinished.items()))
        notes.insert(0, f"{results}: left out what is not finished: {counts}")
    old = [run for run in runs if run.curve[CLASS_COLUMNS].isna().all(axis=None)]
    if old:
        notes.append(
            f"{old[0].folder / 'curve.csv'}: no column {' or '.join(CLASS_COLUMNS)}, as in "
            f"{len(old)} of {len(runs)} runs; they have no part in worst-class accuracy"
        )
    return runs, notes


def read_run(folder: Path) -> Run:
    """Read and check one finished run; a BadRun says what is wrong with it."""
    config = read_config(folder)
    gaps = config.settings["compute_budget"]  # where one step may end several epochs
    path = find_file(folder, "curve.csv")
    return Run(folder, config, read_curve(path, config.settings["epochs"], gaps))


def read_curve(path: Path, epochs: int, gaps: bool = False) -> pd.DataFrame:
    """A curve with numbers wherever figures need them, up to the last of `epochs`.

    Every epoch has a row; with `gaps` some may not.
    """
    curve = read_table(path)
    missing = [name for name in NEEDED if name not in curve]
    if missing:
        raise BadRun(f"{path}: no column {', '.join(missing)}")
    curve = curve.reindex(columns=[*curve, *(set(CLASS_COLUMNS) - set(curve))])
    for name in [*NEEDED, *CLASS_COLUMNS]:
        values = curve[name].astype(object) if curve[name].dtype == bool else curve[name]
        numbers = pd.to_numeric(
            values.mask(values.map(lambda value: isinstance(value, bool))), errors="coerce"
        )
        good = numbers.between(0, 100 if "accuracy" in name else sys.float_info.max)
        # Empty where --eval-every left an epoch out, which is never the last.
        if name == "test_accuracy":
            good |= values.isna() & (curve.index < len(curve) - 1)
        elif name in CLASS_COLUMNS:
            good |= values.isna()
        if not good.all():
            row = int(good.argmin())
            raise BadRun(f"{path}: {quoted(str(values[row]))} for {name} in line {row + 2}")
        curve[name] = numbers
    for name in GROWING:
        shrinks = curve[name].diff() < 0
        if shrinks.any():
            raise BadRun(f"{path}: {name} shrinks in line {int(shrinks.argmax()) + 2}")
    found = list(curve["epoch"])
    fits = sorted({*found}) == found if gaps else found == list(range(1, epochs + 1))
    if not fits or found[-1:] != [epochs]:
        raise BadRun(f"{path}: {len(curve)} rows, not one for each of {epochs} epochs")
    return curve


def read_table(path: Path) -> pd.DataFrame:
    """A CSV whose rows have its header's columns, each once; a BadRun says what is wrong."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows of other lengths
            header = pd.read_csv(path, header=None, nrows=1).iloc[0]
            twice = header[header.duplicated()]
            if len(twice):
                raise ValueError(f"column {quoted(twice.iloc[0])} twice")
            return pd.read_csv(path, index_col=False)
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}") from None
    except (ValueError, Warning) as error:
        raise BadRun(f"{path}: not a CSV ({' '.join(str(error).split())})") from None
