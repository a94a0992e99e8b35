"""One page with all results of a folder, which a browser opens without a network.

python -m plots report [RESULTS_DIR] [--out FILE] [--watch]
"""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex

from budgetbench import __version__
from engine.config_file import BadRun
from engine.flags import Parser
from engine.run_folder import write_whole
from engine.runs import StoredRun, find_run, find_runs
from errors import UsageError, exit_status_of, say

from .budgets import full_training
from .estimates import estimate
from .study import REFERENCE, Place, Study, cells, grid_of, paired_differences, read_study
from .style import line_style
from .tables import compute

PAGE = Path(__file__).with_name("report.html")
DESCRIPTION = (
    "Write one HTML page with all that the finished runs in RESULTS_DIR show: a leaderboard, "
    "accuracy against budget and cost, paired differences, the time to reach the accuracy of full "
    "training, classes and groups, what is missing, and the command of every run."
)
CURVE = ["run", "epoch", "step", "images_processed", "seconds", "test_accuracy"]  # what is drawn
POINTS = 60  # of a curve, at most: what a line on a screen shows
TARGETS = (0.9, 0.95, 0.99)  # of full training's accuracy
WATCH_SECONDS = 10.0


def page(study: Study, results: Path) -> str:
    """The page as a text."""
    from plotly.offline import get_plotlyjs

    content = {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
        "folder": str(results),
        "reference": REFERENCE,
        "targets": TARGETS,
        "setups": [setup(name, part, results) for name, part in study.split("setup")],
        "runs": commands(results),
        "notes": study.notes,
    }
    # A script of HTML ends at the first `</`, whatever is around it.
    data = json.dumps(content, separators=(",", ":"), default=plain).replace("</", "<\\/")
    template = PAGE.read_text(encoding="utf-8")
    return template.replace("/*PLOTLY*/", get_plotlyjs()).replace("/*DATA*/", data)


def plain(value: Any) -> Any:
    """A number of NumPy's as one of JSON's."""
    return value.item()


def number(value: float, digits: int = 3) -> float | None:
    """Rounded; None for what is no number."""
    return None if value is None or math.isnan(value) else round(float(value), digits)


def setup(name: str, part: Study, results: Path) -> dict[str, Any]:
    """All that the page shows of one setup."""
    full = full_training(part)["test_accuracy"].mean()
    pairs = paired_differences(part.runs)
    curves = part.curves[CURVE]
    return {
        "name": name,
        "title": part.title,
        "dataset": part.runs["dataset"].iloc[0],
        "accuracy": part.accuracy,
        "unit": part.budget_unit,
        "full": number(full),
        "augmentations": part.augmentations,
        "budgets": part.budgets,
        "methods": [
            {"label": label, "colour": to_hex(line_style(method, variant)["color"])}
            for label, method, variant in part.methods
        ],
        "cells": [cell(key, runs, curves, pairs, full, results) for key, runs in cells(part)],
        "missing": [f"{m}, {a}, {100 * b:g}%" for m, a, b in grid_of(part)[1]],
    }


def cell(
    key: Place,
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    pairs: pd.DataFrame,
    full: float,
    results: Path,
) -> dict[str, Any]:
    """Numbers of one method, augmentation and budget, over its seeds."""
    method, augmentation, budget = key
    found = estimate(runs["test_accuracy"])
    own = curves[curves["run"].isin(runs["run"])]
    mine = pairs[
        (pairs["method_label"] == method)
        & (pairs["augmentation_label"] == augmentation)
        & (pairs["budget"] == budget)
    ]
    against = estimate(mine["value"])
    return {
        "method": method,
        "augmentation": augmentation,
        "budget": budget,
        "n": found.n,
        "mean": number(found.mean),
        "low": number(found.low),
        "high": number(found.high),
        "cost": number(compute(runs).mean()),
        "seconds": number(runs["seconds"].mean(), 1),
        "entropy": number(runs["count_entropy"].mean()),
        "difference": number(against.mean) if len(mine) else None,
        "difference_low": number(against.low) if len(mine) else None,
        "difference_high": number(against.high) if len(mine) else None,
        "p": number(against.p, 4) if len(mine) else None,
        "worst_class": number(runs["worst_class_accuracy"].mean()),
        "worst_group": number(runs["worst_group_accuracy"].mean()),
        "curve": curve(own),
        "reached": [reached(own, share * full) for share in TARGETS],
        "classes": bars(runs, results, "class"),
        "groups": bars(runs, results, "group"),
    }


