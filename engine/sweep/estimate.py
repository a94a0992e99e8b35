"""Estimates of how long runs will take, from finished ones in the same results folders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config_file import BadRun
from ..run_folder import training_seconds
from ..runs import StoredRun, find_runs
from .runs import Run

STARTING = 0.5  # seconds that a run takes besides its epochs
# Runs that differ in one of these say nothing about each other's speed.
COMPARABLE = ("dataset", "model", "train_images", "validation", "image_size", "device")
SIMILAR = ("method", "augmentation", "batch_size")
DAMAGES = (BadRun, ValueError, LookupError, TypeError, ArithmeticError)


@dataclass(frozen=True)
class Finished:
    """Speed of a finished run, by which others are estimated."""

    settings: dict[str, Any]
    num_images: int
    seconds_per_image: float  # trained on, with all that its choice took
    seconds_per_evaluation: float


class Estimator:
    """Scales the seconds of the most similar finished run by images and epochs.

    That run's speed is taken as it was, with the threads, device and company that it had.
    """

    def __init__(self, results_dirs: Iterable[Path]):
        self.finished: dict[tuple[Any, ...], Finished] = {}
        self.nearest: dict[tuple[Any, ...], Finished | None] = {}
        for results in results_dirs:
            for run in find_runs(results)[0]:
                self.learn(run)

    def learn(self, run: StoredRun) -> None:
        """Take note of a run if it has finished."""
        if run.status() == "finished":
            with suppress(*DAMAGES):  # a damaged one is of no use
                finished = read_finished(run)
                self.finished[kind(finished.settings)] = finished
                self.nearest.clear()

    def seconds(self, run: Run) -> float | None:
        """Return the seconds that are left of a run; None if nothing like it has finished."""
        wanted = run.settings
        if kind(wanted) not in self.nearest:
            self.nearest[kind(wanted)] = self.find_nearest(wanted)
        nearest = self.nearest[kind(wanted)]
        if nearest is None:
            return None
        size = wanted["batch_size"]
        steps = steps_per_epoch(wanted, nearest.num_images)
        epoch = nearest.seconds_per_image * steps * size + nearest.seconds_per_evaluation
        return STARTING + epoch * max(wanted["epochs"] - epochs_made(run.path), 0)

    def find_nearest(self, wanted: Mapping[str, Any]) -> Finished | None:
        same = len(COMPARABLE)
        alike = [each for key, each in self.finished.items() if key[:same] == kind(wanted)[:same]]
        return max(alike, key=lambda each: similarity(each.settings, wanted), default=None)

    def total(self, runs: Iterable[Run]) -> tuple[float | None, int]:
        """Seconds left of runs, one after the other, and of how many nothing is known.

        These are taken to last as long as the others do on average; None if there are no others.
        """
        each = [self.seconds(run) for run in runs]
        known = [seconds for seconds in each if seconds is not None]
        unknown = len(each) - len(known)
        return (sum(known) / len(known) * len(each) if known else None), unknown


def kind(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what decides about a run's speed."""
    return tuple(settings.get(name) for name in (*COMPARABLE, *SIMILAR, "budget"))


def similarity(theirs: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[Any, ...]:
    """Larger for a run whose speed says more about the wanted one's, what matters most first."""
    same = [theirs.get(name) == wanted[name] for name in SIMILAR]
    return *same, -abs(theirs["budget"] - wanted["budget"])


def read_finished(run: StoredRun) -> Finished:
    config, last = run.config(), run.last_row()
    settings = config.settings
    steps = steps_per_epoch(settings, config.num_images)
    training = training_seconds(last)
    evaluation = float(last["eval_seconds"])
    if not 0 <= training + evaluation < math.inf:
        raise ValueError("no time that a run takes")
    return Finished(
        settings,
        config.num_images,
        training / (settings["epochs"] * steps * settings["batch_size"]),
        evaluation / int(last["epoch"]),
    )


def steps_per_epoch(settings: Mapping[str, Any], num_images: int) -> int:
    """Return the steps of an epoch, or one more or less: the arithmetic is that of floats."""
    return int(settings["budget"] * num_images) // settings["batch_size"]


def epochs_made(folder: Path) -> int:
    """Return the epochs in an unfinished run's curve; it resumes there or shortly before."""
    try:
        return int(StoredRun(folder).last_row()["epoch"])
    except DAMAGES:
        return 0
