"""Trackers of train.py --log, held against the real packages, offline."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Completed

from engine.log import RunLog
from engine.run_folder import COLUMNS
from engine.trackers import PACKAGES

SHORT = ("--epochs", 3, "--budget", 0.2, "--batch-size", 32, "--device", "cpu")
FOLDER = Path("results", "digits_SGD_standard_b0.2_s1")


def read_scalars(folder: Path) -> pd.DataFrame:
    """Every scalar of every event file, by step; a step that comes twice has two rows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = events.Tags()["scalars"]
    table = {name: [event.value for event in events.Scalars(name)] for name in names}
    return pd.DataFrame(table | {"step": [event.step for event in events.Scalars(names[0])]})


def assert_same_numbers(folder: Path) -> None:
    curve = pd.read_csv(folder / "curve.csv")
    scalars = read_scalars(folder)
    assert set(scalars) == set(COLUMNS)
    np.testing.assert_allclose(scalars[curve.columns], curve, rtol=1e-6)


def stop_after_two(log: RunLog, row: dict) -> None:
    if row["epoch"] == 2:
        raise KeyboardInterrupt  # its row is written, its checkpoint is not


@pytest.mark.parametrize("flag", [["--tensorboard"], ["--log", "tensorboard"]])
@pytest.mark.parametrize("from_the_start, seen", [(True, [1, 2]), (False, None)])
def test_scalars_are_the_curve_also_after_a_run_went_on(
    train_here: Callable[..., Completed],
    monkeypatch: pytest.MonkeyPatch,
    flag: list[str],
    from_the_start: bool,
    seen: list[int] | None,
):
    """It goes on whether or not the first part had the flag, as no part of the run's identity."""
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "report", stop_after_two)
        assert train_here(*flag * from_the_start, *SHORT).returncode == 130
    if seen:
        assert read_scalars(FOLDER)["epoch"].tolist() == seen
    else:
        assert not list(FOLDER.glob("events*"))
    outcome = train_here(*flag, *SHORT)
    assert outcome.returncode == 0
    assert "resuming after step" in outcome.stderr
    assert_same_numbers(FOLDER)


def test_wandb_has_the_curve(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome = train_here("--log", "wandb", *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    assert "left out" not in outcome.stderr
    (file,) = FOLDER.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for name in set(COLUMNS) - {"step"}:
        assert name.encode() in content
    curve = pd.read_csv(FOLDER / "curve.csv")
    for accuracy in curve["test_accuracy"]:
        assert repr(accuracy).encode() in content
    first = (FOLDER / "wandb-run").read_text()
    assert first.strip().encode() in content
    assert train_here("--log", "wandb", *SHORT, "--overwrite").returncode == 0
    assert (FOLDER / "wandb-run").read_text() != first, "another run, which begins anew there"


def test_mlflow_has_the_curve_once_also_after_a_run_went_on(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    place = f"file://{tmp_path}/mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "report", stop_after_two)
        assert train_here("--log", "mlflow", *SHORT).returncode == 130
    client = MlflowClient(place)
    (run,) = client.search_runs([client.get_experiment_by_name("budgetbench").experiment_id])
    assert run.info.status == "KILLED"
    (FOLDER / "checkpoint.pt").unlink()  # so that rows which are shown already are made again
    outcome = train_here("--log", "mlflow", *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    assert "left out" not in outcome.stderr
    experiment = client.get_experiment_by_name("budgetbench")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "32"
    curve = pd.read_csv(FOLDER / "curve.csv")
    history = client.get_metric_history(run.info.run_id, "cost")
    found = [(metric.step, metric.value) for metric in history]
    assert sorted(found) == list(zip(curve["step"], curve["cost"]))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_tracker_that_fails_does_not_end_the_run(
    name: str, train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its first row, or at its start: one line, and the run is finished."""
    import importlib

    pytest.importorskip(PACKAGES[name][0])
    module = importlib.import_module(f"engine.trackers.{name}")

    class Broken:
        def restart(self, rows):
            pass

        def add(self, row):
            raise OSError("no room\nleft")

    monkeypatch.setattr(module, "open", lambda folder, settings: Broken())
    outcome = train_here("--log", name, *SHORT)
    assert outcome.returncode == 0
    lines = [line for line in outcome.stderr.splitlines() if name in line]
    assert lines == [
        f"note: {name} failed and is left out from here on (no room left); the run goes on"
    ]
    assert len(pd.read_csv(FOLDER / "curve.csv")) == 3

    def fail(folder, settings):
        raise RuntimeError("no server")

    monkeypatch.setattr(module, "open", fail)
    outcome = train_here("--log", name, *SHORT, "--overwrite")
    assert outcome.returncode == 0
    assert "(no server)" in outcome.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_a_tracker_that_is_not_installed_is_refused_at_once(
    name: str, train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, source = PACKAGES[name]
    monkeypatch.setitem(sys.modules, package, None)
    outcome = train_here("--log", name, *SHORT)
    assert outcome.returncode == 2
    assert outcome.stderr == f"train.py: --log {name}: not installed; pip install {source}\n"
    assert not FOLDER.exists()
