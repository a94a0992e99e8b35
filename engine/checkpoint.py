"""Checkpoints: written whole, checked when read, and never trusted to run code."""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from errors import UsageError

from .run_folder import CHECKPOINTS, RunFolder
from .status import settle

FORMAT = 4  # of the checkpoint's contents; another one is refused
MAGIC = b"budgeted-training checkpoint\n"
CURRENT, WHOLE, PREVIOUS = CHECKPOINTS
AFRESH = "start afresh with `resume=False` `overwrite`"


def save(folder: RunFolder, settings: Mapping, state: Mapping) -> None:
    """Write a checkpoint; the one before it stays, as the previous one, until this is whole."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "settings": dict(settings), "state": dict(state)}, buffer)
    body = buffer.getbuffer()
    current = folder.path / CURRENT
    folder.write(WHOLE, MAGIC + zlib.crc32(body).to_bytes(4, "big") + body)
    if current.exists():
        current.replace(folder.path / PREVIOUS)
    (folder.path / WHOLE).replace(current)
    settle(folder.path)


def load(
    folder: RunFolder, settings: Mapping, take: Callable[[dict], object]
) -> tuple[dict | None, list[str]]:
    """Return the state to resume from, None if there is none; and a note on each bad checkpoint.

    Args:
        folder: of the run.
        settings: what the run computes, which has to be what the checkpoint's run does.
        take: makes use of a state; an exception means that it is none of such a run.

    Raises:
        UsageError: when checkpoints exist but none is good, or they are of other settings.
    """
    faults = []
    for name in CHECKPOINTS:
        path = folder.path / name
        if not path.exists():
            continue
        try:
            content = read(path)
        except ValueError as error:
            faults.append(f"{path}: {error}")
            continue
        refuse_other_settings(path, content["settings"], settings)
        try:
            take(content["state"])
        except Exception as error:  # wrong content leads to errors of many kinds
            reason = " ".join(str(error).split()) or type(error).__name__
            faults.append(f"{path}: not a checkpoint of such a run ({reason[:100]})")
            continue
        return content["state"], [f"{fault}; resuming from {name}" for fault in faults]
    if faults:
        raise UsageError(f"{faults[0]}; {AFRESH}")
    return None, []


def read(path: Path) -> dict:
    """Return a checkpoint's content; a ValueError says in a few words what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if not content.startswith(MAGIC):
        raise ValueError("not a checkpoint")
    start = len(MAGIC) + 4
    if zlib.crc32(content[start:]).to_bytes(4, "big") != content[len(MAGIC) : start]:
        raise ValueError("a truncated or damaged checkpoint")
    try:
        loaded = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("a checkpoint with code in it, which is not run") from None
    except Exception:  # a body that is no file of torch's leads to errors of many kinds
        raise ValueError("not a checkpoint") from None
    if not isinstance(loaded, dict):
        raise ValueError("not a checkpoint")
    if loaded.get("format") != FORMAT:
        found = str(loaded.get("format"))[:20]
        raise ValueError(f"a checkpoint of format {found}, where this is {FORMAT}")
    if not all(isinstance(loaded.get(part), dict) for part in ("settings", "state")):
        raise ValueError("not a checkpoint")
    return loaded


def check_like(theirs: object, ours: object, name: str = "state") -> None:
    """Refuse, by a ValueError, a state that is not built as one of a run at its start.

    What is empty or None there may have been filled since: an optimizer's state, a queue.
    """
    if ours is None:
        return
    if isinstance(ours, Tensor):
        same = isinstance(theirs, Tensor) and theirs.dtype == ours.dtype and fits(theirs, ours)
        if not same:
            raise ValueError(f"{name} is no {ours.dtype} tensor of shape {tuple(ours.shape)}")
    elif isinstance(ours, Mapping):
        if not isinstance(theirs, Mapping) or not theirs.keys() >= ours.keys():
            raise ValueError(f"{name} lacks parts")
        for key in ours:
            check_like(theirs[key], ours[key], f"{name}.{key}")
    elif type(theirs) is not type(ours):
        raise ValueError(f"{name} is no {type(ours).__name__}")


def fits(theirs: Tensor, ours: Tensor) -> bool:
    """Return whether shapes agree, of an empty tensor only the number of dimensions."""
    return theirs.ndim == ours.ndim and (not ours.numel() or theirs.shape == ours.shape)


def refuse_other_settings(path: Path, theirs: Mapping, ours: Mapping) -> None:
    """Refuse a checkpoint of another run, naming the settings that differ."""
    different = [
        f"{name} was {theirs.get(name)}, is {ours.get(name)}"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]
    if different:
        raise UsageError(
            f"{path}: of a run with other settings ({'; '.join(different)}); give those, choose "
            f"another `experiment_name`, or {AFRESH}"
        )


def remove(folder: RunFolder) -> None:
    """Delete the checkpoints of a run that has ended."""
    for name in CHECKPOINTS:
        (folder.path / name).unlink(missing_ok=True)
