"""The rows of the curve at Weights & Biases; offline with WANDB_MODE=offline."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import wandb

KEPT = "wandb-run"  # in the run's folder: the name of its run there


class WandB:
    """A run there for the run's folder, which a run that is resumed goes on with."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        file = folder / KEPT
        if not file.exists():
            file.write_text(f"{uuid.uuid4().hex[:16]}\n")
        self.run = wandb.init(
            project="budgetbench",
            name=folder.name,
            id=file.read_text().strip(),
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

    def close(self, status: str | None) -> None:
        self.run.finish(exit_code=0 if status == "finished" else 1)


def open(folder: Path, settings: Mapping[str, Any]) -> WandB:
    return WandB(folder, settings)
