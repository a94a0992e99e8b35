"""Sets a run's status to `interrupted` when its process dies without a word, as by SIGKILL.

Started by `RunFolder.running` as a small process of its own: python watch.py FOLDER. It waits
until its standard input ends, which is when the run's process does, however it ends.
"""

from __future__ import annotations

import fcntl
import sys
import time
from pathlib import Path
from typing import TextIO

STATUS_BYTES = 12  # the longest status and a newline
LOCK_TRIES = 20  # 0.05 s apart: the pipe may close before the lock does


def read_status(folder: Path) -> str | None:
    """The status last written in a run's folder, None if there is none."""
    try:
        return (folder / "status").read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_status(folder: Path, status: str) -> None:
    """Write a status in place, always of one size, so that it succeeds on a full disk too."""
    path = folder / "status"
    with open(path, "r+b" if path.exists() else "wb", buffering=0) as file:
        file.write(f"{status}\n".encode().ljust(STATUS_BYTES, b"\n"))


def main(folder: Path) -> None:
    sys.stdin.read()
    try:
        with open(folder / "run.lock") as lock:
            if locked(lock) and read_status(folder) == "running":
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
