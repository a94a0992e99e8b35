"""Runs that are killed, stopped, starved of disk or started twice, as forks."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT
from forks import Fork
from small_files import write_cifar10

from augmentations import AUGMENTATIONS
from benchmarks.crash import crash_table, differences
from engine import checkpoint
from engine.run_folder import RunFolder, write_whole
from engine.status import read_status
from engine.sweep.warm import WarmServer
from plots.runs import read_runs

pytestmark = pytest.mark.slow
# About ten seconds of steps: long enough to be met in the middle.
LONG = ["--epochs", "100", "--budget", "0.5", "--checkpoint-every", "5steps"]
SHORT = ["--epochs", "4", "--budget", "0.5", "--checkpoint-every", "5steps"]


@pytest.fixture
def start(no_network: None) -> Iterator[Callable[..., Fork]]:
    """Start train.py in a fork; whatever still runs at the end of the test is killed."""
    started: list[Fork] = []

    def start_one(*arguments: object, **options: Any) -> Fork:
        started.append(Fork(list(map(str, arguments)), ROOT, **options))
        return started[-1]

    yield start_one
    for fork in started:
        fork.kill()
        fork.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def end(process: Fork, seconds: float = 120) -> tuple[int, str]:
    """Exit status and standard error of a process."""
    errors = process.communicate(timeout=seconds)[1]
    return process.returncode, errors


def error_lines(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if not line.startswith("note: ")]


def has_checkpoint(folder: Path) -> bool:
    return (folder / checkpoint.CURRENT).exists()


@pytest.fixture(scope="module")
def server(no_network: None) -> Iterator[WarmServer]:
    """Runs are forks of this one process, which saves each of their many starts."""
    with WarmServer() as server:
        yield server


KILLS = {"SGD": 6, "unif-SGD": 6, "p-SGD": 6, "c-SGD": 6, "selective-backprop": 6, "dro": 6}
KILLS |= {"random-subset": 4, "coreset": 5, "rho-loss": 5}
#: Two augmentations for each method, in turn, so that every one of them is killed with some.
PAIRS = dict(zip(KILLS, cycle(zip(AUGMENTATIONS, [*AUGMENTATIONS][1:] + [*AUGMENTATIONS][:1]))))


@pytest.mark.parametrize("method, kills", KILLS.items())
def test_fifty_kills_leave_no_trace(method: str, kills: int, server: WarmServer) -> None:
    digits = dict(dataset="digits", model="resnet10-w8", methods=[method])
    digits |= dict(augmentations=PAIRS[method], server=server)
    outcomes = crash_table(kills, jobs=1, seed=3, **digits)
    assert sum(outcome.kills for outcome in outcomes) == kills
    assert [outcome.mismatches for outcome in outcomes if outcome.mismatches] == []


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_leaves_a_checkpoint_and_says_how_to_go_on(
    number: signal.Signals, status: int, start: Callable, tmp_path: Path
) -> None:
    arguments = [*LONG, "--checkpoint-every", "1000", "--results-dir", tmp_path]
    process = start(*arguments, "--experiment-name", "run")
    wait_until(lambda: read_status(tmp_path / "run") == "running")
    time.sleep(1)
    process.send_signal(number)
    returned, errors = end(process)
    assert returned == status
    assert len(error_lines(errors)) == 1
    assert number.name in errors
    assert "start the same command again" in errors
    assert read_status(tmp_path / "run") == "interrupted"
    step = int(re.search(r"after step (\d+)", errors)[1])
    again = start(*arguments, "--experiment-name", "run")
    wait_until(lambda: read_status(tmp_path / "run") == "running")
    again.send_signal(signal.SIGTERM)
    assert f"resuming after step {step}" in end(again)[1]


def test_a_second_interrupt_stops_at_once(start: Callable, tmp_path: Path) -> None:
    process = start(*LONG, "--results-dir", tmp_path, "--experiment-name", "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    for _ in range(50):  # until one falls between the first one's handling and its end
        process.send_signal(signal.SIGINT)
    returned, errors = end(process)
    assert returned == 130
    assert "Traceback" not in errors
    assert read_status(tmp_path / "run") == "interrupted"
    assert checkpoint.read(tmp_path / "run" / checkpoint.CURRENT)["state"]["step"] > 0


def test_sigusr1_writes_a_checkpoint_and_goes_on(start: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(
        *LONG, "--checkpoint-every", "1000", "--results-dir", tmp_path, "--experiment-name", "run"
    )
    wait_until(lambda: read_status(folder) == "running")
    assert not has_checkpoint(folder)
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: has_checkpoint(folder))
    step = checkpoint.read(folder / checkpoint.CURRENT)["state"]["step"]
    rows = len(pd.read_csv(folder / "curve.csv"))
    wait_until(lambda: len(pd.read_csv(folder / "curve.csv")) > rows)
    assert process.poll() is None
    assert step > 0


def test_sigkill_shows_in_the_status(start: Callable, tmp_path: Path) -> None:
    process = start(*LONG, "--results-dir", tmp_path, "--experiment-name", "run")
    wait_until(lambda: read_status(tmp_path / "run") == "running")
    process.kill()
    wait_until(lambda: read_status(tmp_path / "run") == "interrupted", seconds=10)


def test_a_torn_curve_is_mended(start: Callable, tmp_path: Path) -> None:
    common = [*SHORT, "--results-dir", tmp_path, "--experiment-name"]
    assert end(start(*common, "whole"))[0] == 0
    process = start(*common, "torn")
    wait_until(lambda: has_checkpoint(tmp_path / "torn"))
    process.kill()
    process.wait()
    with open(tmp_path / "torn" / "curve.csv", "a") as file:
        file.write("3,33,0.05,1.2")
    assert end(start(*common, "torn"))[0] == 0
    assert differences(tmp_path / "whole", tmp_path / "torn") == []


def test_other_settings_are_named_and_nothing_is_lost(start: Callable, tmp_path: Path) -> None:
    common = ["--results-dir", tmp_path, "--experiment-name", "run"]
    process = start(*LONG, *common)
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    process.send_signal(signal.SIGTERM)
    end(process)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    returned, errors = end(start(*LONG, *common, "--lr", "0.05"))
    assert returned == 2
    assert len(error_lines(errors)) == 1
    assert "lr was 0.1, is 0.05" in errors
    returned, errors = end(start(*LONG, *common, "--no-resume"))
    assert returned == 2
    assert "--overwrite" in errors
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    del before["run.lock"], after["run.lock"]  # which names the last process that asked
    assert after == before
    afresh = start(*SHORT, *common, "--lr", "0.05", "--no-resume", "--overwrite")
    returned, errors = end(afresh)
    assert returned == 0
    assert "resuming" not in errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB: two checkpoints of the small network fit, three do not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_stops_the_run_and_harms_nothing(
    start: Callable, small_disk: Path, tmp_path: Path
) -> None:
    common = [*SHORT, "--experiment-name", "run", "--results-dir"]
    assert end(start(*common, tmp_path))[0] == 0
    returned, errors = end(start(*common, small_disk))
    assert returned == 1
    assert len(error_lines(errors)) == 1
    assert "No space left on device" in errors
    assert read_status(small_disk / "run") == "failed"
    assert checkpoint.read(small_disk / "run" / checkpoint.CURRENT)["state"]["step"] >= 5
    assert set(pd.read_csv(small_disk / "run" / "curve.csv").columns)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert end(start(*common, small_disk))[0] == 0
    assert differences(tmp_path / "run", small_disk / "run") == []


def test_a_killed_replacement_is_read_from_a_read_only_disk(
    start: Callable, small_disk: Path
) -> None:
    """As the run that it was to replace, which is put back once that is possible."""

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(small_disk)], check=True)

    remount("size=64m")
    common = ["--results-dir", small_disk, "--experiment-name", "run"]
    assert end(start(*SHORT, *common))[0] == 0
    process = start(*LONG, "--checkpoint-every", "1000", "--overwrite", *common)
    wait_until(lambda: (small_disk / "run" / "curve.csv").is_file() and was_set_aside(small_disk))
    process.kill()
    process.wait()
    remount("ro")
    assert read_status(small_disk / "run") == "finished"
    (run,), notes = read_runs(small_disk)
    assert (len(run.curve), notes) == (4, [])
    assert was_set_aside(small_disk)
    remount("rw")
    (run,), notes = read_runs(small_disk)
    assert (len(run.curve), notes) == (4, [])
    assert not was_set_aside(small_disk)
    assert (small_disk / "run" / "model.pt").exists()


def was_set_aside(results: Path) -> bool:
    return (results / "run" / ".replaced").is_dir()


def limit_file_size() -> None:
    """To less than the size of a checkpoint."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))


