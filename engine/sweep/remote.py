"""A Ray node's part in a sweep: it makes a run in a folder of its own and hands that back."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray

from .process import LOG, end_in_words, start_train  # without PyTorch: train.py imports it

Files = dict[str, bytes]  # the files of a run's folder by name

PAUSE = 0.5  # seconds between looks at the run


@ray.remote(num_cpus=0)
class MessageQueue:
    """Messages from nodes, with the files of a run so far; its answer says whether to stop."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Files]] = []
        self.stopping = False

    def post(self, number: int, files: Files | None) -> bool:
        """Add a run's files, if there are any; return whether runs are to stop."""
        if files is not None:
            self.messages.append((number, files))
        return self.stopping

    def take(self, stopping: bool) -> list[tuple[int, Files]]:
        """Return the messages since the last call; runs hear from now on whether to stop."""
        self.stopping = stopping
        messages, self.messages = self.messages, []
        return messages


@ray.remote(max_retries=0)  # the sweep itself starts lost runs again, from their checkpoints
def make_run(
    number: int,
    words: Sequence[str],
    threads: int,
    files: Files,
    queue: ray.actor.ActorHandle,
    posted: Sequence[str],
    every: float,
) -> tuple[int, str, Files]:
    """Make a run in a folder of this node's.

    Args:
        number: of the run, for the queue.
        words: the flags of train.py, but for where the results go.
        threads: of the processor.
        files: what an interrupted run has left.
        queue: the `MessageQueue`; posted to without files when the run is started.
        posted: the names of the files to post on the way, once there is the first of them.
        every: seconds from one such posting to the next.

    Returns:
        The exit status, that in words, and all files of the run's folder.
    """
    if post(queue, number, {}):
        return 0, "not started", files
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # those of the node are for others
    with tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
        folder = Path(scratch) / "run"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        words = [*words, "--results-dir", scratch, "--experiment-name", folder.name]
        process = start_train(words, threads, folder / LOG)
        try:
            last = time.monotonic()
            while process.poll() is None:
                time.sleep(PAUSE)
                message = None
                if time.monotonic() > last + every and (folder / posted[0]).exists():
                    message, last = read_files(folder, posted), time.monotonic()
                if post(queue, number, message):
                    process.terminate()
        finally:
            process.kill()
        code = process.wait()
        names = [path.name for path in folder.iterdir() if path.name != "run.lock"]
        return code, end_in_words(code), read_files(folder, names)


def post(queue: ray.actor.ActorHandle, number: int, files: Files | None) -> bool:
    """Send a message, if there are files; return whether to stop."""
    # In the main thread, Ray would give the task's cores to another task while this waits.
    with ThreadPoolExecutor(1) as other_thread:
        return bool(other_thread.submit(ray.get, queue.post.remote(number, files)).result())


def read_files(folder: Path, names: Sequence[str]) -> Files:
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
