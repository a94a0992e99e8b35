"""The config.json of a run, read again and checked: the only place that reads it.

Types and bounds of the settings are those of the command line, which declares each of them once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from errors import UsageError

from .config import (
    REGISTRIES,
    SETTINGS,
    RunConfig,
    as_converted,
    check_options,
    check_setting,
)
from .options import Option
from .status import find_file
from .values import Convert, number, one_of, quoted

#: Settings that every version wrote. Of the others an older version may have had none.
ALWAYS = {"dataset", "model", "method", "augmentation", "budget", "epochs", "seed"}
ALWAYS |= {"method_options", "augmentation_options"}
#: Options of methods and augmentations: former name -> today's, and their values likewise.
RENAMED = {"warmup_epochs": "uniform_epochs", "coreset_keep": "coreset_select"}
RENAMED_VALUES = {"coreset_keep": {"highest": "top", "lowest": "bottom"}}
REALISED = ("realised_fraction", "share_of_images_kept")  # of method_summary: today's name, former


class BadRun(UsageError):
    """A run whose files cannot be used; the message is one line that names file and fault."""


@dataclass(frozen=True)
class Config:
    """Content of a run's config.json.

    What the run's version did not write yet is filled in as that version did it.
    """

    settings: dict[str, Any]  # all of train.py's, of the types that JSON has
    num_images: int  # trained on
    versions: dict[str, str | None]  # of the code and of the packages
    device: str  # its kind, cpu or cuda
    precision: str  # as resolved: float32, bfloat16 or float16
    processes: int
    threads: int | None  # of the CPU; None where the run's version did not write it
    realised_fraction: float | None  # of images kept or steps scored, where the method counts it
    scoring_cost: float | None  # of the runs behind a score file, in forward passes of one image
    scoring_seconds: float | None  # of the same; None where none is known
    selection_seconds: float | None  # that choosing a core-set took
    tuned: bool  # whether sweep.py `tune` chose the settings
    data_sha256: str | None  # of the decoded images and labels, where the run's version wrote it
    files_sha256: dict[str, str]  # of the files that options name: option -> digest
    own_parts: dict[str, dict[str, Any]]  # of a user's own, in place of registered ones: by setting


def read_config(folder: Path) -> Config:
    """Read and check a run's config.json.

    Raises:
        BadRun: naming the file, the key and what is wrong with it.
    """
    path = find_file(folder, "config.json")
    return check_content(read_content(path), path)


def read_content(path: Path) -> object:
    """Read a config.json without checking what it says; BadRun as `read_config`."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except OSError as error:
        raise BadRun(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BadRun(f"{path}: not what train.py writes: {plain(error)}") from None
    except RecursionError:
        raise BadRun(f"{path}: not what train.py writes: nested too deeply") from None


def check_content(content: object, where: Path | str) -> Config:
    """Check what a config.json says; BadRun names `where` it is read."""
    try:
        return check(content)
    except ValueError as error:
        raise BadRun(f"{where}: not what train.py writes: {plain(error)}") from None


def plain(error: Exception) -> str:
    """Return an error's text with names of settings as config.json has them."""
    return str(error).replace("`", "")


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def check(content: object) -> Config:
    """A config.json's content, checked; a ValueError names the key and what is wrong."""
    config = table(content, "the whole")
    summary = table(config.get("method_summary", {}), "method_summary")
    realised = next((summary[name] for name in REALISED if name in summary), None)
    versions = table(given(config, "versions"), "versions")
    for name, version in versions.items():
        if not isinstance(version, str | None):
            raise ValueError(f"versions: {name}: {quoted(version)} is not a text")
    tuned = config.get("tuned", False)
    if not isinstance(tuned, bool):
        raise ValueError(f"tuned: {quoted(tuned)} is not true or false")
    files = table(config.get("files_sha256", {}), "files_sha256")
    parts = table(config.get("own_parts", {}), "own_parts")
    device = as_given("device", str, config.get("device", "cpu"))
    fraction, cost = number(float, low=0, high=1), number(float, low=0)
    return Config(
        settings=check_settings(table(given(config, "settings"), "settings")),
        num_images=as_given("num_images", number(int, low=1), given(config, "num_images")),
        versions=versions,
        device=as_given("device", one_of(["cpu", "cuda"]), device.partition(" ")[0].split(":")[0]),
        precision=as_given(
            "precision",
            one_of(["float32", "bfloat16", "float16"]),
            config.get("precision", "float32"),
        ),
        processes=as_given("processes", number(int, low=1), config.get("processes", 1)),
        threads=as_given("threads", number(int, low=1), config.get("threads"), True),
        realised_fraction=as_given(f"method_summary: {REALISED[0]}", fraction, realised, True),
        scoring_cost=as_given("scoring_cost", cost, config.get("scoring_cost"), True),
        scoring_seconds=as_given("scoring_seconds", cost, config.get("scoring_seconds"), True),
        selection_seconds=as_given(
            "method_summary: selection_seconds", cost, summary.get("selection_seconds"), True
        ),
        tuned=tuned,
        data_sha256=as_given("data_sha256", digest, config.get("data_sha256"), True),
        files_sha256={
            name: as_given(f"files_sha256: {name}", digest, value) for name, value in files.items()
        },
        own_parts={axis: read_part(axis, part) for axis, part in parts.items()},
    )


def check_settings(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a run: those written, checked, and the others as by default."""
    for name in sorted(ALWAYS - written.keys()):
        given(written, name)
    defaults = vars(RunConfig().resolved()[0])
    settings = defaults | dict(written)
    for name, value in settings.items():
        if value is None and defaults.get(name) is not None:
            raise ValueError(f"{name}: None is of the wrong type")
        if name in SETTINGS:
            settings[name] = check_setting(name, value)
    for axis, registry in REGISTRIES.items():
        key, name = f"{axis}_options", settings[axis]
        if name not in registry.facts():  # of a user's own: the file may have gone
            settings[key] = dict(table(settings[key], key))
            continue
        settings[key] = read_options(key, name, registry[name], table(settings[key], key))
    return settings


def read_part(axis: str, written: object) -> dict[str, Any]:
    """Return what a config.json says of a part of a user's own, checked."""
    part, name = table(written, f"own_parts: {axis}"), f"own_parts: {axis}: sha256"
    return {
        "sha256": as_given(name, digest, given(part, "sha256")),
        "defaults": table(part.get("defaults", {}), f"own_parts: {axis}: defaults"),
    }


def read_options(
    key: str, chosen: str, declared: Mapping[str, Option], written: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of a method or augmentation, likewise."""
    former = {old: new for old, new in RENAMED.items() if new in declared and old not in declared}
    options = {}
    for name, value in written.items():
        if name in former:
            name, value = former[name], RENAMED_VALUES.get(name, {}).get(str(value), value)
        options[name] = value
    return check_options(key, chosen, declared, options, absent="before")


def table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: {quoted(value)} is not a table of names and values")
    return value


def digest(text: str) -> str:
    """A converter: a SHA-256 in hexadecimal."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"{quoted(text)} is not a SHA-256")
    return text


def given(content: Mapping[str, Any], name: str) -> Any:
    if name not in content:
        raise ValueError(f"{name} is missing")
    return content[name]


def as_given(name: str, convert: Convert, value: object, optional: bool = False) -> Any:
    """Return a value, checked by its converter; None where that is optional."""
    return None if value is None and optional else as_converted(name, convert, value)
