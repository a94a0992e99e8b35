"""The ways in which a run ends early, each with its exit status."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

#: Of system calls that fail because of the path that was given: the user has to change that.
WRONG_PATH = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}
WRONG_PATH |= {errno.ENAMETOOLONG, errno.ELOOP}


class RunError(Exception):
    """A run that cannot continue. Its message is one line that names the cause and the remedy."""

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
    """A run stopped by a signal, after it has written a checkpoint."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_status = 128 + signal_number


class Output:
    """A standard stream whose loss, as by `| head` or a full disk, does not stop the work.

    From then on what is written is dropped, and `fault` says why.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.fault = error
            with suppress(OSError):  # what is still buffered goes nowhere, without an error
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


@contextmanager
def lasting_output() -> Iterator[Output]:
    """Let a program print wherever it was started, be it with closed streams; its `stdout`."""
    for number in range(3):  # else the next files opened would get these numbers
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    output, errors = (
        Output(open(os.devnull, "w") if stream is None else stream)  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr)
    )
    with redirect_stdout(output), redirect_stderr(errors):
        yield output


speaks_flags = False  # whether a command line is at work, whose user knows settings as flags


@contextmanager
def speaking_flags() -> Iterator[None]:
    """Let `say` spell settings as flags."""
    global speaks_flags
    before, speaks_flags = speaks_flags, True
    try:
        yield
    finally:
        speaks_flags = before


def exit_status_of(program: str, work: Callable[[], int]) -> int:
    """Do a program's work; an error is printed in one line and gives the exit status.

    Paths that are wrong give 2; during a run, its folder turns them into `Failed`, 1.
    """
    with suppress(AttributeError):  # where it is none, or not a stream of text
        stream: Any = sys.stdout
        stream.reconfigure(errors="backslashreplace")  # for names that it cannot encode
    with lasting_output() as output, speaking_flags():
        try:
            check_platform()
            status, message = work(), ""
            output.flush()
            # Who reads no further, as `head` does, has seen enough.
            if output.fault and output.fault.errno != errno.EPIPE and not status:
                message, status = f"standard output: {output.fault.strerror}", 1
        except RunError as error:
            message, status = str(error), error.exit_status
        except KeyboardInterrupt:
            message, status = "stopped; start the same command again to resume", 130
        except OSError as error:
            message, status = f"{error.filename or 'input/output'}: {error.strerror}", 1
            if error.errno in WRONG_PATH:
                message, status = f"{message}; give another path, or change its permissions", 2
        if message and is_first_of_machine():
            say(f"{program}: {message}")
    return status


def check_platform() -> None:
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise UsageError(
            f"{sys.platform}: has no file locks (fcntl), which runs need; use Linux or macOS, on "
            "Windows WSL"
        ) from None


def as_flags(text: str) -> str:
    """Replace settings named in a text, `in_backticks`, by the flags that give them.

    What a command line makes of messages, which name settings as they are in Python.
    """
    return re.sub(
        r"`(\w+)(=False)?`",
        lambda match: ("--no-" if match[2] else "--") + match[1].replace("_", "-"),
        text,
    )


def say(text: str) -> None:
    """Print a message on standard error, in one line whatever is in it.

    Names of files may hold line breaks, control characters and bytes that are no UTF-8; they are
    written as escapes.
    """
    text = as_flags(text) if speaks_flags else text
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    print(line, file=sys.stderr)


def is_first_of_machine() -> bool:
    """Return whether this process reports for all of its machine that `torchrun` started."""
    try:
        return not 0 < int(os.environ.get("LOCAL_RANK", 0)) < int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        return True
