"""A run that replaces another one: until it has made a checkpoint or ended, that one is kept."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Completed

from engine.run_folder import RunFolder
from engine.status import (
    CHECKPOINT,
    find_file,
    folders_of_runs,
    read_status,
    set_aside,
    settle,
    write_status,
)
from errors import exit_status_of, is_first_of_machine

OLD = {"status": "finished\n\n\n\n", "config.json": "{}", "curve.csv": "epoch\n", "model.pt": "w"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in {**OLD, "run.lock": "process"}.items():
        (folder / name).write_text(content)
    return folder


def files(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file() and p.name != "run.lock"}


def start_new(folder: Path) -> None:
    set_aside(folder)
    write_status(folder, "running")
    (folder / "curve.csv").write_text("new")


class Killed(BaseException):
    """In place of a SIGKILL."""


def kill_at(call: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> bool:
    """Do some work, but raise at that change of the disk; whether it was reached."""
    calls = 0

    def counted(original: Callable) -> Callable:
        def method(self: Path, *arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return original(self, *arguments)

        return method

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "mkdir", "rmdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        try:
            work()
        except Killed:
            return True
    return False


def test_a_kill_at_any_change_of_the_disk_leaves_the_old_run_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is set aside, and while it is put back."""
    for work in (set_aside, lambda folder: (start_new(folder), settle(folder))):
        call = 1
        while kill_at(call, monkeypatch, lambda work=work: work(folder)):
            settle(folder)
            assert files(folder) == OLD, call
            assert [p for p in folder.iterdir() if p.is_dir()] == []
            call += 1
        settle(folder)
        assert files(folder) == OLD
        assert call > len(OLD)


