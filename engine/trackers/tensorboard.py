"""The rows of the curve as TensorBoard shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

EVENTS = "events.out.tfevents.*"  # TensorBoard's files


class Board:
    """Writes each column of the curve as one scalar, at the row's optimizer step.

    The numbers are TensorBoard's, 32-bit floats. Its files lie in the run's folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer: SummaryWriter | None = None  # from `restart` on

    def restart(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Begin with some rows, in place of what an earlier process wrote, so none comes twice."""
        for path in self.folder.glob(EVENTS):
            path.unlink()
        self.writer = SummaryWriter(self.folder)
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        if self.writer is None:
            raise RuntimeError("restart comes first")
        for name in row.keys() - {"step"}:
            self.writer.add_scalar(name, row[name], row["step"])
        self.writer.flush()

    def close(self, status: str | None) -> None:
        if self.writer:
            self.writer.close()


def open(folder: Path, settings: Mapping[str, Any]) -> Board:
    return Board(folder)
