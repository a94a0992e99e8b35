"""Checkpoints that are damaged, foreign or hostile."""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine import checkpoint
from engine.cadence import Cadence
from engine.run_folder import RunFolder
from errors import UsageError

SETTINGS = {"lr": 0.1, "method": "SGD"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """A run's folder with two checkpoints: of step 1 (previous) and step 2 (current)."""
    with RunFolder(tmp_path, "run") as folder:
        for step in (1, 2):
            checkpoint.save(folder, SETTINGS, {"step": step, "weights": torch.ones(100)})
        yield folder


def wrap(body: bytes) -> bytes:
    return checkpoint.MAGIC + zlib.crc32(body).to_bytes(4, "big") + body


def torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return wrap(buffer.getvalue())


class Hostile:
    """Its pickle runs code when it is loaded without care."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the code in the checkpoint was run')",)


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


FAULTS = {
    "empty": (lambda content: b"", "not a checkpoint"),
    "garbage": (lambda content: b"\x00garbage" * 1000, "not a checkpoint"),
    "truncated": (truncate, "truncated or damaged"),
    "one bit": (flip_a_bit, "truncated or damaged"),
    "code": (lambda content: wrap(pickle.dumps(Hostile(), protocol=2)), "code in it"),
    "code in torch's format": (lambda content: torch_file({"format": 1, "x": Hostile()}), "code"),
    "other format": (lambda content: torch_file({"format": 99}), "format 99"),
    "no dictionary": (lambda content: torch_file([1, 2]), "not a checkpoint"),
}


def test_the_newest_is_loaded(folder: RunFolder) -> None:
    state, notes = checkpoint.load(folder, SETTINGS, dict)
    assert state["step"] == 2
    assert notes == []


@pytest.mark.parametrize("fault", FAULTS)
def test_the_previous_one_stands_in_for_a_bad_one(fault: str, folder: RunFolder) -> None:
    damage, words = FAULTS[fault]
    path = folder.path / checkpoint.CURRENT
    path.write_bytes(damage(path.read_bytes()))
    state, notes = checkpoint.load(folder, SETTINGS, dict)
    assert state["step"] == 1
    assert len(notes) == 1
    assert words in notes[0]
    assert str(path) in notes[0]
    assert f"resuming from {checkpoint.PREVIOUS}" in notes[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_none_good_is_one_clear_line(fault: str, folder: RunFolder) -> None:
    damage, words = FAULTS[fault]
    for name in (checkpoint.CURRENT, checkpoint.PREVIOUS):
        path = folder.path / name
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match="`resume=False` `overwrite`") as caught:
        checkpoint.load(folder, SETTINGS, dict)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_settings_are_named(folder: RunFolder) -> None:
    with pytest.raises(UsageError, match=r"lr was 0\.1, is 0\.2") as caught:
        checkpoint.load(folder, SETTINGS | {"lr": 0.2}, dict)
    assert "method" not in str(caught.value)


def test_a_crash_between_the_renames_loses_nothing(folder: RunFolder) -> None:
    current = folder.path / checkpoint.CURRENT
    current.rename(folder.path / f"{checkpoint.CURRENT}.whole")
    state, _ = checkpoint.load(folder, SETTINGS, dict)
    assert state["step"] == 2


def test_no_checkpoint_is_a_start(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "new") as folder:
        assert checkpoint.load(folder, SETTINGS, dict) == (None, [])


@pytest.mark.parametrize(
    "text, due",
    [("1", [4, 8]), ("2", [8]), ("2epochs", [8]), ("3steps", [3, 6, 9]), ("1 step", range(1, 10))],
)
def test_a_cadence_in_epochs_of_four_steps_and_in_steps(text: str, due: list[int]) -> None:
    cadence = Cadence(text)
    steps = range(1, 10)
    assert [step for step in steps if cadence.due(step, (step - 1) // 4, step // 4)] == list(due)


def test_a_cadence_in_epochs_of_which_some_are_skipped() -> None:
    """Under a budget of compute a step may end several: due is the first one at or past a third."""
    complete = [0, 2, 4, 5, 8, 10, 15]
    cadence = Cadence("3")
    due = [
        now
        for now, before in zip(complete[1:], complete)
        if cadence.due(step=1, before=before, now=now)
    ]
    assert due == [4, 8, 10, 15]


def test_a_cadence_in_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    cadence = Cadence("2minutes")
    due = []
    for minute in range(8):
        now = 1000.0 + 60 * minute
        due.append(cadence.due(minute, 0, 1))
    assert due == [False, False, True, False, True, False, True, False]


@pytest.mark.parametrize("text", ["0", "-1", "often", "1.5", "3 weeks", ""])
def test_no_cadence(text: str) -> None:
    with pytest.raises(Exception, match="is not a number of epochs"):
        Cadence(text)
