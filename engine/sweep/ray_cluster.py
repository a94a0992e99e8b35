"""Runs on a Ray cluster, whose nodes need not share a file system with this machine."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from errors import Failed

from .. import own
from ..config import TABLES
from ..flags import flag_of, without
from ..registries import is_own
from ..run_folder import CHECKPOINTS, RunFolder
from ..status import CHECKPOINT, write_status
from .process import LOG
from .ray_connection import connect, warn_if_too_large
from .remote import Files, MessageQueue, Slot, read_files
from .runs import Run

MAX_RUNNING = 256  # runs at once; each keeps a file open here, its folder's lock
SPARE = 4  # slots asked for at once beyond those there are
LOSSES = 5  # lost nodes after which a run counts as failed: it may be what brings them down
POST_EVERY = 300.0  # seconds between a run's checkpoints that are brought here, of many megabytes
#: What a run resumes from, and its trackers.
UNFINISHED = (CHECKPOINT, "config.json", "curve.csv", LOG, "wandb-run", "mlflow-run")


@dataclass
class PendingRun:
    """A run that was handed to a slot, or that waits for another one after it lost its own."""

    number: int
    folder: RunFolder  # here, and locked
    result: ray.ObjectRef | None = None
    slot: Any = None


class RayCluster:
    """Hands runs to slots of a Ray cluster and puts the files that come back in their places.

    The folder of a run that is under way holds what was last heard of it, as an interrupted run,
    so that it resumes there whatever happens to either side.

    Args:
        address: of the cluster.
        cpus, gpus: of each slot, which makes one run at a time.
        isolate: start a Python process for every run.
    """

    pause = 0.1

    def __init__(self, address: str, cpus: float, gpus: float, isolate: bool = False):
        self.address, self.cpus, self.gpus, self.isolate = address, cpus, gpus, isolate
        self.running: dict[Run, PendingRun] = {}
        self.losses: dict[Run, int] = {}
        self.numbers = itertools.count()
        self.idle: list[Any] = []  # slots that are there and make nothing
        self.asked_for: dict[ray.ObjectRef, Any] = {}  # slots by what tells that they are there
        self.failed_slots = 0  # in a row
        self.wanted = False  # whether a run has waited for room since the last look
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
        return len(self.running) < MAX_RUNNING and self.finds_slot()

    def finds_slot(self) -> bool:
        """Return whether a slot is idle, and see to it that one will be."""
        self.wanted = True
        self.ask_for_slots()
        return bool(self.idle)

    def at_once(self) -> int:
        return len(self.running)

    def start(self, run: Run) -> None:
        self.running[run] = PendingRun(next(self.numbers), run.folder.__enter__())
        self.hand_over(run, self.running[run])

    def ask_for_slots(self) -> None:
        """Ask Ray for slots, a few more than there is room for; it grants them as it finds room."""
        actor: Any = Slot
        while len(self.asked_for) < SPARE:
            slot = actor.options(num_cpus=self.cpus, num_gpus=self.gpus).remote(self.isolate)
            self.asked_for[slot.is_there.remote()] = slot
        there, _ = ray.wait(list(self.asked_for), num_returns=SPARE, timeout=0)
        for each in there:
            slot = self.asked_for.pop(each)
            try:
                ray.get(each)
            except RayError as error:
                self.failed_slots += 1
                if self.failed_slots >= LOSSES:
                    raise Failed(f"Ray starts no worker for a run: {error}") from error
            else:
                self.failed_slots = 0
                self.idle.append(slot)

    def hand_over(self, run: Run, pending: PendingRun) -> None:
        """Give a run to an idle slot."""
        data_dir = os.path.abspath(run.settings["data_dir"])
        # As settings name them, files of the user's own are at the same path on each node, too.
        files = [name for name in own.WANTED if is_own(run.settings[name])]
        files += [name for name in TABLES if run.settings[name]]
        words = [*without(run.words, [flag_of(name) for name in files])]
        words += [word for name in files for word in (flag_of(name), run.settings[name])]
        pending.slot = self.idle.pop()
        pending.result = pending.slot.make.remote(
            pending.number,
            [*words, "--data-dir", data_dir],
            {**run.settings, "data_dir": data_dir},
            run.settings["num_threads"] or max(1, int(self.cpus)),
            read_files(pending.folder.path, (*CHECKPOINTS, *UNFINISHED, "status")),
            self.queue,
            UNFINISHED,
            POST_EVERY,
        )

    def ended(self) -> list[tuple[Run, int, str]]:
        self.receive_messages()
        outcomes = []
        for run, pending in list(self.running.items()):
            if pending.result is None and self.stopping:
                outcomes.append(self.end(run, 1, "lost with its node"))
            elif pending.result is None and self.finds_slot():
                self.hand_over(run, pending)
        of_result = {pending.result: run for run, pending in self.running.items() if pending.result}
        results = list(of_result)
        ready = ray.wait(results, num_returns=len(results), timeout=0)[0] if results else []
        for result in ready:
            run = of_result[result]
            pending = self.running[run]
            try:
                code, in_words, files = ray.get(result)
                self.idle.append(pending.slot)
                put_in_place(pending.folder, files)
            except RayError as error:
                if isinstance(error, RayTaskError):  # after which the slot is still there
                    self.idle.append(pending.slot)
                reason = self.why(error, run)
                if reason is None:
                    pending.result = None
                    continue
                code, in_words = 1, reason
            outcomes.append(self.end(run, code, in_words))
        if not self.wanted:
            self.release_slots()
        self.wanted = False
        return outcomes

    def end(self, run: Run, code: int, in_words: str) -> tuple[Run, int, str]:
        """Let go of a run's folder; return how it ended, as `ended` does."""
        self.running.pop(run).folder.__exit__()
        return run, code, in_words

    def release_slots(self) -> None:
        """Give the room that no run waits for back to the cluster."""
        for slot in (*self.idle, *self.asked_for.values()):
            ray.kill(slot)
        self.idle.clear()
        self.asked_for.clear()

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
            if files:
                put_in_place(pending.folder, {**files, "status": b"interrupted"})

    def why(self, error: RayError, run: Run) -> str | None:
        """Return why a run ended without a result; None if it is to be started again."""
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

    def kill(self) -> None:
        ray.shutdown()  # Ray ends the actors of a driver that has left


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
