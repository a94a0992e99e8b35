"""A run's process: python train.py with its part of the threads, its output kept in a log."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..source import ROOT
from . import child

TRAIN = ROOT / "train.py"
LOG = "log.txt"  # in the run's folder: what train.py printed
HEADER = "--- "  # begins the line of the log that says what is started
SHOWN = 5  # lines of a log


def start_train(words: Sequence[str], threads: int, log: Path) -> subprocess.Popen[bytes]:
    """Start train.py with a number of threads, in a process that ends when this one does.

    It has a process group of its own, so that Ctrl-C reaches it only through us.
    """
    words = [*words, "--num-threads", str(threads)]
    command = [sys.executable, str(TRAIN), *words]
    with open(log, "a") as file:
        file.write(f"{HEADER}train.py {shlex.join(words)}\n")
        file.flush()
        return subprocess.Popen(
            [sys.executable, child.__file__, str(os.getpid()), *command],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def end_in_words(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def last_lines(log: Path) -> list[str]:
    """The last of what the last attempt at a run printed."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    starts = [number for number, line in enumerate(lines, 1) if line.startswith(HEADER)]
    return lines[max(starts, default=0) :][-SHOWN:]
