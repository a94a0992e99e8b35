"""A run's status and lock, and how a folder is put right after its process was killed.

The lock is the kernel's (flock on `run.lock`) and ends with the process, so that `running` under
a free lock means a run that was killed: `interrupted`. Whoever looks first puts that on disk, where
they may write there; others are given what they would have read.

A run that replaces an earlier one moves that one's files aside, and the folder goes through these
states, each reached by one rename, so that a kill at any moment leaves one of them:

    .moving/    files are on their way there, or back: what is there belongs in the folder
    .replaced/  all of the earlier run; the files in the folder are the new run's
    .dropped/   the new run has made its first checkpoint or ended: what is there may be deleted

PyTorch is not imported here: estimates and help read statuses too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

STATUSES = ("running", "finished", "interrupted", "diverged", "failed")
ENDED = ("finished", "diverged")
STATUS_BYTES = 12  # the longest status and a newline
LOCK, CHECKPOINT = "run.lock", "checkpoint.pt"
MOVING, REPLACED, DROPPED = ".moving", ".replaced", ".dropped"


def read_status(folder: Path) -> str | None:
    """Return the status of the run in a folder; None if there is none, `unknown` if unreadable.

    What a killed process left is put right first, where that is allowed. Where it cannot be known
    whether the run still lasts, for want of a lock or of flock, `running` stays what is read.
    """
    status = read_word(folder / "status")
    if status != "running" and not is_unsettled(folder):
        return status
    with suppress(OSError), open(folder / LOCK, "r+") as lock:  # held, or not ours to write
        take_lock(lock)
        put_right(folder)
        return read_word(folder / "status")
    with suppress(OSError), open(folder / LOCK) as lock:
        take_lock(lock, shared=True)  # so that no run starts before its status is read
        status = read_word(find_file(folder, "status"))
        return "interrupted" if status == "running" else status
    return read_word(folder / "status")


def read_word(path: Path) -> str | None:
    """Return the status that is written in a file, as `read_status` does."""
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


def find_file(folder: Path, name: str) -> Path:
    """Return where a file of the run in a folder lies, be it there or not.

    That is where a killed process had moved it to, if nobody has been allowed to move it back:
    for readers of folders that they may not write to.
    """
    replaced, moving = folder / REPLACED, folder / MOVING
    with suppress(OSError):
        if (replaced.is_dir() or moving.is_dir()) and holder(folder) is None:
            if replaced.is_dir() and not has_taken_over(folder):
                return replaced / hidden(name)
            if (moving / hidden(name)).exists():
                return moving / hidden(name)
    return folder / name


def folders_of_runs(results: Path) -> list[Path]:
    """Return the folders below `results` in which there is a part of a run, sorted."""
    marks = ("status", "config.json", "curve.csv", MOVING, REPLACED)
    return sorted({path.parent for mark in marks for path in results.rglob(mark)})


def take_lock(file: TextIO | int, shared: bool = False) -> None:
    """Lock a `run.lock` until it is closed; an OSError if another process has it or none can.

    Args:
        file: open for writing too, unless `shared` or a folder.
        shared: with others that only look, so that they do not take each other for a run.
    """
    import fcntl  # here, so that where there is none the command line comes to say so

    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def holder(folder: Path) -> str | None:
    """Return which process makes the run in a folder, in words; None if none does."""
    try:
        with open(folder / LOCK) as lock:
            try:
                take_lock(lock, shared=True)
            except OSError:
                return lock.read().strip() or "another process"
    except FileNotFoundError:
        pass
    return None


# All below is for the process that holds the folder's lock.


def put_right(folder: Path) -> None:
    """Settle what a killed process left, and say that its run was interrupted."""
    settle(folder)
    if read_word(folder / "status") == "running":
        write_status(folder, "interrupted")


def set_aside(folder: Path) -> None:
    """Move the files of the run in a folder to where `settle` finds them."""
    moving = folder / MOVING
    moving.mkdir()
    for path in sorted(files_of_run(folder), key=lambda path: path.name == "status"):
        path.rename(moving / hidden(path.name))  # the status last, and back first
    moving.rename(folder / REPLACED)


def settle(folder: Path) -> None:
    """Keep the new run in a folder if it has made a checkpoint or ended, else the other."""
    replaced, moving, dropped = (folder / name for name in (REPLACED, MOVING, DROPPED))
    if replaced.is_dir():
        if has_taken_over(folder):
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


def is_unsettled(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in (MOVING, REPLACED, DROPPED))


def has_taken_over(folder: Path) -> bool:
    """Return whether the run in a folder may replace the one that was set aside."""
    ended = read_word(folder / "status") in ENDED
    return ended or (folder / CHECKPOINT).exists()


def files_of_run(folder: Path) -> Iterator[Path]:
    """Yield the files in a run's folder but its lock."""
    return (path for path in list(folder.iterdir()) if path.name != LOCK and path.is_file())


def hidden(name: str) -> str:
    """Return the name of a file that is set aside: no reader of runs takes it for part of one."""
    return f"old-{name}"
