"""Grids: flags of train.py with their values, and the command lines that they stand for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from errors import UsageError

from .. import own
from ..config import REGISTRIES
from ..flags import build_parser, flag_of, note_own_parts, off, unknown_flag
from ..published import canonical
from ..settings_file import read_toml, words_of_setting
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
    content = read_toml("--grid", path)
    strange = [name for name in content if name != "grid"]
    if strange:
        if isinstance(content[strange[0]], dict | list):
            raise UsageError(f"--grid {path}: a table {strange[0]}; tables are called grid")
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
        grid[flag] = [tuple(words_of_setting(key, each)) for each in values]
    return grid


def expand(grids: Iterable[Grid]) -> list[Words]:
    """The command line of every run, in order; the last flag's values change fastest.

    Raises:
        UsageError: on a flag that train.py does not have or that a sweep has no use for.
    """
    lines: list[Words] = []
    owners = owners_of_flags()
    for grid in grids:
        check_flags(grid)
        for parts in itertools.product(*grid.values()):
            kept = [words for words in parts if is_known(words, parts, owners)] if owners else parts
            lines.append(tuple(itertools.chain(*kept)))
    return lines


def owners_of_flags() -> dict[str, set[str]]:
    """Flags that only parts of a user's own have, each with the names of these."""
    owners: dict[str, set[str]] = {}
    for axis, registry in REGISTRIES.items():
        known = {name for declared in registry.values() for name in declared}
        for part, declared in own.options(axis).items():
            for name in declared.keys() - known:
                for flag in (flag_of(name), off(flag_of(name))):
                    owners.setdefault(flag, set()).add(part)
    return owners


def is_known(words: Words, line: Iterable[Words], owners: Mapping[str, set[str]]) -> bool:
    """Return whether a run knows a flag: of a user's own parts it has those that it names alone."""
    if not words or words[0] not in owners:
        return True
    named = {own.canonical_or_same(each[1]) for each in line if len(each) == 2}
    return bool(owners[words[0]] & named)


def check_flags(flags: Iterable[str]) -> None:
    known = [flag for flag in build_parser().known_flags() if flag not in NOT_FOR_SWEEPS]
    own = options.build_parser().known_flags()
    for flag in flags:
        if flag in NOT_FOR_SWEEPS:
            raise UsageError(f"{flag}: {NOT_FOR_SWEEPS[flag]}")
        if flag in own:
            raise UsageError(f"{flag}: not of train.py; give it on the command line")
        if flag not in known and off(flag) not in known:
            raise unknown_flag(known + own, flag)
