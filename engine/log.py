"""Reports of the loop: rows of the curve, progress, checkpoints and stopping."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from errors import Interrupted

from . import checkpoint
from .cadence import Cadence
from .config import RunConfig
from .identity import identity
from .run_folder import RunFolder
from .signals import Signals
from .trainer import Trainer
from .values import in_words


class Log:
    """Callbacks of the loop. These do nothing, for a loop that writes nothing."""

    def end_step(self, trainer: Trainer, epoch_before: int) -> None:
        """Take note of a step, before which `epoch_before` epochs were complete."""

    def end_epoch(self, row: Mapping[str, float]) -> None:
        """Take an epoch's row of the curve."""

    def handle_signals(self, trainer: Trainer) -> None:
        """Write a checkpoint, and raise Interrupted to stop, where these are due."""


class RunLog(Log):
    """Reports of a run of the command line; of its processes, the main one writes.

    Args:
        config: of the run.
        trainer: where the run starts, or is resumed.
        signals: what this process was asked for.
        folder: where to write; None in all processes but the main one.
        rows: of the curve so far, to which more are appended.
    """

    def __init__(
        self,
        config: RunConfig,
        trainer: Trainer,
        signals: Signals,
        folder: RunFolder | None,
        rows: list[dict],
    ):
        self.config, self.signals, self.folder, self.rows = config, signals, folder, rows
        self.cadence = Cadence(config.checkpoint_every)
        self.first_epoch, self.began = trainer.epoch, time.monotonic()
        self.bar = tqdm(
            total=trainer.task.steps,
            initial=int(trainer.position),
            unit="step",
            disable=folder is None or not sys.stderr.isatty(),
        )

    def end_step(self, trainer: Trainer, epoch_before: int) -> None:
        self.bar.update(int(trainer.position) - self.bar.n)
        # Remembered until processes agree: minutes are over in one of them first.
        self.signals.checkpoint |= self.cadence.due(trainer.step, epoch_before, trainer.epoch)

    def end_epoch(self, row: Mapping[str, float]) -> None:
        self.rows.append(dict(row))
        if self.folder:
            self.folder.append_row(row)
            self.report(row)

    def report(self, row: Mapping[str, float]) -> None:
        """Show an epoch: beside the progress bar on a terminal, else as a line."""
        results = f"train loss {row['train_loss']:.4f}"
        if "test_loss" in row:
            results += f", test loss {row['test_loss']:.4f}"
            results += f", test accuracy {row['test_accuracy']:.2f}%"
        if self.bar.disable:
            left = self.time_left(row)
            print(f"epoch {row['epoch']}/{self.config.epochs}: {results}{left}", flush=True)
        else:
            self.bar.set_postfix_str(results)

    def time_left(self, row: Mapping[str, float]) -> str:
        """Say how long the rest takes at the pace so far, from a second on."""
        done = row["epoch"] - self.first_epoch
        seconds = (time.monotonic() - self.began) * (self.config.epochs - row["epoch"]) / done
        return f", about {in_words(seconds)} left" if seconds >= 1 else ""

    def handle_signals(self, trainer: Trainer) -> None:
        due, stop = trainer.world.all_reduce_max(self.signals.checkpoint, self.signals.stop or 0)
        if not due and not stop:
            return
        if self.folder:
            state = trainer.state_dict() | {"rows": self.rows}
            checkpoint.save(self.folder, identity(self.config, trainer), state)
        self.signals.checkpoint = False
        trainer.start()  # writing is no part of the phases that are timed
        if stop:
            number = signal.Signals(int(stop))
            raise Interrupted(
                f"stopped by {number.name} after step {trainer.step}, {trainer.progress:.0%} of "
                "the budget; start the same command again to resume",
                number,
            )
