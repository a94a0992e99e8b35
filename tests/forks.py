"""train.py in forks of a process that has PyTorch imported, which saves a test most of its time.

A fork has its own arguments, environment, folder, streams and signals, and ends as a process of
`python train.py` does. What the start of Python itself could change is tested with real ones.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engine.driver", "engine.flags"])


class Fork:
    """A run of train.py, with the part of `subprocess.Popen` that tests use.

    Args:
        words: of the command line.
        folder: to run in.
        environment: by default that of this process.
        prepare: called first; a function of a module's.
    """

    def __init__(
        self,
        words: list[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ):
        self.words = words
        self.streams = tempfile.TemporaryDirectory(prefix="fork-")
        self.paths = [Path(self.streams.name) / name for name in ("out", "err")]
        for path in self.paths:
            path.touch()
        given = dict(os.environ if environment is None else environment)
        self.process = CONTEXT.Process(
            target=run, args=(words, str(folder), given, list(map(str, self.paths)), prepare)
        )
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.words, timeout)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what it printed on standard output and on standard error."""
        self.wait(timeout)
        out, err = (path.read_text() for path in self.paths)
        return out, err


def run(
    words: list[str],
    folder: str,
    environment: dict[str, str],
    streams: list[str],
    prepare: Callable[[], None] | None,
) -> None:
    """What a fork does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate((os.devnull, *streams)):
        descriptor = os.open(stream, os.O_RDWR | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0)  # noqa: SIM115 - multiprocessing has closed it
    if prepare:
        prepare()
    sys.argv = ["train.py", *words]
    from engine.flags import main

    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