def curve(rows: pd.DataFrame) -> dict[str, list]:
    """The mean curve over seeds, of at most `POINTS` evaluated epochs."""
    rows = rows.dropna(subset="test_accuracy")
    means = rows.drop(columns="run").groupby("epoch").mean()
    kept = means.iloc[:: max(1, math.ceil(len(means) / POINTS))]
    if len(means) and kept.index[-1] != means.index[-1]:
        kept = pd.concat([kept, means.iloc[[-1]]])
    return {
        "epoch": kept.index.tolist(),
        "step": kept["step"].round().tolist(),
        "images": kept["images_processed"].round().tolist(),
        "seconds": kept["seconds"].round(1).tolist(),
        "accuracy": kept["test_accuracy"].round(2).tolist(),
    }


def reached(rows: pd.DataFrame, target: float) -> dict[str, Any] | None:
    """Steps, images and seconds until the first evaluation at a target: means over seeds.

    None unless every seed gets there.
    """
    if math.isnan(target):
        return None
    there = rows[rows["test_accuracy"] >= target].groupby("run").first()
    if len(there) < rows["run"].nunique():
        return None
    means = there[["step", "images_processed", "seconds"]].mean()
    return dict(zip(("step", "images", "seconds"), means.round(1).tolist()))


def bars(runs: pd.DataFrame, results: Path, kind: str) -> dict[str, list]:
    """Accuracy of each class or group: means over the seeds whose runs have the table."""
    tables = []
    for folder in runs["folder"]:
        stored = find_run(results / folder)
        if stored is not None and stored.has(f"per_{kind}.csv"):
            tables.append(stored.data_frame(f"per_{kind}.csv"))
    if not tables:
        return {"names": [], "accuracy": []}
    means = pd.concat(tables).groupby(kind, sort=False)["test_accuracy"].mean()
    return {"names": means.index.map(str).tolist(), "accuracy": means.round(2).tolist()}


def commands(results: Path) -> list[dict[str, str]]:
    """Folder, status and command of every run, finished or not."""
    return [
        {
            "folder": str(stored.folder.relative_to(results)),
            "status": stored.status() or "unknown",
            "command": command_of(stored),
        }
        for stored in find_runs(results)[0]
    ]


def command_of(stored: StoredRun) -> str:
    """Return the command of a run; nothing where its config.json is damaged."""
    try:
        return f"python {stored.content()['command']}"
    except (BadRun, KeyError, TypeError):
        return ""


def write(results: Path, out: Path) -> Path:
    """Write the page; a UsageError where there is nothing to show."""
    study = read_study(results)
    if study.runs.empty:
        raise UsageError(f"{results}: no finished run there that can be used; make one first")
    text = page(study, results)
    try:
        write_whole(out, text.encode())
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; name another file") from None
    return out


def state_of(results: Path) -> int:
    """A number that changes when runs do."""
    files = [*results.rglob("status"), *results.rglob("runs.csv"), *results.rglob("curve.csv")]
    times = []
    for path in files:
        with suppress(FileNotFoundError):  # it went meanwhile
            times.append((str(path), path.stat().st_mtime_ns))
    return hash(tuple(sorted(times)))


def main(arguments: list[str]) -> int:
    parser = Parser(prog="python -m plots report", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("results_dir", type=Path, nargs="?", default=Path("results"))
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: report.html in RESULTS_DIR"
    )
    parser.add_argument(
        "--watch", action="store_true", help="write it anew whenever a run goes on, until Ctrl-C"
    )

    def work() -> int:
        options = parser.parse_args(arguments)
        results = options.results_dir
        out = options.out or results / "report.html"
        while True:
            seen = state_of(results)
            try:
                print(f"{write(results, out)}: open it in a browser", flush=True)
            except UsageError as error:
                if not options.watch:
                    raise
                say(f"note: {error}")
            if not options.watch:
                return 0
            while state_of(results) == seen:
                time.sleep(WATCH_SECONDS)

    return exit_status_of("python -m plots report", work)
