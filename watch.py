"""Sets a run's status to `interrupted` when its process dies without a word, as by SIGKILL.

Started by `RunFolder.running` as a small process of its own: python watch.py FOLDER. It waits
until its standard input ends, which is when the run's process does, however it ends.
"""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

STATUS_BYTES = 12  # the longest status and a newline


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
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if read_status(folder) == "running":
                write_status(folder, "interrupted")
    except OSError:
        pass  # the folder is gone, or another process goes on with the run


if __name__ == "__main__":
    main(Path(sys.argv[1]))
