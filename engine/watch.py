"""Puts a run's folder right when its process is killed without warning, as by SIGKILL.

Started by `RunFolder.running` as a small process of its own: python watch.py FOLDER. It waits
until its standard input ends, which is when the run's process does, however it ends. It imports
nothing of the project, so that it starts in no time.

A run that replaces an earlier one moves that one's files aside, and the folder goes through these
states, each reached by one rename, so that a kill at any moment leaves one of them:

    .moving/    files are on their way there, or back: what is there belongs in the folder
    .replaced/  all of the earlier run; the files in the folder are the new run's
    .dropped/   the new run has made its first checkpoint or ended: what is there may be deleted
"""

from __future__ import annotations

import fcntl
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

STATUSES = ("running", "finished", "interrupted", "diverged", "failed")
STATUS_BYTES = 12  # the longest status and a newline
LOCK_TRIES = 20  # 0.05 s apart: the pipe may close before the lock does
LOCK, CHECKPOINT = "run.lock", "checkpoint.pt"
MOVING, REPLACED, DROPPED = ".moving", ".replaced", ".dropped"


def read_status(folder: Path) -> str | None:
    """The status last written in a run's folder; None if there is none, `unknown` if unreadable."""
    path = folder / "status"
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return "unknown" if path.exists() else None
        with open(path, "rb") as file:
            word = file.read(2 * STATUS_BYTES).strip().decode(errors="replace")
    except OSError:
        return "unknown"
    return word if word in STATUSES or not word else "unknown"


def write_status(folder: Path, status: str) -> None:
    """Write a status in place, always of one size, so that it succeeds on a full disk too."""
    path = folder / "status"
    with open(path, "r+b" if path.exists() else "wb", buffering=0) as file:
        file.write(f"{status}\n".encode().ljust(STATUS_BYTES, b"\n"))


def set_aside(folder: Path) -> None:
    """Move the files of the run in a folder to where `settle` finds them."""
    moving = folder / MOVING
    moving.mkdir()
    for path in sorted(files_of_run(folder), key=lambda path: path.name == "status"):
        path.rename(moving / hidden(path.name))  # the status last, and back first
    moving.rename(folder / REPLACED)


def settle(folder: Path) -> None:
    """Keep one run in a folder: the new one if it has made a checkpoint or ended, else the other.

    To be called by who holds the folder's lock.
    """
    replaced, moving, dropped = (folder / name for name in (REPLACED, MOVING, DROPPED))
    if replaced.is_dir():
        if (folder / CHECKPOINT).exists() or read_status(folder) in ("finished", "diverged"):
            shutil.rmtree(dropped, ignore_errors=True)
            replaced.rename(dropped)
        else:
            for path in files_of_run(folder):
                path.unlink()
            replaced.rename(moving)
    if moving.is_dir():
        for path in sorted(moving.iterdir(), key=lambda path: path.name != hidden("status")):
            path.rename(folder / path.name.removeprefix(hidden("")))
        moving.rmdir()
    shutil.rmtree(dropped, ignore_errors=True)


def files_of_run(folder: Path) -> Iterator[Path]:
    """The files in a run's folder but its lock."""
    return (path for path in list(folder.iterdir()) if path.name != LOCK and path.is_file())


def hidden(name: str) -> str:
    """The name of a file that is set aside: no reader of runs takes it for part of one."""
    return f"old-{name}"


def main(folder: Path) -> None:
    sys.stdin.read()
    try:
        with open(folder / LOCK) as lock:
            unsettled = any((folder / name).is_dir() for name in (MOVING, REPLACED, DROPPED))
            if (unsettled or read_status(folder) == "running") and locked(lock):
                settle(folder)
                if read_status(folder) == "running":  # not that of a run put back
                    write_status(folder, "interrupted")
    except OSError:
        pass  # the folder is gone


def locked(lock: TextIO) -> bool:
    """Take the lock; False if another process goes on with the run."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
