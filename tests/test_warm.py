"""Runs as forks of one process: each the same as one that `python train.py` makes."""

from __future__ import annotations

import csv
import json
import re
import signal
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
from test_command_line import CPU
from test_durability import wait_until

from augmentations import AUGMENTATIONS
from engine.flags import parse
from engine.scores import main as make_scores
from engine.status import read_status
from engine.sweep import warm
from engine.sweep.estimate import epochs_made
from engine.sweep.warm import WarmRun, WarmServer
from errors import UsageError
from methods import METHODS

#: The server's program, but that forks make runs one after another, as they do on a GPU.
REUSING = warm.PROGRAM.replace(
    "main(int", "import engine.sweep.worker as w; w.makes_more_than_one = lambda _: True; main(int"
)
#: The same, but that a run only says which packages its fork has from the start.
TELLING = warm.PROGRAM.replace(
    "main(int",
    "import engine.sweep.worker as w; w.make = lambda order: order.log.write_text("
    "' '.join({'timm', 'torchvision'} & {*sys.modules})) and 0; main(int",
)
SMALL = (
    "--model",
    "resnet10-w8",
    "--epochs",
    "2",
    "--budget",
    "0.2",
    "--batch-size",
    "32",
    *map(str, CPU),
)


class Sweep:
    """Starts runs as a sweep does, all with one thread."""

    def __init__(self, server: WarmServer):
        self.server = server

    def start(self, name: str, *words: object, threads: int = 1) -> WarmRun:
        line = [*map(str, words), "--experiment-name", name]
        settings = vars(parse(line)[0])
        folder = Path(settings["results_dir"]) / name
        folder.mkdir(parents=True, exist_ok=True)
        return self.server.start(line, settings, threads, folder / "log.txt")

    def make(self, name: str, *words: object) -> int:
        return self.start(name, *words).wait()


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sweep]:
    monkeypatch.chdir(tmp_path)
    with WarmServer() as server:
        yield Sweep(server)


def what_it_left(folder: Path) -> dict[str, object]:
    """All that two equal runs leave alike: everything but seconds, dates and process ids."""
    with open(folder / "curve.csv", newline="") as file:
        curve = [
            {name: value for name, value in row.items() if not name.endswith("_seconds")}
            for row in csv.DictReader(file)
        ]
    config = json.loads((folder / "config.json").read_text())
    for start in config["starts"]:
        del start["time"]
    config["method_summary"].pop("selection_seconds", None)
    names = {path.name for path in folder.iterdir()} - {"log.txt"}
    files = {name: (folder / name).read_bytes() for name in ("model.pt", "per_class.csv", "status")}
    return dict(curve=curve, config=config, names=names, **files)


def log_of(name: str) -> Path:
    return Path("results") / name / "log.txt"


def under_way(name: str) -> bool:
    return epochs_made(Path("results") / name) > 0


def without_seconds(lines: list[str]) -> list[str]:
    return [re.sub(r"; \d+ seconds of training, .*|, about .* left", "", line) for line in lines]


def lines_of(log: Path) -> list[str]:
    """What a run printed, without the line that says what was started."""
    return log.read_text().splitlines()[1:]


@pytest.mark.slow
def test_forks_make_the_runs_of_new_processes(sweep: Sweep, train_commands: Callable) -> None:
    """To the byte: every third method, every augmentation, one thread and two, bf16 and float32.

    That forks with all pairs of them have the curves recorded is tested in test_curves.py.
    """
    assert sweep.make("recorded", *SMALL, "--record", "el2n") == 0
    assert sweep.make("held-out", *SMALL, "--validation", "1000") == 0
    words = ["results/held-out", "--score", "irreducible-loss", "--out", "losses.npz"]
    assert make_scores(words) == 0
    options = {
        "coreset": ["--coreset-file", str(Path("results/recorded/scores.npz").resolve())],
        "rho-loss": ["--rho-file", str(Path("losses.npz").resolve())],
    }
    lines = {}
    methods = sorted({*list(METHODS)[::3], *options})
    for number, (method, augmentation) in enumerate(zip(methods, cycle(AUGMENTATIONS))):
        line = [*SMALL, "--method", method, "--augmentation", augmentation]
        line += ["--amp", ("bf16", "off")[number % 2], *options.get(method, ())]
        lines[method] = [*line, "--results-dir", str(Path("results").resolve())]
    assert len(methods) > len(AUGMENTATIONS)
    threads = {method: 1 + number % 2 for number, method in enumerate(methods)}
    forks = [sweep.start(method, *line, threads=threads[method]) for method, line in lines.items()]
    assert [fork.wait() for fork in forks] == [0] * len(forks)
    left = {}
    for method in lines:
        left[method] = what_it_left(Path("results") / method), lines_of(log_of(method))
        Path("results", method).rename(Path("results", f"{method}-fork"))
    words = [
        [*line, "--experiment-name", method, "--num-threads", threads[method]]
        for method, line in lines.items()
    ]
    for method, outcome in zip(lines, train_commands(words)):
        assert outcome.returncode == 0, outcome.stderr
        found, printed = left[method]
        assert found == what_it_left(Path("results") / method), method
        expected = (outcome.stderr + outcome.stdout).splitlines()
        assert without_seconds(printed) == without_seconds(expected), method


