"""Results at the command line: `python -m plots list`, `compare` and `leaderboard`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from engine.config import consequential
from engine.config_file import BadRun
from engine.flags import Parser
from engine.run_folder import TRAINING_SECONDS, training_seconds
from engine.runs import StoredRun, find_run, find_runs
from errors import UsageError, exit_status_of, say

from .estimates import estimate
from .study import CELL, REFERENCE, Study, cells, read_study, summarise_differences
from .tables import markdown_table

GAIN = f"to {REFERENCE}"  # a column: the paired difference
ROWS = 12  # of curves side by side, at most


def list_runs(arguments: Sequence[str]) -> int:
    """List the runs below a folder: status, epoch, last accuracy and seconds of training."""
    parser = parser_of("list", list_runs)
    parser.add_argument("results_dir", type=Path, nargs="?", default=Path("results"))

    def work() -> int:
        results = parser.parse_args(arguments).results_dir
        if not results.is_dir():
            raise UsageError(f"{results}: no such folder; give the one that holds the runs")
        stored, faults = find_runs(results)
        for fault in faults:
            say(f"note: {fault}")
        rows = [["run", "status", "epoch", "accuracy", "seconds"]]
        rows += [row_of(run, results) for run in stored]
        print(aligned(rows, left=2))
        print(f"{len(stored)} runs")
        return 0

    return exit_status_of("python -m plots list", work)


def row_of(run: StoredRun, results: Path) -> list[str]:
    name, status = str(run.folder.relative_to(results)), run.status() or "unknown"
    try:
        rows = run.curve_rows()
        last = rows[-1] if rows else {}
        accuracies = [row["test_accuracy"] for row in rows if row.get("test_accuracy")]
        accuracy = f"{float(accuracies[-1]):.2f}" if accuracies else ""
        seconds = f"{training_seconds(last):.0f}" if last else ""
        return [name, status, last.get("epoch", ""), accuracy, seconds]
    except (BadRun, KeyError, TypeError, ValueError):
        return [name, f"{status}, no curve", "", "", ""]


def compare(arguments: Sequence[str]) -> int:
    """Compare two runs: the settings that differ, and their curves side by side."""
    parser = parser_of("compare", compare)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="folder of a run")

    def work() -> int:
        folders = parser.parse_args(arguments).runs
        runs = [read(folder) for folder in folders]
        print(aligned([["setting", *map(str, folders)], *differing(runs)], left=3))
        print()
        rows = side_by_side(runs)
        print(aligned(rows, left=0) if rows[1:] else "no epoch in which both were evaluated")
        return 0

    return exit_status_of("python -m plots compare", work)


def read(folder: Path) -> StoredRun:
    try:
        run = find_run(folder)
    except BadRun as error:
        raise UsageError(f"{error}; restore that file or move it away") from None
    if run is None:
        raise UsageError(f"{folder}: no run there; python -m plots list says which there are")
    return run


def differing(runs: Sequence[StoredRun]) -> list[list[str]]:
    """Rows of what two runs computed differently; their options are among the settings."""
    try:
        found = [run.config() for run in runs]
    except BadRun as error:
        raise UsageError(f"{error}; make the run again") from None
    tables = []
    for config in found:
        settings = consequential(config.settings)
        options = settings.pop("method_options") | settings.pop("augmentation_options")
        facts = {"device": config.device, "precision": config.precision, **config.versions}
        tables.append({**settings, **options, **facts})
    names = dict.fromkeys(name for table in tables for name in table)
    return [
        [name, *(str(table.get(name, "-")) for table in tables)]
        for name in names
        if len({str(table.get(name)) for table in tables}) > 1
    ]


def side_by_side(runs: Sequence[StoredRun]) -> list[list[str]]:
    """A row for each of at most ROWS epochs that both curves were evaluated in."""
    columns = ["train_loss", "test_accuracy", "seconds"]
    curves = []
    for run in runs:
        try:
            curve = run.data_frame("curve.csv")
            curve["seconds"] = curve[list(TRAINING_SECONDS)].sum(axis=1)
            curves.append(curve.set_index("epoch")[columns].dropna())
        except (BadRun, KeyError) as error:
            raise UsageError(f"{run.folder}: no curve to compare ({error})") from None
    common = sorted(set(curves[0].index) & set(curves[1].index))
    kept = common[:: max(1, math.ceil(len(common) / ROWS))]
    kept += [epoch for epoch in common[-1:] if epoch not in kept]
    heads = [f"{column.replace('_', ' ')} {number}" for column in columns for number in (1, 2)]
    rows = [["epoch", *heads]]
    for epoch in kept:
        cells = (curve.loc[epoch, column] for column in columns for curve in curves)
        rows.append([str(epoch), *(f"{cell:.2f}" for cell in cells)])
    return rows


def leaderboard(arguments: Sequence[str]) -> int:
    """Rank the cells of each setup by accuracy, as Markdown or CSV."""
    parser = parser_of("leaderboard", leaderboard)
    parser.add_argument("results_dir", type=Path, nargs="?", default=Path("results"))
    parser.add_argument("--csv", action="store_true", help="as CSV, all setups in one table")

    def work() -> int:
        options = parser.parse_args(arguments)
        study = read_study(options.results_dir)
        if study.runs.empty:
            raise UsageError(f"{options.results_dir}: no finished run there that can be used")
        table = ranked(study)
        if options.csv:
            table.to_csv(sys.stdout, index=False)
            return 0
        for name, part in table.groupby("setup", sort=False):
            print(f"{study.runs.loc[study.runs['setup'] == name, 'title'].iloc[0]}\n")
            print(markdown_table(texts(part)))
        return 0

    return exit_status_of("python -m plots leaderboard", work)


def ranked(study: Study) -> pd.DataFrame:
    """One row per cell, the best of each setup first."""
    places = ["setup", "method_label", *CELL]
    against = summarise_differences(study).set_index(places)[["mean", "p"]]
    rows = []
    for name, part in study.split("setup"):
        own: list[dict[str, Any]] = []
        for place, runs in cells(part):
            found = estimate(runs["test_accuracy"])
            known = (name, *place) in against.index
            difference, p = against.loc[(name, *place)] if known else (math.nan, math.nan)
            row = {"setup": name, **dict(zip(("method", "augmentation", "budget"), place))}
            row |= {"n": found.n, "accuracy": found.mean, "low": found.low, "high": found.high}
            own.append(row | {GAIN: difference, "p": p, "seconds": runs["seconds"].mean()})
        rows += sorted(own, key=lambda row: -row["accuracy"])
    return pd.DataFrame(rows)


def texts(part: pd.DataFrame) -> list[list[str]]:
    rows = [["method", "augmentation", "budget", "n", "accuracy", "95% interval", GAIN]]
    for row in part.itertuples(index=False):
        interval = "" if math.isnan(row.low) else f"{row.low:.2f} to {row.high:.2f}"
        difference = row[part.columns.get_loc(GAIN)]
        against = "" if math.isnan(difference) else f"{difference:+.2f}"
        against += "" if math.isnan(row.p) else f" (p = {row.p:.2g})"
        head = [row.method, row.augmentation, f"{100 * row.budget:g}%", str(row.n)]
        rows.append([*head, f"{row.accuracy:.2f}", interval, against])
    return rows


def parser_of(name: str, work: object) -> Parser:
    return Parser(prog=f"python -m plots {name}", description=work.__doc__, allow_abbrev=False)


def aligned(rows: Iterable[Sequence[str]], left: int) -> str:
    """Rows in columns: the first `left` of them begin at one place, the others end at one."""
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
