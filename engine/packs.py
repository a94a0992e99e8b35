"""Packs: many runs in a few tables, in place of a folder of files for each run.

A folder that holds a pack has

    runs.csv       a row per run: its folder's name, its status and its config.json
    curves.csv     the rows of all runs' curve.csv
    per_class.csv  the rows of all runs' per_class.csv
    per_group.csv  the rows of all runs' per_group.csv, if a run has one

with a first column `folder`, relative to that folder. A pack says all that the files say:

* config.json is a column per value, named by the path to it, as `settings.budget`. A list, an empty
  table and a text that would read as JSON are written as JSON; any other text is written as it is.
  An empty cell is a value that the run has not, `null` one that is null.
* `curve.rows` and `per_class.rows` are numbers of rows; empty where there was no such file.
* A run has the columns of a table in which any of its cells is filled, and those that `curve.empty`
  or `per_class.empty` name.
* `last.*`, the last row of the curve, is for people: nothing reads it.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .config_file import BadRun
from .run_folder import write_whole

RUNS = "runs.csv"
#: Of a run -> of a pack.
TABLES = {"curve.csv": "curves.csv", "per_class.csv": "per_class.csv"}
TABLES |= {"per_group.csv": "per_group.csv"}
OPTIONAL = ("per_group.csv",)  # only where a run has it
PACK_FILES = (
    *TABLES.values(),
    RUNS,
)  # runs.csv is written last, since it counts the rows of the others
FIRST = ["folder", "status"]  # columns of runs.csv
#: No column of config.json begins with these.
RESERVED = {*FIRST, "curve", "per_class", "per_group", "last"}
csv.field_size_limit(2**31 - 1)  # a list, such as the starts of a run, may be long
PLAIN_KEY = r"[\w-]+"
KEY = re.compile(rf'("(?:[^"\\]|\\.)*"|{PLAIN_KEY})(?:\.|$)')


class NotAPack(BadRun):
    """A runs.csv of some other origin."""


class Table(NamedTuple):
    """A CSV as text; each row has as many cells as there are columns."""

    columns: list[str]
    rows: list[list[str]]

    def records(self) -> list[dict[str, str]]:
        return [dict(zip(self.columns, row)) for row in self.rows]


@dataclass(frozen=True)
class Record:
    """All that the files of a run say.

    `tables` has those of `TABLES` that the run has.
    """

    status: str
    content: dict[str, Any]  # of config.json
    tables: dict[str, Table]

    def canonical(self) -> tuple[Any, ...]:
        """Return something that is equal for equal runs only, whatever the order of names."""
        tables = {
            name: (set(table.columns), table.records()) for name, table in self.tables.items()
        }
        return self.status, json.dumps(self.content, sort_keys=True), tables


# Reading


class Pack:
    """The pack in a folder."""

    def __init__(self, folder: Path, files: Mapping[str, bytes] | None = None):
        """Read the tables.

        Args:
            folder: that holds the pack.
            files: of the pack, by name, if they are not in the folder yet.

        Raises:
            NotAPack: when it is some other file.
            BadRun: when a table is damaged, or has rows of a run that is in no other.
        """
        self.folder = folder
        self.files = files
        self.rows: dict[str, dict[str, str]] = {}  # of runs.csv, filled cells only, by folder
        table = self.parse(RUNS)
        if table.columns[: len(FIRST)] != FIRST:
            kind = BadRun if (folder / "curves.csv").exists() else NotAPack
            raise kind(f"{folder / RUNS}: not what python -m plots pack writes")
        for row in table.records():
            name = text_of_cell(row["folder"])
            path = Path(name)
            if name in self.rows or path.is_absolute() or ".." in path.parts or not path.name:
                raise BadRun(f"{folder / RUNS}: folder {row['folder']} twice, or not below it")
            self.rows[name] = {key: cell for key, cell in row.items() if cell}
        self.tables = {file: self.grouped(file) for file in TABLES}

    def has(self, file: str) -> bool:
        return (self.folder / file).exists() if self.files is None else file in self.files

    def read(self, file: str) -> bytes:
        return (self.folder / file).read_bytes() if self.files is None else self.files[file]

    def parse(self, file: str) -> Table:
        path = self.folder / file
        try:
            content = self.read(file)
            if content and not content.endswith(b"\n"):
                raise ValueError("its end is missing")
            return parse_table(content)
        except OSError as error:
            raise BadRun(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise BadRun(f"{path}: not a CSV ({error})") from None

    def where(self, file: str, name: str) -> str:
        """Say where a run's row or rows are, for an error."""
        return f"{self.folder / TABLES.get(file, RUNS)}: {cell_of_text(name)}"

    def status(self, name: str) -> str:
        return self.rows[name].get("status", "")

    def content(self, name: str) -> dict[str, Any]:
        """Return what was in the run's config.json; BadRun if that cannot be read."""
        content: dict[str, Any] = {}
        try:
            for column, cell in self.rows[name].items():
                keys = keys_of_column(column)
                if keys is None:
                    continue
                *path, last = keys
                table = functools.reduce(
                    lambda table, key: table.setdefault(key, {}), path, content
                )
                if table.setdefault(last, value := value_of_cell(cell)) is not value:
                    raise ValueError(f"{column} twice")
        except (AttributeError, TypeError):  # a value and names below it
            raise BadRun(f"{self.where(RUNS, name)}: {column} is a value and a table") from None
        except ValueError as error:
            raise BadRun(f"{self.where(RUNS, name)}: {error}") from None
        return content

    def grouped(self, file: str) -> tuple[list[str], dict[str, list[list[str]]]]:
        """Return the columns of a file of rows, and its rows by run."""
        if file in OPTIONAL and not self.has(TABLES[file]):
            return [], {}
        table = self.parse(TABLES[file])
        rows: dict[str, list[list[str]]] = {}
        for cell, *row in table.rows:
            rows.setdefault(cell, []).append(row)
        found = {text_of_cell(cell): group for cell, group in rows.items()}
        for name in sorted(found.keys() - self.rows.keys()):
            if not (self.folder / name / "status").exists():  # else packing was broken off
                raise BadRun(f"{self.where(file, name)}: rows of a run that {RUNS} lacks")
        return table.columns[1:], found

    def table(self, file: str, name: str) -> Table | None:
        """Return a table of a run, None if it has none; BadRun if rows are missing."""
        row, kind = self.rows[name], Path(file).stem
        columns, by_run = self.tables[file]
        rows = by_run.get(name, [])
        if str(len(rows)) != row.get(f"{kind}.rows", "0"):
            wanted = row.get(f"{kind}.rows", "none")
            raise BadRun(f"{self.where(file, name)}: {len(rows)} rows, and {RUNS} says {wanted}")
        if f"{kind}.rows" not in row:
            return None
        empty = value_of_cell(row.get(f"{kind}.empty", "[]"))
        if not isinstance(empty, list):
            raise BadRun(f"{self.where(RUNS, name)}: {kind}.empty is no list")
        kept = [i for i, column in enumerate(columns) if column in empty or any(r[i] for r in rows)]
        return Table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])

    def record(self, name: str) -> Record:
        read = {file: self.table(file, name) for file in TABLES}
        tables = {file: table for file, table in read.items() if table is not None}
        return Record(self.status(name), self.content(name), tables)

    def records(self, without: Container[str]) -> dict[str, Record]:
        """Return all of all runs but some."""
        return {name: self.record(name) for name in self.rows if name not in without}


