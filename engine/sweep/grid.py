"""Grids: flags of train.py with their values, and the command lines that they stand for."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from errors import UsageError

from .. import own
from ..config import REGISTRIES
from ..flags import build_parser, flag_of, note_own_parts, unknown_flag
from ..published import canonical
from . import options

Words = tuple[str, ...]  # a part of a command line of train.py
Grid = dict[str, list[Words]]  # flag -> for each of its values, the words that give it

NOT_FOR_SWEEPS = {
    "--config": "a sweep has grids; give --grid FILE",
    "--list": "give it to train.py",
    "--overwrite": "a sweep keeps finished runs; delete the folders of those to make again",
    "--no-resume": "a sweep resumes unfinished runs; delete the folders of those to restart",
}


def grid_of_words(flags: Mapping[str, Sequence[str]]) -> Grid:
    """The grid that a command line gives: flag -> the words that followed it."""
    for flag, values in flags.items():
        note_own_parts([word for value in values for word in (flag, value)])
    several = {
        flag
        for action in build_parser()._actions
        if action.nargs == "+"
        for flag in action.option_strings
    }
    return {
        flag: [(flag, *(value.split() if flag in several else [value])) for value in values]
        or [(flag,)]
        for flag, values in flags.items()
    }


def read_grids(path: Path) -> list[Grid]:
    """The grids of a TOML file.

    Raises:
        UsageError: naming the file, and the line, table or flag that is wrong.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--grid {path}: {error.strerror}; give a TOML file") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, or too many digits
        raise UsageError(f"--grid {path}: not TOML: {error}; fix that") from None
    except RecursionError:
        raise UsageError(f"--grid {path}: lists within too many lists; give at most two") from None
    strange = [name for name in content if name != "grid"]
    if strange:
        raise UsageError(f"--grid {path}: {strange[0]} is not in a table; put it below [grid]")
    tables = content.get("grid", [])
    tables = tables if isinstance(tables, list) else [tables]
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"--grid {path}: no table of flags; start one with [grid]")
    if not all(tables):
        raise UsageError(f"--grid {path}: a table without flags; give some below [grid]")
    try:
        return [grid_of_table(table) for table in tables]
    except UsageError as error:
        raise UsageError(f"--grid {path}: {error}") from None


def grid_of_table(table: Mapping[str, object]) -> Grid:
    grid: Grid = {}
    for key, value in table.items():
        values = value if isinstance(value, list) else [value]
        names = [each for each in values if isinstance(each, str)]
        note_own_parts([word for name in names for word in (f"--{key}", name)])
    for key, value in table.items():
        flag = canonical(f"--{key}")
        if flag in grid:
            raise UsageError(f"{flag}: given twice in one table; give it once")
        values = value if isinstance(value, list) else [value]
        if not values:
            raise UsageError(f"{flag}: no values; give one, or leave the flag out")
        grid[flag] = [words_of_value(flag, each) for each in values]
    return grid


def words_of_value(flag: str, value: object) -> Words:
    """Return the words of a command line that give a value of a TOML file."""
    if isinstance(value, bool):
        if flag in flags_with_values():
            text = str(value).lower()
            raise UsageError(f"{flag}: {text} is not a value of it; give one, or leave it out")
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


def flags_with_values() -> frozenset[str]:
    """The flags of train.py that cannot do without one."""
    actions = build_parser()._actions
    return frozenset(
        flag
        for action in actions
        if action.nargs is None or action.nargs == "+"
        for flag in action.option_strings
    )


def expand(grids: Iterable[Grid]) -> list[Words]:
    """The command line of every run, in order; the last flag's values change fastest.

    Raises:
        UsageError: on a flag that train.py does not have or that a sweep has no use for.
    """
    lines = []
    for grid in grids:
        check_flags(grid)
        for parts in itertools.product(*grid.values()):
            kept = [words for words in parts if not of_another_part(words, parts)]
            lines.append(tuple(itertools.chain(*kept)))
    return lines


def of_another_part(words: Words, line: Iterable[Words]) -> bool:
    """Return whether words give an option of a user's own part that the line does not choose.

    A run knows the options of the registered parts and of its own alone.
    """
    chosen = {name: value for name, value in (each for each in line if len(each) == 2)}
    for axis, registry in REGISTRIES.items():
        part = own.canonical_or_same(chosen.get(f"--{axis}", ""))
        takes: set[str] = set()
        others: set[str] = set()
        for name, declared in own.options(axis).items():
            (takes if name == part else others).update(map(flag_of, declared))
        known = {flag_of(name) for declared in registry.values() for name in declared}
        if words and words[0] in others - takes - known:
            return True
    return False


def check_flags(flags: Iterable[str]) -> None:
    known = [flag for flag in build_parser().known_flags() if flag not in NOT_FOR_SWEEPS]
    own = options.build_parser().known_flags()
    for flag in flags:
        if flag in NOT_FOR_SWEEPS:
            raise UsageError(f"{flag}: {NOT_FOR_SWEEPS[flag]}")
        if flag in own:
            raise UsageError(f"{flag}: not of train.py; give it on the command line")
        if flag not in known:
            raise unknown_flag(known + own, flag)
