"""A Ray node's part in a sweep: it makes runs in folders of its own and hands these back."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import ray

# Without PyTorch, which the processes of the runs import.
from ..run_folder import SETTINGS_FILE
from ..status import LOCK
from .process import LOG, end_in_words, start_train
from .warm import Settings, WarmRun, WarmServer

Files = dict[str, bytes]  # the files of a run's folder by name

PAUSE = 0.1  # seconds between looks at the run


@ray.remote(num_cpus=0)
class MessageQueue:
    """Messages from nodes, with the files of a run so far; its answer says whether to stop."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Files]] = []
        self.stopping = False

    def post(self, number: int, files: Files | None) -> bool:
        """Add a run's files, if any are given; return whether runs are to stop."""
        if files is not None:
            self.messages.append((number, files))
        return self.stopping

    def take(self, stopping: bool) -> list[tuple[int, Files]]:
        """Return the messages since the last call; runs hear from now on whether to stop."""
        self.stopping = stopping
        messages, self.messages = self.messages, []
        return messages


@ray.remote
class Slot:
    """A share of a node that makes one run after another, each in a folder of its own there.

    Args:
        isolate: start a Python process for each of them.
    """

    def __init__(self, isolate: bool):
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # those of the node are for others
        self.server = None if isolate else WarmServer()

    def is_there(self) -> None:
        """Return once the slot exists."""

    def make(
        self,
        number: int,
        words: Sequence[str],
        settings: Settings,
        threads: int,
        files: Files,
        queue: ray.actor.ActorHandle,
        posted: Sequence[str],
        every: float,
    ) -> tuple[int, str, Files]:
        """Make a run.

        Args:
            number: of the run, for the queue.
            words: the flags of train.py, the results folder's left out or to be replaced.
            settings: what these flags give.
            threads: of the processor.
            files: what an interrupted run has left.
            queue: the `MessageQueue`.
            posted: the names of the files to post on the way, once there is the first of them.
            every: seconds from one such posting to the next.

        Returns:
            The exit status, that in words, and all files of the run's folder.
        """
        with tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
            folder = Path(scratch) / settings["experiment_name"]
            folder.mkdir(parents=True)
            for name, content in files.items():
                (folder / name).write_bytes(content)
            words = [*words, "--results-dir", scratch]
            process: subprocess.Popen[bytes] | WarmRun
            if self.server:
                process = self.server.start(words, settings, threads, folder / LOG)
            else:
                process = start_train(words, threads, folder / LOG)

            def files_now(names: Sequence[str]) -> Files:
                return with_folder(read_files(folder, names), scratch, settings["results_dir"])

            try:
                last = time.monotonic()
                while process.poll() is None:
                    time.sleep(PAUSE)
                    message = None
                    if time.monotonic() > last + every and (folder / posted[0]).exists():
                        message, last = files_now(posted), time.monotonic()
                    if post(queue, number, message):
                        process.terminate()
            finally:
                process.kill()
            code = process.wait()
            names = [path.name for path in folder.iterdir() if path.name != LOCK]
            return code, end_in_words(code), files_now(names)


def with_folder(files: Files, scratch: str, results_dir: str) -> Files:
    """Let a run's settings and command name the results folder, not the one that is gone soon."""
    here, there = (json.dumps(folder)[1:-1].encode() for folder in (scratch, results_dir))
    named = files.keys() & {"config.json", SETTINGS_FILE}
    return files | {name: files[name].replace(here, there) for name in named}


def post(queue: ray.actor.ActorHandle, number: int, files: Files | None) -> bool:
    """Send a message, if there are files; return whether to stop."""
    # In the main thread, Ray would give the task's cores to another task while this waits.
    with ThreadPoolExecutor(1) as other_thread:
        return bool(other_thread.submit(ray.get, queue.post.remote(number, files)).result())


def read_files(folder: Path, names: Sequence[str]) -> Files:
    """Return the files with some names that there are; trackers may have folders of their own."""
    files = {}
    for name in names:
        with suppress(FileNotFoundError, IsADirectoryError):  # a checkpoint may just be replaced
            files[name] = (folder / name).read_bytes()
    return files
