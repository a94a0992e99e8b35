"""Settings in TOML: read for a command line, and written into the folder of every run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from errors import UsageError

from .config import SETTINGS, RunConfig, default_name, kind_of
from .published import canonical

NOT_WRITTEN = ("overwrite", "resume")  # which would repeat what was done once
HEADER = "# Repeats this run: python train.py --config THIS_FILE\n"


def words_of_file(path: Path) -> list[str]:
    """Return the words of a command line that give the settings of a TOML file.

    Raises:
        UsageError: naming the file, and the line or the setting that is wrong.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}; give a TOML file") from None
    except ValueError as error:  # TOMLDecodeError or UnicodeDecodeError
        raise UsageError(f"--config {path}: not TOML: {error}; fix that") from None
    if "grid" in content:
        raise UsageError(f"--config {path}: a grid of runs; python sweep.py --grid {path}")
    try:
        return [word for key, value in content.items() for word in words_of_setting(key, value)]
    except ValueError as error:
        raise UsageError(f"--config {path}: {error}") from None


def words_of_setting(key: str, value: object) -> list[str]:
    """Return the words that give one setting; a ValueError for a value of no use."""
    flag = canonical(f"--{key}")
    setting = SETTINGS.get(flag[2:].replace("-", "_"))
    if isinstance(value, bool):
        if setting is not None and setting.default is True:  # as --no-resume
            return [] if value else [f"--no-{key}"]
        return [flag] if value else []
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int | float) for part in parts):
        raise ValueError(f"{key}: {type(value).__name__} is not a text, a number or a list of them")
    if isinstance(value, list) and not (setting is not None and setting.metadata.get("several")):
        return [flag, ",".join(map(str, parts))]
    return [flag, *map(str, parts)]


def toml_of(settings: RunConfig) -> str:
    """Return the settings that are not as by default, as a TOML file."""
    plain = RunConfig(
        method=settings.method, augmentation=settings.augmentation, dataset=settings.dataset
    ).resolved()[0]
    lines, defaults = [HEADER], dict(each_setting(plain))
    for name, value in each_setting(settings):
        default = defaults.get(name)
        if name == "experiment_name":
            default = default_name(settings)
        always = name in ("method", "augmentation", "dataset")
        if (always or value != default) and value is not None and name not in NOT_WRITTEN:
            lines.append(f"{name.replace('_', '-')} = {literal(value)}\n")
    return "".join(lines)


def each_setting(settings: RunConfig) -> Iterator[tuple[str, Any]]:
    """Names and values, those of options among them."""
    for name, value in vars(settings).items():
        if isinstance(value, Mapping):
            yield from value.items()
        elif kind_of(name) is not list or value:
            yield name, value


def literal(value: object) -> str:
    """A value as TOML has it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    # JSON's texts, numbers, true and false are TOML's too, but for the code of a deletion.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
