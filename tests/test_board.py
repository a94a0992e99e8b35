"""--tensorboard, read back from the files that it writes."""

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

pytest.importorskip("tensorboard")
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


@pytest.mark.parametrize("flags, seen", [(["--tensorboard"], [1, 2]), ([], None)])
def test_scalars_are_the_curve_also_after_a_run_went_on(
    train_here: Callable[..., Completed],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    seen: list[int] | None,
):
    """It goes on whether or not the first part had the flag, as no part of the run's identity."""

    def stop_after_two(log: RunLog, row: dict) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt  # its row is written, its checkpoint is not

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "report", stop_after_two)
        assert train_here(*flags, *SHORT).returncode == 130
    if seen:
        assert read_scalars(FOLDER)["epoch"].tolist() == seen
    else:
        assert not list(FOLDER.glob("events*"))
    outcome = train_here("--tensorboard", *SHORT)
    assert outcome.returncode == 0
    assert "resuming after step" in outcome.stderr
    assert_same_numbers(FOLDER)


def test_without_tensorboard_the_flag_is_refused_at_once(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    outcome = train_here("--tensorboard", *SHORT)
    assert outcome.returncode == 2
    assert outcome.stderr == (
        "train.py: --tensorboard: TensorBoard is not installed; pip install -r "
        "requirements-tensorboard.txt, or leave it out\n"
    )
    assert not FOLDER.exists()
