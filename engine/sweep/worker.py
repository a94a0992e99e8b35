"""The process that a sweep's runs on one machine are forked from, with all imported and loaded.

It makes no thread and touches no device, so that a fork of it is as good as a new process. On a CPU
every run has a fork to itself. On a GPU, whose start costs seconds too, a fork that has made a run
well makes the next one; but for runs that set up the whole process in a way of their own.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import NoReturn, TypeVar

import torch

from errors import Failed, RunError, UsageError, speaking_flags

from .. import driver  # noqa: F401 - so that runs need not import it
from ..build import import_parts, keep_dataset
from ..config import RunConfig
from ..flags import main as train
from ..machine import find_device
from .checks import check_runs
from .child import end_with_parent
from .warm import Checked, Ended, Order, Settings, Signal

Result = TypeVar("Result")


@dataclass
class Child:
    """A fork."""

    process: int
    pipe: Connection  # from which come exit statuses of its runs; it closes as the process ends
    number: int | None  # of the run that it makes; None while it waits for one
    reusable: bool


class Server:
    """Forks processes for the runs that it is asked for."""

    def __init__(self, sweep: Connection):
        self.sweep = sweep
        self.children: list[Child] = []

    def serve(self) -> None:
        """Do what the sweep asks for, until it is gone."""
        while True:
            ready = wait([self.sweep, *(child.pipe for child in self.children)])
            for child in [child for child in self.children if child.pipe in ready]:
                self.hear(child)
            if self.sweep in ready:
                try:
                    self.obey(self.sweep.recv())
                except (EOFError, ConnectionError):
                    return

    def obey(self, message: Order | Signal | list[Settings]) -> None:
        """Start a run, send one a signal, or check some."""
        if isinstance(message, Order):
            self.start(message)
        elif isinstance(message, Signal):
            for child in self.children:
                if child.number == message.number:
                    os.kill(child.process, message.signal)
        else:
            self.sweep.send(Checked(check(message)))

    def start(self, order: Order) -> None:
        settings = RunConfig(**order.settings)
        import_parts(settings)
        with suppress(Exception):  # which the run itself comes to, and reports
            keep_dataset(settings)
        reusable = makes_more_than_one(order.settings)
        waiting = [child for child in self.children if child.number is None]
        if reusable and waiting:
            waiting[0].number = order.number
            waiting[0].pipe.send(order)
            return
        ours, theirs = Pipe()
        gc.freeze()  # else the first collection in a fork would copy all of the memory
        server, process = os.getpid(), os.fork()
        if not process:
            for connection in (self.sweep, ours, *(child.pipe for child in self.children)):
                connection.close()
            be_a_child(server, order, theirs if reusable else None)
        theirs.close()
        self.children.append(Child(process, ours, order.number, reusable))

    def hear(self, child: Child) -> None:
        """Take note of the end of a child or of the run that it made."""
        try:
            status = child.pipe.recv()
        except (EOFError, ConnectionError):
            self.children.remove(child)
            status = os.waitstatus_to_exitcode(os.waitpid(child.process, 0)[1])
        if child.number is not None:
            self.sweep.send(Ended(child.number, status))
        child.number = None


def check(runs: list[Settings]) -> RunError | OSError | None:
    """Return what would keep one of some runs from its start; their data are loaded on the way."""
    try:
        for config in [RunConfig(**settings) for settings in runs]:
            import_parts(config)  # for the check too, which is made in a fork
            keep_dataset(config)
        in_fork(partial(check_runs, runs))
    except (RunError, OSError) as error:
        return error
    return None


@cache
def is_gpu(device: str) -> bool:
    """Return whether a run with that setting is made on a GPU; False where it will be refused."""
    try:
        return in_fork(partial(find_device, device)).type == "cuda"
    except RunError:
        return False


def in_fork(work: Callable[[], Result]) -> Result:
    """Do work that may wake a GPU's driver, which no later fork would survive, in a fork."""
    ours, theirs = Pipe()
    process = os.fork()
    if not process:
        try:
            answer: tuple[Result | None, Exception | None] = work(), None
        except (RunError, OSError) as error:
            answer = None, error
        except Exception as error:  # of a user's own part, whose exceptions may not be known here
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            answer = None, UsageError(f"a run of this sweep cannot start ({reason}); make it alone")
        theirs.send(answer)
        os._exit(0)
    theirs.close()
    try:
        result, failure = ours.recv()
    except EOFError:
        raise Failed("a check of the runs was killed; start the sweep again") from None
    finally:
        os.waitpid(process, 0)
    if failure:
        raise failure
    return result


def makes_more_than_one(settings: Settings) -> bool:
    """Return whether the process of such a run is as good for the next one."""
    sets_up = settings["deterministic"] or settings["compile"]
    return not sets_up and is_gpu(settings["device"])


def be_a_child(server: int, order: Order, pipe: Connection | None) -> NoReturn:
    """Make a run, and others that come by the pipe as long as they end well; then exit."""
    os.setpgid(0, 0)  # so that Ctrl-C reaches the run only through the sweep
    end_with_parent(server)
    status = make(order)
    while pipe and status == 0:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            pipe.send(status)
            order = pipe.recv()
        except (EOFError, ConnectionError):
            break
        status = make(order)
    os._exit(status)  # without what a server has to tidy up


def make(order: Order) -> int:
    """Make a run as `python train.py` does; the exit status."""
    log = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.environ["OMP_NUM_THREADS"] = str(order.threads)  # for processes that the run starts
    sys.argv = ["train.py", *order.words]
    try:
        return train(list(order.words))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for output in (sys.stdout, sys.stderr):
            output.flush()


def main(sweep: int) -> None:
    """Serve a sweep at the other end of a socket, given by its number."""
    server = Server(Connection(sweep))
    try:
        with speaking_flags():
            server.serve()
    finally:
        for child in server.children:
            with suppress(ProcessLookupError):
                os.kill(child.process, signal.SIGTERM)
        for child in server.children:
            child.pipe.close()  # which ends those that wait for a run
            os.waitpid(child.process, 0)
