"""The runs that are there to be read, in folders of their own or packed: the one reader of both.

A run in a folder counts, not one packed under the same name; of two packs the one nearer to it.
"""

from __future__ import annotations

import csv
import io
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config_file import BadRun, Config, check_content, read_config, read_content
from .packs import RUNS, TABLES, NotAPack, Pack, Record, Table, format_table, open_pack, parse_table
from .run_folder import TRAINING_SECONDS
from .status import find_file, folders_of_runs, read_status
from .values import quoted

NAMES = ("class", "group")  # columns that are no numbers

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NEEDED = [
    "epoch",
    "test_accuracy",
    "images_scored",
    "images_trained",
    "count_entropy",
    *TRAINING_SECONDS,
]
GROWING = ["images_scored", "images_trained", *TRAINING_SECONDS]  # counted from the run's start
CLASS_COLUMNS = ["worst_class_accuracy", "class_accuracy_p5"]  # older runs did not log them


class StoredRun:
    """A run in its folder.

    Each method reads anew, and raises BadRun where what it reads is damaged.
    """

    removal = "its folder"  # what to remove to be rid of the run

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def deletion(self) -> str:
        """Words for what to delete to make the run again."""
        return "the folder"

    def status(self) -> str | None:
        """Return the status last written; None if there is none, `unknown` if unreadable."""
        return read_status(self.folder)

    def content(self) -> Any:
        """Return what config.json says, unchecked."""
        return read_content(find_file(self.folder, "config.json"))

    def config(self) -> Config:
        return read_config(self.folder)

    def where(self, file: str) -> str:
        """Say where a file is read, for errors."""
        return str(find_file(self.folder, file))

    def has(self, file: str) -> bool:
        return find_file(self.folder, file).exists()

    def read(self, file: str) -> bytes:
        """Return a table's file; an OSError or a ValueError says why that is impossible."""
        path = find_file(self.folder, file)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("not a file")
        return path.read_bytes()

    def table(self, file: str) -> Table:
        """Return curve.csv or per_class.csv, as text."""
        try:
            return parse_table(self.read(file))
        except OSError as error:
            raise BadRun(f"{self.where(file)}: {error.strerror}") from None
        except ValueError as error:
            raise BadRun(f"{self.where(file)}: not a CSV ({error})") from None

    def curve_rows(self) -> list[dict[str, str]]:
        """Return the rows of the curve as they stand, be it while the last is being written."""
        try:
            text = self.read("curve.csv").decode()
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except (OSError, ValueError, csv.Error) as error:
            raise BadRun(f"{self.where('curve.csv')}: not a CSV ({error})") from None

    def last_row(self) -> dict[str, str]:
        """Return the last row of the curve as it stands."""
        rows = self.curve_rows()
        if not rows:
            raise BadRun(f"{self.where('curve.csv')}: no row")
        return rows[-1]

    def curve(self, config: Config) -> pd.DataFrame:
        """Return the whole curve of a finished run, the numbers that figures need checked.

        It has all of `NEEDED` and `CLASS_COLUMNS`, and a row for each epoch; but under a budget of
        compute one step may end several epochs.
        """
        epochs, gaps = config.settings["epochs"], config.settings["compute_budget"]
        return check_curve(self.data_frame("curve.csv"), self.where("curve.csv"), epochs, gaps)

    def data_frame(self, file: str) -> pd.DataFrame:
        """Return a CSV whose rows have its header's columns, each once."""
        import pandas as pd  # takes longer to import than a sweep to look at its runs

        try:
            content = self.read(file)
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows of other lengths
                header = header_of(content)
                twice = [name for name, count in Counter(header).items() if count > 1]
                if twice:
                    raise ValueError(f"column {quoted(twice[0])} twice")
                names = [name for name in header if name in NAMES]
                return pd.read_csv(
                    io.BytesIO(content),
                    index_col=False,
                    dtype=dict.fromkeys(names, str),
                    keep_default_na=False,  # a class may be called NA
                    na_values={name: ["", "nan"] for name in header if name not in names},
                )
        except OSError as error:
            raise BadRun(f"{self.where(file)}: {error.strerror}") from None
        except (ValueError, Warning) as error:
            fault = " ".join(str(error).split())
            raise BadRun(f"{self.where(file)}: not a CSV ({fault})") from None

    def record(self) -> Record:
        """Return all that the files say, for a pack."""
        content = self.content()
        check_content(content, self.where("config.json"))
        tables = {file: self.table(file) for file in TABLES if self.has(file)}
        return Record(self.status() or "", content, tables)


