"""The ways in which a run ends early, each with its exit status."""

import sys
from collections.abc import Callable


class RunError(Exception):
    """A run that cannot go on. Its message is one line that names the cause and the remedy."""

    exit_status = 1


class Failed(RunError):
    """A cause outside the run: a full disk, a folder that vanished, too little memory."""


class UsageError(RunError):
    """A flag or file that the user has to change."""

    exit_status = 2


class Diverged(RunError):
    """A loss that became NaN or infinite."""

    exit_status = 3


class Interrupted(RunError):
    """A run told to stop by a signal, after it has written a checkpoint."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_status = 128 + signal_number


def exit_status_of(program: str, work: Callable[[], int]) -> int:
    """Do a program's work; an error is told in one line, and the exit status is its own."""
    try:
        return work()
    except RunError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{program}: stopped; start the same command again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{program}: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        return 1
