"""Runs as processes on this machine, which share its cores."""

from __future__ import annotations

import os
import subprocess

from .process import LOG, end_in_words, start_train
from .runs import Run
from .warm import WarmRun, WarmServer


class Local:
    """Makes a number of runs at once, each with its part of the cores.

    Args:
        jobs: that number.
        server: from which runs are forked; without it, each is a process started anew.
    """

    pause = 0.02

    def __init__(self, jobs: int, server: WarmServer | None = None):
        self.jobs, self.server = jobs, server
        self.threads = max(1, cores() // jobs)
        self.running: dict[Run, subprocess.Popen[bytes] | WarmRun] = {}

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def has_room(self) -> bool:
        return len(self.running) < self.jobs

    def at_once(self) -> int:
        return self.jobs

    def start(self, run: Run) -> None:
        run.path.mkdir(parents=True, exist_ok=True)
        threads, log = run.settings["num_threads"] or self.threads, run.path / LOG
        if self.server:
            self.running[run] = self.server.start(run.words, run.settings, threads, log)
        else:
            self.running[run] = start_train(run.words, threads, log)

    def ended(self) -> list[tuple[Run, int, str]]:
        codes = {run: process.poll() for run, process in self.running.items()}
        gone = [(run, code) for run, code in codes.items() if code is not None]
        for run, _ in gone:
            del self.running[run]
        return [(run, code, end_in_words(code)) for run, code in gone]

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()

    def kill(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def cores() -> int:
    """Return how many this process may use, which a job of Slurm or a container may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
