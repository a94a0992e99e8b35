"""The rows of the curve as TensorBoard shows them, for runs that ask for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from errors import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "events.out.tfevents.*"  # TensorBoard's files


class Board:
    """Writes each column of the curve as one scalar, at the row's optimizer step.

    The numbers are TensorBoard's, 32-bit floats.

    Raises:
        UsageError: when TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "`tensorboard`: TensorBoard is not installed; pip install -r "
                "requirements-tensorboard.txt, or leave it out"
            ) from None
        self.make_writer, self.folder = SummaryWriter, folder
        self.writer: SummaryWriter | None = None  # from `restart` on

    def restart(self, rows: Iterable[Mapping]) -> None:
        """Begin with some rows, in place of what an earlier process wrote, so none comes twice."""
        for path in self.folder.glob(EVENTS):
            path.unlink()
        self.writer = self.make_writer(self.folder)
        for row in rows:
            self.add(row)

    def add(self, row: Mapping) -> None:
        if self.writer is None:
            raise RuntimeError("restart comes first")
        for name in row.keys() - {"step"}:
            self.writer.add_scalar(name, row[name], row["step"])
        self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()
