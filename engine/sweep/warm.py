"""Runs as forks of one process, see worker.py: what the sweep has in its hand of them."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from errors import Failed, RunError

from ..source import ROOT, commit
from .process import HEADER, end_in_words

#: What the server's process does; the folder of the user may hold modules of our names.
PROGRAM = """
import sys
sys.path[0] = sys.argv[1]
from engine.sweep.worker import main
main(int(sys.argv[2]))
"""

Settings = dict[str, Any]


class Order(NamedTuple):
    """What the sweep asks for: a run."""

    number: int
    words: tuple[str, ...]  # the command line of train.py
    settings: Settings
    log: Path
    threads: int


class Signal(NamedTuple):
    """What the sweep asks for: a signal to a run's process."""

    number: int
    signal: int


class Ended(NamedTuple):
    """What the sweep is told: a run's exit status, negative for the signal that killed it."""

    number: int
    status: int


class Checked(NamedTuple):
    """What the sweep is told of the runs that it asked to check: what is wrong, if anything."""

    error: RunError | OSError | None


class WarmRun:
    """A run's process, with the part of `subprocess.Popen` that executors use."""

    def __init__(self, server: WarmServer, number: int):
        self.server, self.number = server, number
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.server.receive()
        return self.returncode

    def wait(self) -> int:
        while self.returncode is None:
            self.server.receive(timeout=None)
        return self.returncode

    def terminate(self) -> None:
        self.server.send_signal(self.number, signal.SIGTERM)

    def kill(self) -> None:
        self.server.send_signal(self.number, signal.SIGKILL)


class WarmServer:
    """Starts runs in a process that has everything imported; as a context, it ends with it.

    That process is started when it is first needed, and again if it was killed.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.running: dict[int, WarmRun] = {}
        self.started = 0

    def __enter__(self) -> WarmServer:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process and self.connection:
            self.connection.close()
            if not self.running:
                self.process.terminate()
            self.process.wait()

    def check(self, runs: Iterable[Mapping[str, Any]]) -> None:
        """Refuse runs of which one could not start, with the UsageError that train.py would give.

        Args:
            runs: settings of each.
        """
        connection = self.connect()
        try:
            connection.send([dict(settings) for settings in runs])
            error = connection.recv().error
        except (EOFError, ConnectionError):
            ended = end_in_words(self.lose())
            raise Failed(
                f"the process that the runs are forked from: {ended}; start the same command "
                "again, or with --isolate"
            ) from None
        if error:
            raise error

    def start(
        self, words: Sequence[str], settings: Mapping[str, Any], threads: int, log: Path
    ) -> WarmRun:
        """Start train.py with a number of threads, in a process that ends when this one does."""
        words = [*words, "--num-threads", str(threads)]
        with open(log, "a") as file:
            file.write(f"{HEADER}train.py {shlex.join(words)}\n")
        self.started += 1
        run = self.running[self.started] = WarmRun(self, self.started)
        self.send(Order(self.started, tuple(words), dict(settings), log.resolve(), threads))
        return run

    def send_signal(self, number: int, signal_: int) -> None:
        if number in self.running:
            self.send(Signal(number, signal_))

    def send(self, message: Order | Signal) -> None:
        with suppress(ConnectionError):  # which `receive` comes to
            self.connect().send(message)

    def receive(self, timeout: float | None = 0) -> None:
        """Take note of the runs that have ended, waiting for one for so many seconds."""
        try:
            while self.running and self.connect().poll(timeout):
                number, status = self.connect().recv()
                self.running.pop(number).returncode = status
                timeout = 0
        except (EOFError, ConnectionError):
            status = self.lose()
            for run in self.running.values():
                run.returncode = status
            self.running.clear()

    def connect(self) -> Connection:
        if self.connection is None:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                # Its one thread is its own, and runs say how many they have.
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                environment["SOURCE_COMMIT"] = commit() or ""  # of the code that it imports now
                self.process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, str(ROOT), str(theirs.fileno())],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C is not for it
                )
                self.connection = Connection(ours.detach())
        return self.connection

    def lose(self) -> int:
        """Forget the process, which has ended; return its exit status."""
        if self.process is None or self.connection is None:
            raise RuntimeError("there is none")
        status = self.process.wait()
        self.connection.close()
        self.process = self.connection = None
        return status
