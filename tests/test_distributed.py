"""Several processes that make one run: the same draws, the same answer, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, TORCHRUN
from ranks import CASES, RESUMED, journal
from test_durability import has_checkpoint, wait_until

from engine.distributed import ALONE, World
from engine.run_folder import COLUMNS
from engine.status import read_status
from errors import Failed, UsageError

pytestmark = pytest.mark.slow
PLAIN = ["--device", "cpu", "--num-threads", "1"]


@pytest.fixture
def launch(no_network: None) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a script in N processes; whatever still runs at the end of the test is killed."""
    started = []

    def start(number: int, *words: object) -> subprocess.Popen:
        command = [*TORCHRUN, f"--nproc-per-node={number}", *map(str, words)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for child in children(process):
            subprocess.run(["kill", "-9", str(child)], check=False)
        process.kill()
        process.communicate()


def children(process: subprocess.Popen) -> list[int]:
    """The processes of a run, in the order of their ranks."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [*map(int, path.read_text().split())] if path.exists() else []


def lines_of(program: str, errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith(f"{program}:")]


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes saw, by method and augmentation."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [*TORCHRUN, "--nproc-per-node=2", "tests/ranks.py", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, check=True, timeout=300, env=environment)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_processes_make_the_run_of_one(case: tuple[str, str], journals: list[dict]) -> None:
    """The same batches exactly; weights to rounding, as gradients are summed in another order."""
    alone = journal(*case, ALONE)
    for together in (journals[0][case], journals[1][case]):
        assert torch.equal(together["indices"], alone["indices"])
        torch.testing.assert_close(together["images"], alone["images"], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(together["weights"], alone["weights"], rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(together["rows"], alone["rows"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)
    assert str(journals[0][case]["method"]) == str(journals[1][case]["method"])
    assert torch.equal(journals[0][case]["weights"], journals[1][case]["weights"])


@pytest.mark.parametrize("method", RESUMED)
def test_processes_go_on_from_one_checkpoint_as_if_uninterrupted(
    method: str, journals: list[dict]
) -> None:
    """With the statistics of the leading one, by which all of them score; to the bit."""
    first, second = (journal[method] for journal in journals)
    assert all(map(torch.equal, first["buffers"], second["buffers"]))
    for seen in (first, second):
        for name, value in seen["whole"].items():
            assert torch.equal(seen["resumed"][name], value), name
            assert torch.equal(first["whole"][name], value), name


@pytest.mark.parametrize("method", RESUMED)
def test_dropout_differs_between_processes_and_is_the_same_when_resumed(
    method: str, journals: list[dict]
) -> None:
    """No two of 14 masks of 8 x 16 agree by chance (2 ** -128 for each pair)."""
    first, second = (journal[method] for journal in journals)
    masks = first["dropped"] + second["dropped"]
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks) == 28
    for seen in (first, second):
        assert all(map(torch.equal, seen["dropped"][5:], seen["dropped_again"]))


THREADS_AT_THE_END = """
import atexit, os, sys
from pathlib import Path

def say():
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    os.write(1, f"threads: {threads}\\n".encode())

atexit.register(say)  # before the program's own, so it is called after them
sys.path.insert(0, os.getcwd())
from engine.flags import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("lr, status", [(0.1, 0), (1000, 1)], ids=["finished", "diverged"])
def test_no_thread_of_an_exchange_is_left_at_the_end(
    lr: float, status: int, launch: Callable, tmp_path: Path
) -> None:
    """One that still holds a tensor as Python ends would abort the process, now and then."""
    script = tmp_path / "train.py"
    script.write_text(THREADS_AT_THE_END)
    words = ["--epochs", "2", "--lr", lr, *PLAIN, "--results-dir", tmp_path]
    process = launch(2, script, *words)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert "threads: [" in output
    assert "gloo" not in output


def test_a_run_of_two_processes_leaves_one_curve(launch: Callable, tmp_path: Path) -> None:
    words = ["--epochs", "3", "--budget", "0.5", "--method", "selective-backprop", *PLAIN]
    process = launch(2, "train.py", *words, "--results-dir", tmp_path, "--experiment-name", "run")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("epoch 3/3") == 1
    curve = pd.read_csv(tmp_path / "run" / "curve.csv")
    assert tuple(curve.columns) == COLUMNS
    assert curve["epoch"].tolist() == [1, 2, 3]
    assert curve["images_trained"].tolist() == [640, 1280, 1920]
    assert curve["images_scored"].iloc[-1] % 128 == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["processes"] == 2
    assert read_status(tmp_path / "run") == "finished"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_run(victim: int, launch: Callable, tmp_path: Path) -> None:
    """With one line and a good checkpoint, from which one process goes on."""
    words = ["--epochs", "200", "--budget", "0.5", "--checkpoint-every", "10steps", *PLAIN]
    words += ["--results-dir", str(tmp_path), "--experiment-name", "run", "--eval-every", "200"]
    process = launch(2, "train.py", *words)
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    subprocess.run(["kill", "-9", str(children(process)[victim])], check=True)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    if victim == 1:
        lines = lines_of("train.py", errors)
        assert len(lines) == 1
        assert "another process of this run is gone; start the same command again" in lines[0]
    wait_until(lambda: read_status(tmp_path / "run") in ("failed", "interrupted"), seconds=20)

    alone = subprocess.Popen(
        [sys.executable, "train.py", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: read_status(tmp_path / "run") == "running")
    alone.send_signal(signal.SIGTERM)
    errors = alone.communicate(timeout=60)[1]
    assert re.search(r"resuming after step [1-9]\d*0\n", errors)
    assert "stopped by SIGTERM after step" in errors


def test_a_signal_stops_all_processes_after_the_same_step(launch: Callable, tmp_path: Path) -> None:
    words = ["--epochs", "200", "--budget", "0.5", *PLAIN, "--method", "dro"]
    words += ["--results-dir", str(tmp_path), "--experiment-name", "run", "--eval-every", "200"]
    process = launch(2, "train.py", *words)
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    subprocess.run(["kill", "-TERM", str(children(process)[1])], check=True)  # not the leading one
    errors = process.communicate(timeout=60)[1]
    lines = lines_of("train.py", errors)
    assert len(lines) == 1
    assert "stopped by SIGTERM after step" in lines[0]
    assert read_status(tmp_path / "run") == "interrupted"

    again = launch(2, "train.py", *words)
    wait_until(lambda: read_status(tmp_path / "run") == "running")
    subprocess.run(["kill", "-INT", str(children(again)[0])], check=True)
    errors = again.communicate(timeout=60)[1]
    assert "resuming after step" in errors
    assert read_status(tmp_path / "run") == "interrupted"


@pytest.mark.parametrize(
    "words, fault",
    [
        (["--batch-size", "33"], "--batch-size 33: it is split over the 2 processes"),
        (["--batch-size", "2"], "--batch-size 2: it is split over the 2 processes"),
        (["--lr", "nought"], "--lr"),
        (["--sync-batchnorm"], "--sync-batchnorm: PyTorch has it for CUDA alone"),
    ],
)
def test_bad_input_is_told_once(
    words: list[str], fault: str, launch: Callable, tmp_path: Path
) -> None:
    process = launch(2, "train.py", *words, *PLAIN, "--results-dir", tmp_path)
    errors = process.communicate(timeout=60)[1]
    lines = lines_of("train.py", errors)
    assert len(lines) == 1
    assert fault in lines[0]
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_processes_that_nobody_started_are_told_of(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MASTER_ADDR"}
    outcome = subprocess.run(
        [sys.executable, "train.py", *PLAIN, "--results-dir", str(tmp_path)],
        cwd=ROOT,
        env={**environment, "WORLD_SIZE": "2", "RANK": "0"},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 2
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1
    assert "cannot join the 2 processes of WORLD_SIZE" in lines[0]
    assert "unset WORLD_SIZE" in lines[0]


def test_a_batch_is_split_into_equal_parts() -> None:
    parts = [World(rank, 3).part(list(range(12))) for rank in range(3)]
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    World(0, 3).check_batch_size(12)
    for size in (3, 10, 13):
        with pytest.raises(UsageError, match="a multiple of that number, at least 6"):
            World(0, 3).check_batch_size(size)


def test_states_that_come_apart_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0, 2)
    monkeypatch.setattr(
        World, "all_reduce_max", lambda self, *numbers: [max(n, 7.0) for n in numbers]
    )
    with pytest.raises(Failed, match="no longer agree"):
        world.check_in_sync(torch.tensor([0.0, 3.0]))
