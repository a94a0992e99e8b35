"""Output of a sweep: a bar on a terminal, else a line per run that ends; then what failed."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass

from tqdm import tqdm

from ..runs import StoredRun
from ..values import in_words
from .estimate import Estimator
from .process import LOG, last_lines
from .runs import Run

FINISHED = "finished"


@dataclass(frozen=True)
class Failure:
    run: Run
    reason: str


class Progress:
    """Counts the runs of a sweep as they end, and reports each; as a context, it shows the bar."""

    def __init__(self, total: int, done: int, estimator: Estimator, may_diverge: bool = False):
        self.total, self.done, self.estimator = total, done, estimator
        self.may_diverge = may_diverge
        self.failures: list[Failure] = []
        self.bar: tqdm | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} runs [{elapsed}{postfix}]"
            self.bar = tqdm(total=self.total, initial=self.done, bar_format=layout)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is None:
            print(line, flush=True)
        else:
            self.bar.write(line, file=sys.stdout)

    def end(self, run: Run, outcome: str, left: Collection[Run], at_once: int) -> None:
        """Report how a run ended, and how long those that are left will take, made `at_once`."""
        self.done += 1
        self.estimator.learn(StoredRun(run.path))
        seconds, _ = self.estimator.total(left)
        time_left = ""
        if seconds is not None:
            time_left = f"; about {in_words(seconds / max(1, min(at_once, len(left))))} left"
        if self.bar is not None:
            self.bar.set_postfix_str(time_left.removeprefix("; "), refresh=False)
            self.bar.update()
        if self.bar is None or outcome != FINISHED:
            self.say(f"[{self.done}/{self.total}] {outcome}: {run.path}{time_left}")

    def fail(self, run: Run, reason: str) -> None:
        """Note a failure, unless it is a loss that became NaN and such are no failures."""
        if not (self.may_diverge and run.status() == "diverged"):
            self.failures.append(Failure(run, reason))

    def report_failures(self) -> None:
        """Report which runs failed, why, and the last lines that each of them printed."""
        if self.failures:
            print(f"{len(self.failures)} of {self.total} runs failed:", file=sys.stderr)
        for failure in self.failures:
            print(f"{failure.run.path}: {failure.reason}", file=sys.stderr)
            if failure.run.has_finished():
                continue  # and printed no cause
            for line in last_lines(failure.run.path / LOG):
                print(f"    {line}", file=sys.stderr)
