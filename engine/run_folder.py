"""The folder that a run leaves: config.json, tables, model.pt, its status and its lock."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from errors import Diverged, Failed, Interrupted, UsageError

from .status import (
    CHECKPOINT,
    ENDED,
    LOCK,
    find_file,
    put_right,
    read_status,
    set_aside,
    settle,
    take_lock,
    write_status,
)
from .trackers import Trackers

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "worst_class_accuracy",
    "class_accuracy_p5",
    "images_scored",
    "images_trained",
    "cost",
    "count_entropy",
    "select_seconds",
    "data_seconds",
    "train_seconds",
    "eval_seconds",
)
GROUP_COLUMNS = ("worst_group_accuracy", "group_accuracy_p5")  # of the curve, with groups
TRAINING_SECONDS = ("select_seconds", "data_seconds", "train_seconds")  # all but evaluation


def training_seconds(row: Mapping[str, Any]) -> float:
    """Return the time of training in a row of the curve, whose cells are numbers or texts."""
    return sum(float(row[name]) for name in TRAINING_SECONDS)


CLASS_COLUMNS = ("class", "train_count", "test_count", "test_accuracy", "test_loss")
PER_GROUP_COLUMNS = ("group", "test_count", "test_accuracy", "test_loss")
TUNING = "tuning"  # in a results folder: the trials of sweep.py `tune`, which no table counts
MODEL_FILE = "model.pt"
SETTINGS_FILE = "run.toml"
SCORES_FILE = "scores.npz"  # of `record`
CHECKPOINTS = (CHECKPOINT, f"{CHECKPOINT}.whole", "checkpoint.previous.pt")
FILES = ["status", "config.json", "curve.csv", "per_class.csv", "per_group.csv", LOCK]
FILES += [SETTINGS_FILE, MODEL_FILE, SCORES_FILE, *CHECKPOINTS]
ASIDE = ".new"  # ends the name of a file that is not whole yet
NOT_RESUMED = (*ENDED, "unknown")  # runs that starting again does not continue
LONGEST_NAME = 255  # bytes that file systems allow
LOCK_WAIT = 2.0  # seconds to wait for a dying process to let go of its folder


class RunFolder:
    """One run's folder in the results folder, held by one process at a time.

    The lock is the kernel's (see status.py); the text of its file only says who holds it.
    """

    def __init__(self, results_dir: Path, name: str):
        self.path = results_dir / name
        if results_dir.resolve() not in self.path.resolve().parents:
            raise UsageError(
                f"`experiment_name` {name}: leaves the results folder; give a plain name"
            )
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(name).parts):
            raise UsageError(
                f"`experiment_name` {name[:20]}...: too long; give at most {LONGEST_NAME} letters"
            )
        self.lock: io.TextIOWrapper | None = None
        self.columns: tuple[str, ...] = COLUMNS  # of the curve
        self.trackers: Trackers | None = None  # where rows of the curve are shown too

    def status(self) -> str | None:
        """Return the status last written; None where there is no run."""
        return read_status(self.path) or ("unknown" if self.has_curve() else None)

    def has_curve(self) -> bool:
        return find_file(self.path, "curve.csv").exists()

    def check(self) -> None:
        """Refuse read-only folders, and what is no file where a run has one."""
        existing = next(path for path in (self.path, *self.path.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise UsageError(f"`results_dir`: cannot write to {existing}; choose another")
        for name in FILES:
            path = self.path / name
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise UsageError(f"{path}: no regular file, as a run has there; remove it")

    @contextmanager
    def running(self, replaces: bool) -> Iterator[None]:
        """Keep the status right while the run lasts and after it ends, in whatever way.

        One that `replaces` the run in the folder puts it back if it fails before it has made a
        checkpoint or ended.
        """
        status = "failed"
        try:
            if replaces:
                set_aside(self.path)
            write_status(self.path, "running")
            yield
            status = "finished"
        except Diverged:
            status = "diverged"
            raise
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        except OSError as error:
            raise Failed(
                f"{error.filename or self.path}: {error.strerror}; fix that and start the same "
                "command again to resume from the last checkpoint"
            ) from error
        finally:
            with suppress(FileNotFoundError):  # the folder is gone: that error is under way
                write_status(self.path, status)
                settle(self.path)

    def __enter__(self) -> RunFolder:
        """Make the folder and take its lock; a UsageError says why that is impossible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.path / LOCK, "a+")
        except OSError as error:
            raise UsageError(
                f"`results_dir`: cannot write to {self.path} ({error.strerror}); choose another"
            ) from error
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                take_lock(self.lock)
                break
            except OSError:
                if time.monotonic() > deadline:
                    self.lock.seek(0)
                    raise UsageError(
                        f"{self.path}: in use by {self.lock.read().strip() or 'another process'}; "
                        "wait for it, or choose another `experiment_name`"
                    ) from None
                time.sleep(0.05)
        self.lock.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self.lock.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        self.lock.flush()
        put_right(self.path)
        for leftover in self.path.glob(f".*{ASIDE}"):  # of a process that was killed meanwhile
            leftover.unlink(missing_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.trackers:
            self.trackers.close(self.status())
        if self.lock:
            self.lock.close()

    def starts(self) -> list[dict]:
        """Return the `starts` of the config.json; none where it is missing or damaged."""
        try:
            starts = json.loads((self.path / "config.json").read_text())["starts"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return starts if isinstance(starts, list) else []

    def write_config(self, config: Mapping) -> None:
        self.write("config.json", (json.dumps(config, indent=2) + "\n").encode())

    def write_curve(self, rows: Sequence[Mapping]) -> None:
        """Write the whole curve: of a new run, or of the one that is resumed."""
        self.write_table("curve.csv", self.columns, rows)
        if self.trackers:
            self.trackers.restart(rows)

    def append_row(self, row: Mapping) -> None:
        with open(self.path / "curve.csv", "a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)
        if self.trackers:
            self.trackers.add(row)

    def write_per_class(self, rows: Sequence[Mapping]) -> None:
        self.write_table("per_class.csv", CLASS_COLUMNS, rows)

    def write_per_group(self, rows: Sequence[Mapping]) -> None:
        """Write the groups, if there are any."""
        if rows:
            self.write_table("per_group.csv", PER_GROUP_COLUMNS, rows)

    def write_table(self, name: str, columns: Sequence[str], rows: Sequence[Mapping]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        # Names of classes may be those of folders, which need not be UTF-8.
        self.write(name, text.getvalue().encode(errors="backslashreplace"))

    def write(self, name: str, content: bytes | memoryview) -> None:
        write_whole(self.path / name, content)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Put a file in place whole: a reader, or a crash, sees the old one or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}{ASIDE}")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)  # a full disk needs the room
        raise