def test_a_file_size_limit_stops_the_run_and_harms_nothing(start: Callable, tmp_path: Path) -> None:
    common = [*SHORT, "--results-dir", tmp_path, "--experiment-name", "run"]
    returned, errors = end(start(*common, prepare=limit_file_size))
    assert returned == 1
    assert len(error_lines(errors)) == 1
    assert "File too large" in errors
    assert read_status(tmp_path / "run") == "failed"
    assert end(start(*common))[0] == 0


def test_a_vanished_folder_stops_the_run(start: Callable, tmp_path: Path) -> None:
    process = start(*LONG, "--results-dir", tmp_path, "--experiment-name", "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    returned, errors = end(process)
    assert returned == 1
    assert len(error_lines(errors)) == 1
    assert str(tmp_path / "run") in errors
    assert "No such file or directory" in errors
    assert checkpoint.read(tmp_path / "elsewhere" / checkpoint.CURRENT)["state"]["step"] > 0


def test_the_second_of_two_processes_says_who_is_first(start: Callable, tmp_path: Path) -> None:
    common = ["--results-dir", tmp_path, "--experiment-name", "run"]
    first = start(*LONG, *common)
    wait_until(lambda: read_status(tmp_path / "run") == "running")
    returned, errors = end(start(*LONG, *common))
    assert returned == 2
    assert len(error_lines(errors)) == 1
    assert f"process {first.pid} on {socket.gethostname()} since 20" in errors
    assert read_status(tmp_path / "run") == "running"
    first.kill()
    third = start(*LONG, *common)
    wait_until(lambda: str(third.pid) in (tmp_path / "run" / "run.lock").read_text())


def test_eight_runs_share_one_new_data_folder(start: Callable, tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    common = ["--dataset", "cifar10", "--data-dir", tmp_path / "data", "--model", "resnet10-w16"]
    common += ["--epochs", "1", "--batch-size", "16", "--results-dir", tmp_path / "results"]
    runs = [start(*common, "--seed", seed, environment=environment) for seed in range(8)]
    assert [end(run) for run in runs] == [(0, "")] * 8
    caches = [path.name for path in (tmp_path / "data" / "cache").iterdir()]
    assert len(caches) == 1


def test_a_lock_is_the_processes_own(tmp_path: Path) -> None:
    """A file left by a dead process, whatever it says, holds nobody up."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text("process 1 on nowhere since forever\n")
    with RunFolder(tmp_path, "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / "run.lock").read_text()


def test_processes_that_write_one_file_leave_it_whole(tmp_path: Path) -> None:
    """As shards of a tuning do: each has a file aside of its own."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(tmp_path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(set((tmp_path / "file").read_bytes())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def write_often(folder: Path, number: int) -> None:
    for _ in range(100):
        write_whole(folder / "file", bytes([number]) * 1000)
