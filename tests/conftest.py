"""What all tests share: no network, and two ways of starting train.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from forks import Fork

from engine.flags import main as train_main
from engine.scores import main as make_scores

# Before PyTorch is imported. Its threads wait for each other busily, which takes ten times as long
# where two processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
NOBODY_LISTENS = "http://127.0.0.1:9"
Completed = subprocess.CompletedProcess


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Downloads fail at once, here and in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, NOBODY_LISTENS)
        for name in ("no_proxy", "NO_PROXY"):
            patch.delenv(name, raising=False)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    import torch

    if torch.cuda.is_available():  # which also settles what this process sees of them
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def without_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other tests are of the CPU, here and in the processes that they start, on any machine."""
    import torch

    if not request.node.get_closest_marker("cuda"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For small tensors: threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_refused(outcome: Completed, *fragments: str, absent: str | None = None) -> None:
    """Exit status 2 and one line that contains all of the fragments, and no file or folder made."""
    assert outcome.returncode == 2, outcome
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    program, _, _ = line.partition(": ")
    assert program in (
        "train.py",
        "sweep.py",
        "python -m engine.scores",
        "python -m engine.scores export",
    )
    for fragment in fragments:
        assert fragment in line
    assert absent is None or not Path(absent).exists()


def run_fork(*arguments: object, seconds: float = 120) -> Completed:
    """`python train.py ARGUMENTS` in a fork, see forks.py, from the repository's root."""
    fork = Fork(list(map(str, arguments)), ROOT)
    out, err = fork.communicate(seconds)
    return Completed(fork.words, fork.wait(), out, err)


def run_command(*arguments: object, seconds: float = 120) -> Completed:
    """`python train.py ARGUMENTS` in a process of its own, from the repository's root."""
    return subprocess.run(
        [sys.executable, "train.py", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@pytest.fixture(scope="session")
def train_command(no_network: None) -> Callable[..., Completed]:
    return run_command


@pytest.fixture(scope="session")
def train_commands(no_network: None) -> Callable[[Sequence[Sequence[object]]], list[Completed]]:
    """Several commands, each in a process of its own, two at a time."""

    def run_all(commands: Sequence[Sequence[object]]) -> list[Completed]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda arguments: run_command(*arguments), commands))

    return run_all


@pytest.fixture(scope="session")
def train_forks(no_network: None) -> Callable[[Sequence[Sequence[object]]], list[Completed]]:
    """Several commands, each in a fork, one after the other."""
    return lambda commands: [run_fork(*arguments) for arguments in commands]


@pytest.fixture
def main_here(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Completed]]:
    """A program's `main` in this process, which saves the imports; from an empty folder."""
    monkeypatch.chdir(tmp_path)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def run(main: Callable[[list[str]], int], *arguments: object) -> Completed:
        words = list(map(str, arguments))
        capsys.readouterr()
        status = main(words)
        return Completed(words, status, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def train_here(main_here: Callable[..., Completed]) -> Callable[..., Completed]:
    return partial(main_here, train_main)


@pytest.fixture
def scores_here(main_here: Callable[..., Completed]) -> Callable[..., Completed]:
    """`python -m engine.scores` in this process."""
    return partial(main_here, make_scores)


@pytest.fixture
def make_run(train_here: Callable[..., Completed]) -> Callable[..., Path]:
    """Make a run of digits by that name; its folder."""

    def make(name: str, *words: object) -> Path:
        outcome = train_here("--experiment-name", name, *words)
        assert outcome.returncode == 0, outcome.stderr
        return Path("results") / name

    return make
