"""Reading what runs left in a results folder: the finished ones, with notes on the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from errors import UsageError
from running.record import TRAINING_SECONDS, TUNING
from running.watch import read_status

NEEDED = [
    "epoch",
    "test_accuracy",
    "images_scored",
    "images_trained",
    "count_entropy",
    *TRAINING_SECONDS,
]
CLASS_COLUMNS = ["worst_class_accuracy", "class_accuracy_p5"]  # older runs did not log them
SETTINGS = {  # that figures and tables need, with their types
    "dataset": str,
    "model": str,
    "method": str,
    "augmentation": str,
    "budget": float,
    "epochs": int,
    "seed": int,
    "method_options": dict,
    "augmentation_options": dict,
}


class Run(NamedTuple):
    """One finished run.

    `settings` and `versions` are those of its config.json, without the settings that were not
    given, and with digests in place of the paths of files, and of the data as `data`; the curve
    has a row per epoch and all of `NEEDED` and `CLASS_COLUMNS`.
    """

    folder: Path
    settings: dict
    versions: dict
    num_images: int
    curve: pd.DataFrame


class BadRun(Exception):
    """A finished run that cannot be used; the message is one line that names the file."""


def read_runs(results: Path) -> tuple[list[Run], list[str]]:
    """Every finished run below `results`, in the order of their folders.

    Returns:
        The runs; and a line on those left out for being unfinished, and on each that is damaged.

    Raises:
        UsageError: when `results` is no folder.
    """
    if not results.is_dir():
        raise UsageError(f"{results}: no such folder; give the one that holds the runs")
    marks = ("status", "config.json", "curve.csv")
    folders = sorted({path.parent for mark in marks for path in results.rglob(mark)})
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
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        settings = {key: value for key, value in config["settings"].items() if value is not None}
        settings |= {name: check(settings, name, kind) for name, kind in SETTINGS.items()}
        num_images = int(config["num_images"])
        settings |= contents(config)
        versions = dict(config["versions"])
    except KeyError as error:
        raise BadRun(f"{path}: {error.args[0]} is missing") from None
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRun(f"{path}: not what train.py writes ({error})") from None
    gaps = bool(settings.get("compute_budget"))  # where one step may end several epochs
    curve = read_curve(folder / "curve.csv", settings["epochs"], gaps)
    return Run(folder, settings, versions, num_images, curve)


def contents(config: Mapping) -> dict[str, object]:
    """The settings that name data and files, told by what these held; none for older runs."""
    short = lambda digest: f"sha256-{digest:.12}"  # noqa: E731
    files = {name: short(digest) for name, digest in config.get("files_sha256", {}).items()}
    told = {"method_options": config["settings"]["method_options"] | files}
    if config.get("data_sha256"):
        told["data"] = short(config["data_sha256"])
    return told


def check(settings: Mapping, name: str, kind: type) -> object:
    """A setting's value as the type that it has to be."""
    value = settings[name]
    if kind is float and isinstance(value, int):
        value = float(value)
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}")
    return value


def read_curve(path: Path, epochs: int, gaps: bool = False) -> pd.DataFrame:
    """A curve with numbers wherever figures need them, up to the last of `epochs`.

    Every epoch has a row; with `gaps` some may not.
    """
    try:
        curve = pd.read_csv(path)
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BadRun(f"{path}: not a CSV ({' '.join(str(error).split())})") from None
    missing = [name for name in NEEDED if name not in curve]
    if missing:
        raise BadRun(f"{path}: no column {', '.join(missing)}")
    curve = curve.reindex(columns=[*curve, *(set(CLASS_COLUMNS) - set(curve))])
    for name in NEEDED:
        numbers = pd.to_numeric(curve[name], errors="coerce")
        bad = ~np.isfinite(numbers)
        if name == "test_accuracy":
            # Empty where --eval-every left an epoch out, which is never the last.
            bad &= curve[name].notna() | (curve.index == len(curve) - 1)
        if bad.any():
            row = int(bad.argmax())
            raise BadRun(f"{path}: '{curve[name][row]}' for {name} in line {row + 2}")
        curve[name] = numbers
    for name in CLASS_COLUMNS:
        curve[name] = pd.to_numeric(curve[name], errors="coerce")
    found = list(curve["epoch"])
    fits = sorted({*found}) == found if gaps else found == list(range(1, epochs + 1))
    if not fits or found[-1:] != [epochs]:
        raise BadRun(f"{path}: {len(curve)} rows, not one for each of {epochs} epochs")
    return curve