def open_pack(folder: Path) -> Pack | None:
    """Read the pack in a folder; None where there is none. Errors as of `Pack`."""
    try:
        if not (folder / RUNS).is_file():
            return None
        facts = (folder / RUNS).stat()
    except OSError as error:
        raise BadRun(f"{folder / RUNS}: {error.strerror}") from None
    return opened(folder, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=64)  # a sweep asks for the status of each of its runs, again and again
def opened(folder: Path, *version: int) -> Pack:
    return Pack(folder)


def parse_table(content: bytes) -> Table:
    """Parse a CSV with a header; a ValueError says in one line what is wrong with it."""
    reader = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
    try:
        columns, *rows = [row for row in reader if row]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    except ValueError:
        raise ValueError("it is empty") from None
    twice = [name for i, name in enumerate(columns) if name in columns[:i]]
    if twice:
        raise ValueError(f"column {cell_of_text(twice[0])} twice")
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} cells in row {number}, not {len(columns)}")
    return Table(columns, rows)


# Writing


def pack_files(records: Mapping[str, Record]) -> dict[str, bytes]:
    """Return the files of a pack of some runs, by name; the runs are given by their folders."""
    configs = {name: flattened(record.content, ()) for name, record in records.items()}
    facts = {name: facts_of(record) for name, record in records.items()}
    columns = [merged_order(list(each) for each in cells.values()) for cells in (configs, facts)]
    rows = [
        [cell_of_text(name), record.status]
        + [cells[name].get(c, "") for cells, own in zip((configs, facts), columns) for c in own]
        for name, record in records.items()
    ]
    files = {RUNS: format_table(Table([*FIRST, *chain(*columns)], rows))}
    for file, packed in TABLES.items():
        tables = {n: record.tables[file] for n, record in records.items() if file in record.tables}
        own = merged_order(table.columns for table in tables.values())
        rows = [
            [cell_of_text(name), *(row.get(column, "") for column in own)]
            for name, table in tables.items()
            for row in table.records()
        ]
        if tables or file not in OPTIONAL:
            files[packed] = format_table(Table(["folder", *own], rows))
    return files