@pytest.mark.slow
def test_a_process_that_makes_many_runs_makes_the_same(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: what one run has done to its process does not show in the next one."""
    lines = {
        "a": ("--method", "dro", "--augmentation", "ricap", "--amp", "bf16"),
        "b": ("--method", "selective-backprop", "--augmentation", "randaugment", "--amp", "off"),
        "c": ("--method", "SGD", "--validation", "500", "--checkpoint-every", "3steps"),
    }
    for name, words in lines.items():
        assert sweep.make(name, *SMALL, *words) == 0
    monkeypatch.setattr(warm, "PROGRAM", REUSING)
    with WarmServer() as server:
        reusing = Sweep(server)
        for name, words in reversed(lines.items()):
            assert reusing.make(f"again-{name}", *SMALL, *words) == 0
    holders = {Path(f"results/again-{name}/run.lock").read_text().split()[1] for name in lines}
    assert len(holders) == 1  # one process made them all
    for name in lines:
        once, again = (what_it_left(Path("results") / each) for each in (name, f"again-{name}"))
        for config in (once["config"], again["config"]):
            del config["settings"]["experiment_name"], config["command"]
        assert once == again


def test_a_run_that_fails_or_is_killed_ends_alone(sweep: Sweep) -> None:
    forever = (*SMALL, "--epochs", "1000000", "--checkpoint-every", "1000000")
    other = sweep.start("other", *forever)
    killed = sweep.start("killed", *forever)
    wait_until(lambda: all(map(under_way, ("other", "killed"))))
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert sweep.make("diverged", *SMALL, "--lr", "1000") == 3
    assert lines_of(log_of("diverged"))[-1].startswith("train.py: the loss became NaN")
    assert other.poll() is None
    other.terminate()
    assert other.wait() == 143
    assert read_status(Path("results/other")) == "interrupted"
    assert sweep.make("killed", *SMALL, "--no-resume", "--overwrite") == 0


def test_runs_end_with_the_process_that_they_are_forks_of(sweep: Sweep) -> None:
    """They write a checkpoint; and the next run is made by another such process."""
    run = sweep.start("first", *SMALL, "--epochs", "1000000", "--checkpoint-every", "1000000")
    wait_until(lambda: under_way("first"))
    assert sweep.server.process is not None
    sweep.server.process.kill()
    assert run.wait() == -signal.SIGKILL
    wait_until(lambda: read_status(Path("results/first")) == "interrupted")
    wait_until(lambda: Path("results/first/checkpoint.pt").exists())
    assert sweep.make("second", *SMALL) == 0


def test_what_is_wrong_with_a_run_is_said_before_any_is_made(sweep: Sweep) -> None:
    with pytest.raises(UsageError, match="`batch_size` 5000: the training set has only"):
        sweep.server.check([vars(parse([*SMALL, "--batch-size", "5000"])[0])])
    sweep.server.check([vars(parse(SMALL)[0])])


def test_the_process_that_is_forked_has_one_thread(sweep: Sweep) -> None:
    """A fork of several threads may find locks that nobody opens."""
    sweep.server.check([vars(parse([*SMALL, "--seed", str(seed)])[0]) for seed in (1, 2)])
    words = ("--augmentation", "randaugment", "--model", "resnet10t")
    assert sweep.make("run", *SMALL, *words) == 0
    assert sweep.server.process is not None
    status = Path(f"/proc/{sweep.server.process.pid}/status")
    if not status.exists():
        pytest.skip("no /proc here to count threads by")
    assert "Threads:\t1\n" in status.read_text()


def test_forks_have_from_the_start_what_takes_long_to_import(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in a sweep, where a run needs it, and not in the training's seconds."""
    monkeypatch.setattr(warm, "PROGRAM", TELLING)
    for name, words, packages in (
        ("neither", (), set()),
        ("operations", ("--augmentation", "trivialaugment"), {"torchvision"}),
        ("network", ("--model", "resnet10t"), {"timm", "torchvision"}),
    ):
        assert sweep.make(name, *SMALL, *words) == 0
        assert set(log_of(name).read_text().split()) == packages
