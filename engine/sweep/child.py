"""Becomes another command, which is sent SIGTERM when the process that started it is gone.

python child.py PARENT COMMAND, where PARENT is that process's id. So a sweep that is killed leaves
no runs behind it: they write a checkpoint and end. Only on Linux; elsewhere they run to their end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent(parent: int) -> None:
    """Have this process sent SIGTERM when its parent ends, which has that id."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)  # it is gone already


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