def facts_of(record: Record) -> dict[str, str]:
    """Return the cells of runs.csv on a run's tables, by column."""
    cells = {}
    for file, table in record.tables.items():
        kind = Path(file).stem
        cells[f"{kind}.rows"] = str(len(table.rows))
        empty = [c for i, c in enumerate(table.columns) if not any(row[i] for row in table.rows)]
        if empty:
            cells[f"{kind}.empty"] = json.dumps(empty)
    curve = record.tables.get("curve.csv")
    last = curve.records()[-1] if curve and curve.rows else {}
    return cells | {f"last.{column}": cell for column, cell in last.items() if cell}


def write_pack(folder: Path, records: Mapping[str, Record]) -> None:
    """Write a pack of some runs in place of the one that is there.

    Raises:
        BadRun: when it does not read back as the same runs; before anything is written, if it can
            be known then.
    """
    files = pack_files(records)
    check_same(Pack(folder, files), records)
    for name in PACK_FILES:
        if name in files:
            write_whole(folder / name, files[name])
    check_same(Pack(folder), records)


def check_same(pack: Pack, records: Mapping[str, Record]) -> None:
    for name, record in records.items():
        if name not in pack.rows or pack.record(name).canonical() != record.canonical():
            raise BadRun(f"{pack.folder / name}: would not read back as it is")


def format_table(table: Table) -> bytes:
    lines = [",".join(map(quoted_cell, row)) for row in (table.columns, *table.rows)]
    return "".join(f"{line}\n" for line in lines).encode()


def quoted_cell(text: str) -> str:
    """Quote a cell where it has to be; the csv module leaves some line breaks as they are."""
    return '"' + text.replace('"', '""') + '"' if re.search('[",\r\n]', text) else text


def merged_order(orders: Iterable[Sequence[str]]) -> list[str]:
    """Return all names, each after those that precede it in the order that first has it."""
    merged: list[str] = []
    for order in dict.fromkeys(map(tuple, orders)):
        place = 0
        for name in order:
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return merged


# Cells and columns


def flattened(content: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, str]:
    """Return the cells of config.json by column."""
    cells: dict[str, str] = {}
    for key, value in content.items():
        keys = (*path, key)
        if isinstance(value, dict) and value:
            cells |= flattened(value, keys)
        else:
            cells[column_of_keys(keys)] = cell_of_value(value)
    return cells


def column_of_keys(keys: Sequence[str]) -> str:
    first, *others = keys
    texts = [json.dumps(first) if first in RESERVED else text_of_key(first)]
    return ".".join([*texts, *map(text_of_key, others)])


def text_of_key(key: str) -> str:
    return key if re.fullmatch(PLAIN_KEY, key) else json.dumps(key)


def keys_of_column(column: str) -> list[str] | None:
    """Return the path to a value of config.json; None for a column that is none of its."""
    if column.partition(".")[0] in RESERVED:
        return None
    keys = KEY.findall(column)
    if KEY.sub("", column) or not keys or column.endswith("."):
        raise ValueError(f"column {cell_of_text(column)} names no value")
    return [json.loads(key) if key.startswith('"') else key for key in keys]


def cell_of_value(value: object) -> str:
    return cell_of_text(value) if isinstance(value, str) else json.dumps(value)


def value_of_cell(cell: str) -> object:
    """Return the value of JSON that a cell is, or else its text."""
    try:
        return json.loads(cell, parse_constant=refuse)
    except (ValueError, RecursionError):
        return cell


def cell_of_text(text: str) -> str:
    """Return a text as it is, or as JSON where it would be read as something else."""
    plain = text.isprintable() and text and value_of_cell(text) is text
    return text if plain else json.dumps(text)


def text_of_cell(cell: str) -> str:
    """Return the text that a cell of `cell_of_text` is of."""
    value = value_of_cell(cell)
    return value if isinstance(value, str) else cell


def refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
