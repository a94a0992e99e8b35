"""What a sweep finds out before its first run, in grid files and in runs that have finished."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import conftest
import numpy as np
import pytest
from conftest import Completed

import sweep
from engine.run_folder import COLUMNS
from engine.sweep.runs import Run, read_run
from engine.trackers.tensorboard import EVENTS
from methods.scores import ScoreFile

assert_refused = partial(conftest.assert_refused, absent="results")


@pytest.fixture
def sweep_here(main_here: Callable[..., Completed]) -> Callable[..., Completed]:
    """`sweep.py --isolate` in this process, which has PyTorch imported already."""
    return partial(main_here, sweep.main, "--isolate")


@pytest.mark.parametrize(
    "words, fragments",
    [
        ("--batch-size 9999", ["--batch-size 9999", "give at most"]),
        ("--budget 1 0.001", ["--budget 0.001", "the smallest budget"]),
        ("--model resnet10-w16 resnet9000", ["--model resnet9000", "did you mean"]),
        ("--device gpu", ["--device gpu", "give cpu"]),
        ("--sync-batchnorm", ["--sync-batchnorm", "CUDA"]),
        ("--dataset folder --data-dir nowhere", ["--data-dir nowhere"]),
        ("--method coreset --coreset-file no.npz", ["--coreset-file no.npz", "No such file"]),
        ("--validation 5000", ["--validation 5000", "hold out fewer"]),
        ("--num-classes 7", ["--num-classes 7", "10 classes"]),
        ("--augmentation cutout --cutout-size 9", ["--cutout-size 9", "8x8"]),
    ],
)
def test_runs_that_must_fail_are_not_started(words: str, fragments: list, sweep_here) -> None:
    outcome = sweep_here(*words.split(), "--seed", 1, 2)
    assert_refused(outcome, *fragments)


def test_a_set_of_data_is_read_once(sweep_here, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.sweep import checks

    loads = []

    def load(settings):
        loads.append(settings.validation)
        return load_dataset(settings)

    load_dataset = checks.load_dataset
    monkeypatch.setattr(checks, "load_dataset", load)
    grid = ("--method", "SGD", "dro", "p-SGD", "--lr", 0.1, 0.2, "--seed", *range(5))
    assert_refused(sweep_here(*grid, "--validation", 10, 20, "--budget", 1, 0.001), "0.001")
    assert loads == [10]
    assert_refused(sweep_here(*grid, "--validation", 10, 20, 5000), "5000")
    assert loads == [10, 10, 20, 5000]


def test_tensorboard_that_is_absent(sweep_here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    assert_refused(sweep_here("--seed", 1, "--tensorboard"), "requirements-tensorboard.txt")


# Grid files


@pytest.mark.parametrize(
    "content, fragments",
    [
        ("[grid]\n", ["without flags", "[grid]"]),
        ("[[grid]]\nseed = 1\n[[grid]]\n", ["without flags"]),
        ("[grid]\nseed = 'x'\n", ["--seed", "'x'"]),
        ("[grid]\nbudget = 0.001\n", ["--budget 0.001", "the smallest budget"]),
        ("[grid]\nmethod = false\n", ["--method", "false"]),
        ("[grid]\nlr = [0.1, true]\n", ["--lr", "true"]),
        ("[[grids]]\nseed = 1\n", ["a table grids; tables are called grid"]),
        (f"[grid]\nseed = {'1' * 5000}\n", ["digits"]),
        (f"[grid]\nseed = 0x{'1' * 5000}\n", ["--seed", "digits"]),
        (f"[grid]\nlr = {'[' * 2000}1{']' * 2000}\n", ["lists"]),
        (f"[grid]\nlr.{'a.' * 2000}b = 1\n", ["--lr", "a dict is not"]),
    ],
)
def test_errors_in_a_grid_file_name_it(content: str, fragments: list, sweep_here) -> None:
    Path("grid.toml").write_text(content)
    assert_refused(sweep_here("--grid", "grid.toml"), "--grid grid.toml: ", *fragments)


def test_errors_of_the_command_line_do_not_name_the_grid_file(sweep_here) -> None:
    Path("grid.toml").write_text("[grid]\nseed = 1\n")
    outcome = sweep_here("--grid", "grid.toml", "--seed", "x")
    assert_refused(outcome, "sweep.py: --seed")


# Finished runs that lack what is asked for


def finished(*words: str) -> Run:
    """A finished run of one evaluated epoch out of two."""
    run, _ = read_run(words)
    run.path.mkdir(parents=True)
    (run.path / "status").write_text("finished\n")
    config = {"settings": run.settings, "num_images": 1000, "total_steps": 20, "versions": {}}
    (run.path / "config.json").write_text(json.dumps(config))
    with open(run.path / "curve.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerow({"epoch": 1, "step": 10, "train_loss": 2.5})
        writer.writerow({"epoch": 2, "step": 20, "train_loss": 1.5, "test_accuracy": 50})
    return run


def test_finished_runs_get_their_tensorboard_files(sweep_here) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = finished("--epochs", "2")
    outcome = sweep_here("--epochs", 2, "--tensorboard")
    assert outcome.returncode == 0, outcome.stderr
    assert "curves of 1 finished runs" in outcome.stdout
    (path,) = run.path.glob(EVENTS)
    events = EventAccumulator(str(path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(10, 2.5), (20, 1.5)]
    assert [(e.step, e.value) for e in events.Scalars("test_accuracy")] == [(20, 50.0)]
    assert "TensorBoard" not in sweep_here("--epochs", 2, "--tensorboard").stdout
    assert list(run.path.glob(EVENTS)) == [path]


def test_finished_runs_without_scores_are_told(sweep_here) -> None:
    run = finished("--epochs", "2")
    record = ("--epochs", 2, "--record", "forgetting,el2n")
    assert "(without what --record asks for)" in sweep_here(*record, "--dry-run").stdout
    before = sorted(run.path.iterdir())
    outcome = sweep_here(*record)
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines() == [
        "1 of 1 runs failed:",
        f"{run.path}: finished earlier without what --record asks for; delete the folder to make "
        "it again",
    ]
    assert sorted(run.path.iterdir()) == before

    values = {name: np.zeros(1000, np.float32) for name in ("forgetting", "el2n")}
    source = {"settings": {"record_epochs": 10}}
    file = ScoreFile("digits", "0" * 64, values, [source])
    (run.path / "scores.npz").write_bytes(file.to_bytes())
    assert sweep_here(*record).returncode == 0
    assert sweep_here(*record, "--record-epochs", 3).returncode == 1