@pytest.mark.parametrize("by", [CHECKPOINT, "finished", "diverged"])
def test_the_old_run_goes_when_the_new_one_has_a_checkpoint_or_has_ended(
    by: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_new(folder)
    if by == CHECKPOINT:
        (folder / CHECKPOINT).write_text("new")
    else:
        write_status(folder, by)
    after = files(folder)
    call = 1
    while kill_at(call, monkeypatch, lambda: settle(folder)):
        call += 1
    settle(folder)
    assert files(folder) == after
    assert [p for p in folder.iterdir() if p.is_dir()] == []


def test_the_reader_of_a_killed_run_puts_the_old_one_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in (set_aside, start_new, lambda folder: (start_new(folder), settle(folder))):
        call = 1
        while kill_at(call, monkeypatch, lambda work=work: work(folder)):
            assert folders_of_runs(folder.parent) == [folder]
            assert read_status(folder) == "finished", call
            assert files(folder) == OLD, call
            assert [path for path in folder.iterdir() if path.is_dir()] == []
            call += 1
        assert read_status(folder) == "finished"
        assert files(folder) == OLD
        assert call > len(OLD)


def refuse(folder: Path) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_reader_who_may_not_write_finds_the_old_run_where_it_lies(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in (set_aside, lambda folder: (start_new(folder), settle(folder))):
        call = 1
        while kill_at(call, monkeypatch, lambda work=work: work(folder)):
            with monkeypatch.context() as patch:
                patch.setattr("engine.status.put_right", refuse)
                assert folders_of_runs(folder.parent) == [folder]
                assert read_status(folder) == "finished", call
                assert {name: find_file(folder, name).read_text() for name in OLD} == OLD, call
            settle(folder)
            call += 1
        settle(folder)


@pytest.mark.parametrize("by", [CHECKPOINT, "diverged"])
def test_a_reader_who_may_not_write_finds_the_new_run(
    by: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_new(folder)
    if by == CHECKPOINT:
        (folder / CHECKPOINT).write_text("new")
    else:
        write_status(folder, by)
    monkeypatch.setattr("engine.status.put_right", refuse)
    assert read_status(folder) == ("interrupted" if by == CHECKPOINT else by)
    assert find_file(folder, "curve.csv").read_text() == "new"
    assert not find_file(folder, "model.pt").exists()


# Readers of a run under way, or killed


def test_a_killed_run_is_interrupted_on_disk_too_once_somebody_looked(folder: Path) -> None:
    write_status(folder, "running")
    assert read_status(folder) == "interrupted"
    assert (folder / "status").read_text().strip() == "interrupted"


def test_the_next_process_finds_a_killed_run_interrupted(folder: Path) -> None:
    write_status(folder, "running")
    with RunFolder(folder.parent, folder.name):
        assert (folder / "status").read_text().strip() == "interrupted"


def test_a_reader_leaves_a_run_under_way_alone(folder: Path) -> None:
    with RunFolder(folder.parent, folder.name):
        start_new(folder)
        before = files(folder)
        assert read_status(folder) == "running"
        assert find_file(folder, "model.pt") == folder / "model.pt"
        assert files(folder) == before
        assert (folder / ".replaced").is_dir()


def refuse_flock(file: object, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_running_without_a_lock_stays_running(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of a folder, and where the file system knows no flock."""
    write_status(folder, "running")
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", refuse_flock)
        assert read_status(folder) == "running"
    (folder / "run.lock").unlink()
    assert read_status(folder) == "running"


def test_readers_let_runs_start(folder: Path) -> None:
    """However often they look: what they hold, they hold for a moment."""
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            assert read_status(folder) in ("interrupted", "running", "finished")

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(look) for _ in range(4)]
        try:
            for _ in range(50):
                with RunFolder(folder.parent, folder.name) as run:
                    with suppress(KeyboardInterrupt), run.running(replaces=False):
                        assert read_status(folder) == "running"
                        raise KeyboardInterrupt
                    assert (folder / "status").read_text().strip() == "interrupted"
                    write_status(folder, "running")  # as a process that is killed leaves it
        finally:
            done.set()
        for reader in readers:
            reader.result()


RUN = ["--epochs", "2", "--budget", "0.2", "--batch-size", "32", "--device", "cpu"]
RUN += ["--experiment-name", "run"]


def test_a_compiler_that_is_missing_costs_no_run(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_here(*RUN).returncode == 0
    before = {path.name: path.read_bytes() for path in Path("results/run").iterdir()}
    del before["run.lock"]
    failure = type("CompileError", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def warm_up(self: object) -> float:
        assert read_status(Path("results/run")) == "running"
        raise failure("no compiler")

    monkeypatch.setattr("engine.trainer.Trainer.warm_up", warm_up)
    outcome = train_here(*RUN, "--overwrite", "--compile")
    assert outcome.returncode == 2
    assert "--compile" in outcome.stderr
    after = {path.name: path.read_bytes() for path in Path("results/run").iterdir()}
    del after["run.lock"]
    assert after == before


def test_the_first_checkpoint_lets_the_old_run_go(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_here(*RUN).returncode == 0
    monkeypatch.setattr(
        "engine.driver.report", lambda *_: signal.raise_signal(signal.SIGTERM)
    )  # after the first epoch
    assert train_here(*RUN, "--overwrite", "--lr", 0.05).returncode == 143
    folder = Path("results/run")
    assert read_status(folder) == "interrupted"
    assert (folder / CHECKPOINT).exists()
    assert not (folder / "model.pt").exists()
    assert [path for path in folder.iterdir() if path.is_dir()] == []


# Standard streams


@pytest.mark.parametrize(
    "redirection, status, message",
    [
        ("full", 1, "program: standard output: No space left on device\n"),
        ("pipe", 0, ""),
        ("closed", 0, ""),
    ],
)
def test_lost_output_does_not_stop_the_work(
    redirection: str, status: int, message: str, tmp_path: Path
) -> None:
    reader, errors = os.pipe()
    child = os.fork()
    if child == 0:  # has a few lines to run, and no tests
        done = 99
        try:
            os.dup2(errors, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            if redirection == "full":
                os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
            elif redirection == "pipe":
                gone, end = os.pipe()
                os.close(gone)
                os.dup2(end, 1)
            else:
                os.close(1)
            sys.stdout = (
                None if redirection == "closed" else open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            )

            def work() -> int:
                print("a line")
                print("another", flush=True)
                (tmp_path / "done").write_text("to the end")
                return 0

            done = exit_status_of("program", work)
        finally:
            os._exit(done)
    os.close(errors)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    with open(reader) as lines:
        assert lines.read() == message
    assert (tmp_path / "done").read_text() == "to the end"


@pytest.mark.parametrize("rank, size, speaks", [(0, 1, 1), (1, 2, 0), (5, 2, 1), ("x", 2, 1)])
def test_who_speaks_for_a_machine(
    rank: object, size: int, speaks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(size))
    assert is_first_of_machine() == bool(speaks)