class PackedRun(StoredRun):
    """A run in the pack that it has been put in since."""

    removal = "its rows"

    def __init__(self, pack: Pack, name: str):
        super().__init__(pack.folder / name)
        self.pack, self.name = pack, name

    @property
    def deletion(self) -> str:
        return f"its rows in {self.pack.folder / RUNS} and the other tables there"

    def status(self) -> str | None:
        return self.pack.status(self.name) or None

    def content(self) -> dict[str, Any]:
        return self.pack.content(self.name)

    def config(self) -> Config:
        return check_content(self.content(), self.where("config.json"))

    def where(self, file: str) -> str:
        return self.pack.where(file, self.name)

    def has(self, file: str) -> bool:
        return self.pack.table(file, self.name) is not None

    def read(self, file: str) -> bytes:
        table = self.pack.table(file, self.name)
        if table is None:
            raise ValueError("no rows")
        return format_table(table)


def find_run(folder: Path) -> StoredRun | None:
    """Return the run of a folder, which may be packed; None if there is none.

    Raises:
        BadRun: when a pack in which it may be is damaged.
    """
    run = StoredRun(folder)
    if run.status() is not None or run.has("config.json") or run.has("curve.csv"):
        return run
    for above in folder.parents:
        with suppress(NotAPack):
            pack = open_pack(above)
            name = folder.relative_to(above).as_posix()
            if pack and name in pack.rows:
                return PackedRun(pack, name)
    return None


def find_runs(results: Path) -> tuple[list[StoredRun], list[BadRun]]:
    """Return all runs below a folder in the order of their folders; and what packs are damaged."""
    found = {each: StoredRun(each) for each in folders_of_runs(results)}
    faults = []
    inside = sorted(path.parent for path in results.rglob(RUNS) if path.parent != results)
    inside.sort(key=lambda folder: -len(folder.parts))  # those nearer to a run before others
    for folder in (*inside, results, *results.parents):
        try:
            pack = open_pack(folder)
        except BadRun as error:
            if folder not in results.parents or not isinstance(error, NotAPack):
                faults.append(error)
            continue
        for run in packed_runs(pack) if pack else ():
            if results in run.folder.parents:
                found.setdefault(run.folder, run)
    return [found[folder] for folder in sorted(found)], faults


def packed_runs(pack: Pack) -> Iterator[PackedRun]:
    return (PackedRun(pack, name) for name in pack.rows)


def check_curve(curve: pd.DataFrame, path: str, epochs: int, gaps: bool) -> pd.DataFrame:
    """Return the curve with numbers wherever figures need them, up to the last of `epochs`.

    Every epoch has a row; with `gaps` some may not. BadRun names the `path`.
    """
    import numpy as np

    missing = [name for name in NEEDED if name not in curve]
    if missing:
        raise BadRun(f"{path}: no column {', '.join(missing)}")
    for name in [*NEEDED, *CLASS_COLUMNS]:
        if name not in curve:
            curve[name] = np.nan
        numbers = numbers_of(curve[name])
        good = (numbers >= 0) & (numbers <= (100 if "accuracy" in name else sys.float_info.max))
        # Empty where --eval-every left an epoch out, which is never the last.
        if name == "test_accuracy":
            good[:-1] |= curve[name].isna().to_numpy()[:-1]
        elif name in CLASS_COLUMNS:
            good |= curve[name].isna().to_numpy()
        if not good.all():
            row = int(good.argmin())
            raise BadRun(f"{path}: {quoted(str(curve[name][row]))} for {name} in line {row + 2}")
        curve[name] = numbers
    for name in GROWING:
        shrinks = np.diff(curve[name]) < 0
        if shrinks.any():
            raise BadRun(f"{path}: {name} shrinks in line {int(shrinks.argmax()) + 3}")
    found = list(curve["epoch"])
    fits = sorted({*found}) == found if gaps else found == list(range(1, epochs + 1))
    if not fits or found[-1:] != [epochs]:
        raise BadRun(f"{path}: {len(curve)} rows, not one for each of {epochs} epochs")
    return curve


def numbers_of(column: pd.Series) -> np.ndarray:
    """Return a column's numbers, NaN for what is none, such as a bool."""
    import pandas as pd

    if column.dtype.kind in "iuf":
        return column.to_numpy()
    values = column.astype(object)
    numbers = values.mask(values.map(lambda value: isinstance(value, bool)))
    return pd.to_numeric(numbers, errors="coerce").to_numpy()


def header_of(content: bytes) -> list[str]:
    """Return the names of a CSV's columns; a ValueError for what is no CSV."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        return next((row for row in reader if row), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None
