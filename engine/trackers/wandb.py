"""The rows of the curve at Weights & Biases; offline with WANDB_MODE=offline."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import wandb


class WandB:
    """A run there for the run's folder, which a run that is resumed goes on with."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        identity = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        self.run = wandb.init(
            project="budgetbench",
            name=folder.name,
            id=identity,
            resume="allow",
            dir=str(folder),
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def restart(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add the rows that are not there yet: an offline run begins with none."""
        known = self.run.step
        for row in rows:
            if row["step"] > known:
                self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        self.run.log({name: row[name] for name in row.keys() - {"step"}}, step=row["step"])

    def close(self) -> None:
        self.run.finish()


def open(folder: Path, settings: Mapping[str, Any]) -> WandB:
    return WandB(folder, settings)
