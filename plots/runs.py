"""The finished runs of a results folder, with notes on the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from engine.config_file import BadRun, Config
from engine.run_folder import TUNING
from engine.runs import CLASS_COLUMNS, find_runs
from errors import UsageError


class Run(NamedTuple):
    """One finished run; its curve is as `engine.runs` checks it."""

    folder: Path
    config: Config
    curve: pd.DataFrame


def read_runs(results: Path) -> tuple[list[Run], list[str]]:
    """Return every finished run below `results`, in the order of their folders.

    Returns:
        The runs; and a line on those left out for being unfinished, and on each that is damaged.

    Raises:
        UsageError: when `results` is no folder.
    """
    if not results.is_dir():
        raise UsageError(f"{results}: no such folder; give the one that holds the runs")
    stored, faults = find_runs(results)
    notes = [f"{error}; the pack is left out" for error in faults]
    runs: list[Run] = []
    unfinished: Counter[str] = Counter()
    for each in stored:
        if TUNING in each.folder.relative_to(results).parts:
            continue
        status = each.status()
        if status != "finished":
            unfinished[status or "without a status"] += 1
            continue
        try:
            config = each.config()
            runs.append(Run(each.folder, config, each.curve(config)))
        except BadRun as error:
            notes.append(f"{error}; the run is left out, make it again or remove {each.removal}")
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
