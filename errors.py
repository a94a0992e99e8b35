"""The ways in which a run ends early, each with its exit status."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress


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
    with suppress(AttributeError):  # where it is none, or not a stream of text
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that it cannot encode
    try:
        return work()
    except RunError as error:
        message, status = str(error), error.exit_status
    except KeyboardInterrupt:
        message, status = "stopped; start the same command again to go on", 130
    except OSError as error:
        message, status = f"{error.filename or 'input/output'}: {error.strerror}", 1
    if is_first_of_machine():
        say(f"{program}: {message}")
    return status


def say(text: str) -> None:
    """Tell the user something on standard error, in one line whatever is in it.

    Names of files may hold line breaks, control characters and bytes that are no UTF-8; they are
    written as escapes.
    """
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    print(line, file=sys.stderr)


def is_first_of_machine() -> bool:
    """Whether this process speaks for all those of its machine that `torchrun` started."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
