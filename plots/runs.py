"""Reading what runs left in a results folder."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd


def read_runs(results: Path) -> pd.DataFrame:
    """Every row of every finished run below `results`, with the run's settings beside it.

    Raises:
        FileNotFoundError: when no finished run is there.
    """
    curves = []
    for status in sorted(results.rglob("status")):
        if status.read_text().strip() == "finished":
            config = json.loads((status.parent / "config.json").read_text())
            curve = pd.read_csv(status.parent / "curve.csv")
            names = ("dataset", "model", "method", "augmentation", "budget", "epochs", "seed")
            curves.append(curve.assign(**{name: config["settings"][name] for name in names}))
    if not curves:
        raise FileNotFoundError(f"{results}: no finished run there")
    return pd.concat(curves, ignore_index=True)


def last_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of each run's last epoch: what a run is judged by."""
    return rows[rows["epoch"] == rows["epochs"]]
