"""A sweep from its command line to its exit status."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from errors import Interrupted, UsageError, as_flags, say

from ..signals import Signals
from ..status import ENDED
from ..values import in_words
from .additions import add_boards, lacks_scores
from .estimate import Estimator
from .grid import Grid, expand, grid_of_words, read_grids
from .local import Local
from .process import LOG
from .progress import Failure, Progress
from .runs import Run, each_once, list_runs
from .schedule import Executor, Schedule
from .tuning import Cell, list_cells, write_choices
from .warm import WarmServer

Part = TypeVar("Part", Run, Cell)
STATES = {None: "to make", "finished": "finished", "diverged": "diverged"}


def sweep(options: argparse.Namespace, flags: Mapping[str, Sequence[str]]) -> int:
    """Make the runs of a grid, or with --dry-run only list them; the exit status is 0 or 1."""
    try:
        return sweep_grids(options, flags)
    except UsageError as error:
        flag = re.match(r"--[\w-]+", as_flags(str(error)))
        if options.grid and flag and flag[0] in flags_of_file(options.grid) - flags.keys():
            raise UsageError(f"--grid {options.grid}: {error}") from error
        raise


def flags_of_file(path: Path) -> set[str]:
    try:
        return {flag for grid in read_grids(path) for flag in grid}
    except UsageError:  # which names the file itself
        return set()


def sweep_grids(options: argparse.Namespace, flags: Mapping[str, Sequence[str]]) -> int:
    with WarmServer() as server:
        if options.tune:
            return tuned_sweep(options, grids(options.grid, flags), server)
        runs, notes = list_runs(expand(grids(options.grid, flags)))
        say_notes(notes)
        return 1 if make_runs(options, part_of_shard(runs, options), server) else 0


def tuned_sweep(options: argparse.Namespace, of_grids: list[Grid], server: WarmServer) -> int:
    """Make each cell's trials, then its runs with the values that did best; 0 or 1."""
    cells, notes = list_cells(of_grids, dict(options.tune), options.trials)
    say_notes(notes)
    ours = part_of_shard(cells, options)
    trials = [run for cell in ours for run in cell.trials]
    heading = "trials, on held-out images"
    if not options.dry_run and options.ray is None and any(not cell.has_ended() for cell in ours):
        # A run that could not start is told before trials are made for it.
        check(options, [run for cell in ours for run in cell.tests[0]], server)
    failed = bool(make_runs(options, trials, server, heading, may_diverge=True))
    ready = [cell for cell in ours if cell.has_ended()]
    if not options.dry_run:
        write_choices(cells)
    for cell in ready:
        if cell.choice() is None:
            failed = True
            say(f"every trial diverged, as did {cell.trials[0].path}")
    waiting = sum(len(cell.tests[0]) for cell in ours if cell not in ready)
    if waiting:
        print(f"{waiting} runs with the best values wait for unfinished trials", flush=True)
    runs = each_once(run for cell in ready for run in cell.chosen_runs())
    if runs:
        failed |= bool(make_runs(options, runs, server, "runs with the best values"))
    return 1 if failed else 0


def say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        say(f"note: {note}")


def part_of_shard(parts: list[Part], options: argparse.Namespace) -> list[Part]:
    """Return the part that this shard makes."""
    first, step = options.shard
    return parts[first - 1 :: step]


def make_runs(
    options: argparse.Namespace,
    runs: list[Run],
    server: WarmServer,
    heading: str = "",
    may_diverge: bool = False,
) -> list[Failure]:
    """Make what is left of some runs, or with --dry-run list them; those that failed.

    Args:
        options: of sweep.py.
        runs: that belong to the sweep, the finished ones among them.
        server: from which those made on this machine are forked.
        heading: printed before anything else.
        may_diverge: a run that diverges is no failure.
    """
    estimator = Estimator({Path(run.settings["results_dir"]) for run in runs})
    left = [run for run in runs if run.status() not in ENDED]
    without_scores = [run for run in runs if lacks_scores(run)]
    if not options.dry_run:
        if options.ray is None and left:
            check(options, left, server)
        add_boards(runs)
    if heading:
        print(f"{heading}:", flush=True)
    if options.dry_run:
        for run in runs:
            lack = " (without what --record asks for)" if run in without_scores else ""
            print(f"{STATES.get(run.status(), 'to resume'):<10}{run.path}{lack}")
    print(plan(options, runs, left, estimator), flush=True)
    if options.dry_run:
        return []
    progress = Progress(len(runs), len(runs) - len(left), estimator, may_diverge)
    for run in runs:
        if run.status() == "diverged":
            progress.fail(run, f"diverged earlier; delete {run.stored().deletion} to retry")
    for run in without_scores:
        progress.fail(
            run,
            "finished earlier without what --record asks for; delete "
            f"{run.stored().deletion} to make it again",
        )
    if left:
        make(options, left, progress, server)
    progress.report_failures()
    return progress.failures


def grids(path: Path | None, flags: Mapping[str, Sequence[str]]) -> list[Grid]:
    """Return those of the file, if one is given, with the values of the command line put in."""
    given = grid_of_words(flags)
    return [given] if path is None else [grid | given for grid in read_grids(path)]


def plan(
    options: argparse.Namespace, runs: list[Run], left: list[Run], estimator: Estimator
) -> str:
    """Say how many runs there are, how many are left and how long they will take, in one line."""
    text = f"{len(runs)} run{'s' * (len(runs) != 1)}, {len(left)} left to make"
    if not left:
        return text
    seconds, unknown = estimator.total(left)
    if seconds is None:
        return f"{text}; no run like them has finished yet to estimate by"
    if options.ray is None:
        jobs = min(options.jobs or 1, len(left))
        text += f"; about {in_words(seconds / jobs)} with --jobs {jobs}"
    else:
        text += f"; about {in_words(seconds)} in all if made one by one"
    text += ", by the speed of finished ones"
    return text + (f" (taken as average: {unknown} unlike any of those)" if unknown else "")


def check(options: argparse.Namespace, left: list[Run], server: WarmServer) -> None:
    """Refuse runs of which one could not start, before the first is made."""
    settings = [run.settings for run in left]
    if options.isolate:
        from .checks import check_runs  # which imports PyTorch

        check_runs(settings)
    else:
        server.check(settings)


def make(
    options: argparse.Namespace, left: list[Run], progress: Progress, server: WarmServer
) -> None:
    """Make runs here or on a cluster; Interrupted says that a signal stopped them."""
    print(f"output of the first: {left[0].path / LOG}", flush=True)
    executor = choose_executor(options, server)
    signals = Signals()  # after Ray has set handlers of its own
    with executor, progress:
        Schedule(left, executor, progress).make(signals)
    if signals.stop:
        progress.report_failures()
        raise Interrupted(
            f"stopped by {signals.stop.name}; start the same command again to resume", signals.stop
        )


def choose_executor(options: argparse.Namespace, server: WarmServer) -> Executor:
    if options.ray is None:
        return Local(options.jobs or 1, None if options.isolate else server)
    try:
        from .ray_cluster import RayCluster
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--ray: Ray is not installed ({error}); pip install -r requirements-ray.txt"
        ) from None
    return RayCluster(
        options.ray, options.cpus_per_run or 1, options.gpus_per_run or 0, options.isolate
    )
