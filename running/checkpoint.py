"""Checkpoints: written whole, checked when read, and never trusted to run code."""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch

from errors import UsageError

from .record import RunFolder

FORMAT = 3  # of the checkpoint's contents; another one is refused
MAGIC = b"budgeted-training checkpoint\n"
CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
AFRESH = "start afresh with --no-resume --overwrite"


def save(folder: RunFolder, settings: Mapping, state: Mapping) -> None:
    """Write a checkpoint; the one before it stays, as the previous one, until this is whole."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "settings": dict(settings), "state": dict(state)}, buffer)
    body = buffer.getbuffer()
    current = folder.path / CURRENT
    aside = f"{CURRENT}.whole"
    folder.write(aside, MAGIC + zlib.crc32(body).to_bytes(4, "big") + body)
    if current.exists():
        current.replace(folder.path / PREVIOUS)
    (folder.path / aside).replace(current)


def load(folder: RunFolder, settings: Mapping) -> tuple[dict | None, list[str]]:
    """The state to go on from, None if there is no checkpoint; and a note on each bad one.

    Raises:
        UsageError: when checkpoints exist but none is good, or they are of other settings.
    """
    faults = []
    for name in (CURRENT, f"{CURRENT}.whole", PREVIOUS):
        path = folder.path / name
        if not path.exists():
            continue
        try:
            content = read(path)
        except ValueError as error:
            faults.append(f"{path}: {error}")
            continue
        check_settings(path, content["settings"], settings)
        return content["state"], [f"{fault}; going on from {name}" for fault in faults]
    if faults:
        raise UsageError(f"{faults[0]}; {AFRESH}")
    return None, []


def read(path: Path) -> dict:
    """A checkpoint's content; a ValueError says in a few words what is wrong with the file."""
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise ValueError("not a checkpoint")
    start = len(MAGIC) + 4
    if zlib.crc32(content[start:]).to_bytes(4, "big") != content[len(MAGIC) : start]:
        raise ValueError("a truncated or damaged checkpoint")
    try:
        loaded = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("a checkpoint with code in it, which is not run") from None
    if not isinstance(loaded, dict):
        raise ValueError("not a checkpoint")
    if loaded.get("format") != FORMAT:
        raise ValueError(f"a checkpoint of format {loaded.get('format')}, where this is {FORMAT}")
    return loaded


def check_settings(path: Path, theirs: Mapping, ours: Mapping) -> None:
    """Refuse a checkpoint of another run, naming the settings that differ."""
    different = [
        f"{name} was {theirs.get(name)}, is {ours.get(name)}"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]
    if different:
        raise UsageError(
            f"{path}: of a run with other settings ({'; '.join(different)}); give those, choose "
            f"another --experiment-name, or {AFRESH}"
        )


def remove(folder: RunFolder) -> None:
    """Delete the checkpoints of a run that has ended."""
    for name in (CURRENT, f"{CURRENT}.whole", PREVIOUS):
        (folder.path / name).unlink(missing_ok=True)
