"""Settings in TOML: read for a command line, and written into the folder of every run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import UsageError

from .config import SETTINGS, RunConfig, default_name, kind_of
from .flags import build_parser, note_own_parts, off
from .published import canonical

NOT_WRITTEN = ("overwrite", "resume")  # which would repeat what was done once
HEADER = "# Repeats this run: python train.py --config THIS_FILE\n"


def words_of_file(path: Path, left_out: Collection[str] = ()) -> list[str]:
    """Return the words of a command line that give the settings of a TOML file.

    Args:
        path: of the file.
        left_out: flags whose settings are not taken from it.

    Raises:
        UsageError: naming the file, and the line or the setting that is wrong.
    """
    content = read_toml("--config", path)
    if "grid" in content:
        raise UsageError(f"--config {path}: a grid of runs; python sweep.py --grid {path}")
    try:
        kept = {key: value for key, value in content.items() if flag_of_key(key) not in left_out}
        named = {key: value for key, value in kept.items() if isinstance(value, str)}
        note_own_parts([word for key, value in named.items() for word in (f"--{key}", value)])
        return [word for key, value in kept.items() for word in words_of_setting(key, value)]
    except UsageError as error:
        raise UsageError(f"--config {path}: {error}") from None


def words_of_setting(key: str, value: object) -> Sequence[str]:
    """Return the words that give one setting; a UsageError for a value of no use."""
    flag = flag_of_key(key)
    setting = SETTINGS.get(flag[2:].replace("-", "_"))
    if isinstance(value, list) and not (setting is not None and setting.metadata.get("several")):
        value = ",".join(words_of_value(flag, value)[1:])
    return words_of_value(flag, value)


def read_toml(flag: str, path: Path) -> dict[str, Any]:
    """Return a TOML file's content; a UsageError names the flag that gives it."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{flag} {path}: {error.strerror}; give a TOML file") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, or too many digits
        raise UsageError(f"{flag} {path}: not TOML: {error}; fix that") from None
    except RecursionError:
        raise UsageError(f"{flag} {path}: lists within too many lists; give at most two") from None


def words_of_value(flag: str, value: object) -> tuple[str, ...]:
    """Return the words of a command line that give a value of a TOML file."""
    if isinstance(value, bool):
        if flag in flags_with_values():
            text = str(value).lower()
            raise UsageError(f"{flag}: {text} is not a value of it; give one, or leave it out")
        known = build_parser().known_flags()
        if flag not in known and off(flag) in known:  # on by default, as --no-resume
            return () if value else (off(flag),)
        return (flag,) if value else ()
    parts = value if isinstance(value, list) else [value]
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int | float):
            kind = type(part).__name__
            raise UsageError(f"{flag}: a {kind} is not a text, a number or a list of them")
    try:
        return (flag, *map(str, parts))
    except ValueError:  # Python writes no number of more than 4,300 digits
        raise UsageError(f"{flag}: a number of too many digits; give a smaller one") from None


def flag_of_key(key: str) -> str:
    """Return the flag of a name in a TOML file."""
    return canonical(f"--{key}")


def flags_with_values() -> frozenset[str]:
    """The flags of train.py that cannot do without one."""
    actions = build_parser()._actions
    return frozenset(
        flag for action in actions if action.nargs in (None, "+") for flag in action.option_strings
    )


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
        if name == "schedule" and value == "step" and not settings.milestones:
            name = "scheduler_type"  # the published flag: without milestones there are none
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
