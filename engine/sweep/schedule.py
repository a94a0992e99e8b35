"""Order of runs: whenever there is room, the next one that no other process is making."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Protocol

from errors import UsageError

from ..signals import Signals
from .progress import FINISHED, Progress
from .runs import Run

REFUSED = 2  # the exit status of a run that was not let start


class Executor(Protocol):
    """Somewhere that makes runs; entered before the first and left after the last."""

    pause: float  # seconds between looks at the runs under way

    @property
    def running(self) -> Collection[Run]:
        """Runs started, and not yet handed out by `ended`."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exception: object) -> None: ...

    def has_room(self) -> bool: ...

    def start(self, run: Run) -> None: ...

    def ended(self) -> list[tuple[Run, int, str]]:
        """Return the runs that ended since the last call, with exit status and that in words."""

    def at_once(self) -> int:
        """Return how many runs are made at the same time."""

    def stop(self) -> None:
        """Let the runs under way write a checkpoint and end."""

    def kill(self) -> None:
        """End them at once."""


class Schedule:
    """Keeps an executor busy until no run is left."""

    def __init__(self, runs: Iterable[Run], executor: Executor, progress: Progress):
        self.pending = list(runs)
        self.executor = executor
        self.progress = progress
        self.waited_for: set[Run] = set()
        self.stopping = False

    def make(self, signals: Signals) -> None:
        """Make all runs, or until a signal says to stop; then those under way are let end well."""
        try:
            while (self.pending or self.executor.running) and not signals.stop:
                self.start_runs()
                self.settle()
                time.sleep(self.executor.pause)
            self.stopping = True
            if self.executor.running:
                self.progress.say("stopping: runs under way write a checkpoint")
                self.executor.stop()
            while self.executor.running:
                self.settle()
                time.sleep(self.executor.pause)
        except BaseException:
            self.executor.kill()
            raise

    def start_runs(self) -> None:
        for run in list(self.pending):
            if not self.executor.has_room():
                return
            holder = run.holder()
            if holder is None:
                self.pending.remove(run)
                if run.has_finished():
                    self.report(run, "finished elsewhere")
                else:
                    self.start(run)
            elif run not in self.waited_for:
                self.waited_for.add(run)
                self.progress.say(f"waiting for {run.path}, in use by {holder}")

    def start(self, run: Run) -> None:
        try:
            self.executor.start(run)
        except UsageError:
            if run.holder() is None:
                raise
            self.pending.append(run)  # another sweep was a moment quicker

    def settle(self) -> None:
        """Take note of the runs that have ended."""
        for run, exit_status, in_words in self.executor.ended():
            if run.has_finished():
                self.report(run, FINISHED)
            elif self.stopping:
                self.progress.say(f"stopped: {run.path}")
            elif exit_status == REFUSED and run.holder():
                self.pending.append(run)  # another sweep was a moment quicker
            else:
                self.progress.fail(run, in_words)
                self.report(run, "failed")

    def report(self, run: Run, outcome: str) -> None:
        left = [*self.pending, *self.executor.running]
        self.progress.end(run, outcome, left, self.executor.at_once())
