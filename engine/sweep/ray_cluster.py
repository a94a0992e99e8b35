"""Runs as tasks of a Ray cluster, whose nodes need not share a file system with this machine."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from errors import Failed

from ..run_folder import CHECKPOINTS, RunFolder
from ..status import CHECKPOINT, write_status
from .process import LOG
from .ray_connection import connect, warn_if_too_large
from .remote import Files, MessageQueue, make_run, read_files
from .runs import Run

MAX_PENDING = 256  # runs handed to Ray at once; each keeps a file open here, its folder's lock
LOSSES = 5  # lost nodes after which a run counts as failed: it may be what brings them down
POST_EVERY = 300.0  # seconds between a run's checkpoints that are brought here, of many megabytes
UNFINISHED = (CHECKPOINT, "config.json", "curve.csv", LOG)  # what a run resumes from


@dataclass
class PendingRun:
    """A run that was handed to Ray."""

    number: int
    folder: RunFolder  # here, and locked
    result: ray.ObjectRef
    started: bool = False


class RayCluster:
    """Hands runs to Ray and puts the files that come back in their places.

    The folder of a run that is under way holds what was last heard of it, as an interrupted run,
    so that it resumes there whatever happens to either side.
    """

    def __init__(self, address: str, cpus: float, gpus: float):
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.running: dict[Run, PendingRun] = {}
        self.losses: dict[Run, int] = {}
        self.numbers = itertools.count()
        self.stopping = False

    def __enter__(self) -> RayCluster:
        connect(self.address)
        warn_if_too_large(self.cpus, self.gpus)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = MessageQueue  # Ray's decorator gives it more than its types say
        self.queue = actor.options(scheduling_strategy=here).remote()
        return self

    def __exit__(self, *exception: object) -> None:
        ray.shutdown()

    def has_room(self) -> bool:
        return len(self.running) < MAX_PENDING

    def at_once(self) -> int:
        return sum(pending.started for pending in self.running.values())

    def start(self, run: Run) -> None:
        self.submit(run, run.folder.__enter__())

    def submit(self, run: Run, folder: RunFolder) -> None:
        number = next(self.numbers)
        data_dir = os.path.abspath(run.settings["data_dir"])
        result = make_run.options(num_cpus=self.cpus, num_gpus=self.gpus).remote(
            number,
            [*run.words, "--data-dir", data_dir],
            run.settings["num_threads"] or max(1, int(self.cpus)),
            read_files(folder.path, (*CHECKPOINTS, *UNFINISHED, "status")),
            self.queue,
            UNFINISHED,
            POST_EVERY,
        )
        self.running[run] = PendingRun(number, folder, result)

    def ended(self) -> list[tuple[Run, int, str]]:
        self.receive_messages()
        of_result = {pending.result: run for run, pending in self.running.items()}
        results = list(of_result)
        ready = ray.wait(results, num_returns=len(results), timeout=0)[0] if results else []
        outcomes = []
        for result in ready:
            run = of_result[result]
            pending = self.running.pop(run)
            try:
                code, in_words, files = ray.get(pending.result)
                put_in_place(pending.folder, files)
            except RayError as error:
                reason = self.why(error, run)
                if reason is None:
                    self.submit(run, pending.folder)
                    continue
                code, in_words = 1, reason
            pending.folder.__exit__()
            outcomes.append((run, code, in_words))
        return outcomes

    def receive_messages(self) -> None:
        """Put in place what nodes have sent of runs under way."""
        try:
            messages = ray.get(self.queue.take.remote(self.stopping))
        except RayActorError as error:
            raise Failed(
                "the Ray node on this machine was lost; start it and the same command again"
            ) from error
        pending_runs = {pending.number: pending for pending in self.running.values()}
        for number, files in messages:
            pending = pending_runs.get(number)
            if pending is None:
                continue  # a message that was overtaken by the run's end
            pending.started = True
            if files:
                put_in_place(pending.folder, {**files, "status": b"interrupted"})

    def why(self, error: RayError, run: Run) -> str | None:
        """Return why a run ended without a result; None if it is to be started again."""
        if isinstance(error, TaskCancelledError):
            return "not started"
        if isinstance(error, RayTaskError):
            return str(error.cause)
        self.losses[run] = self.losses.get(run, 0) + 1
        if self.stopping or self.losses[run] >= LOSSES:
            return f"lost with its node ({type(error).__name__}) {self.losses[run]} times"
        print(f"lost with its node, starting again: {run.path}", flush=True)
        return None

    def stop(self) -> None:
        self.stopping = True  # which runs under way hear through the queue
        self.receive_messages()
        for pending in self.running.values():
            if not pending.started:
                ray.cancel(pending.result)

    def kill(self) -> None:
        ray.shutdown()  # Ray ends the tasks of a driver that has left


def put_in_place(folder: RunFolder, files: Files) -> None:
    """Write a run's files; a crash on the way leaves a run that resumes or starts again."""
    status = files.get("status", b"").decode().strip()
    if status:
        write_status(folder.path, "interrupted")
    for name, content in files.items():
        if name != "status":
            folder.write(name, content)
    if status and status != "running":  # of a process that was killed
        write_status(folder.path, status)
    for name in CHECKPOINTS:
        if name not in files:
            (folder.path / name).unlink(missing_ok=True)
