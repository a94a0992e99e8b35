"""Which code runs, and on what: without PyTorch, for who starts runs."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the project


def processor_name() -> str:
    """The processor's name, as the system says it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the code that runs, with -dirty if it was changed; None outside git.

    SOURCE_COMMIT gives it to the nodes of a cluster, which get the code without its history.
    """
    if "SOURCE_COMMIT" in os.environ:
        return os.environ["SOURCE_COMMIT"] or None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
