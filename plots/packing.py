"""Pack the runs below a folder: a few tables there, in place of a folder of files for each run.

python -m plots pack FOLDER [--remove]
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.config_file import BadRun
from engine.flags import Parser
from engine.packs import PACK_FILES, RUNS, Record, open_pack, write_pack
from engine.run_folder import SETTINGS_FILE
from engine.runs import StoredRun
from engine.status import ENDED, LOCK, folders_of_runs, take_lock
from errors import UsageError, exit_status_of, say

#: Files of a run that a pack makes superfluous. Of these it does not hold the log and the lock.
PACKED = {
    SETTINGS_FILE,
    "status",
    "config.json",
    "curve.csv",
    "per_class.csv",
    "per_group.csv",
    LOCK,
    "log.txt",
}
DESCRIPTION = (
    f"Pack the runs in FOLDER, at any depth, in FOLDER/{RUNS}, curves.csv and per_class.csv, which "
    "keep what is there already. They hold all of config.json, status, curve.csv, "
    "per_class.csv and per_group.csv of the runs; tables, figures, sweeps and scores read them. "
    "Runs that have not ended are left out."
)


def pack(folder: Path, remove: bool) -> tuple[str, list[str]]:
    """Pack the ended runs below a folder.

    Args:
        folder: gets the tables.
        remove: the folders of runs that are wholly in the pack, and of which nothing else is there.

    Returns:
        A line that says what was done, and notes on what was not.

    Raises:
        UsageError: when a run or the pack that is there is damaged; nothing is changed then.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the one that holds the runs")
    with held(folder):
        found = folders_of_runs(folder)
        if folder in found:
            raise UsageError(f"{folder}: a run's own folder; give the one that holds it")
        there = open_pack(folder)
        unfinished: Counter[str] = Counter()
        ours: dict[str, Record] = {}
        for each in found:
            run = StoredRun(each)
            status = run.status()
            if status in ENDED:
                ours[each.relative_to(folder).as_posix()] = record_of(run)
            else:
                unfinished[status or "without a status"] += 1
        before = there.records(without=ours) if there else {}
        records = dict(sorted((before | ours).items()))
        if not records:
            raise UsageError(f"{folder}: no run there that has ended; give another folder")
        if ours:
            write_pack(folder, records)
        done = f"{folder}: {len(records)} runs in {', '.join(PACK_FILES)}; packed now: {len(ours)}"
        notes = []
        if unfinished:
            counts = ", ".join(f"{count} {status}" for status, count in sorted(unfinished.items()))
            notes.append(f"left out what has not ended: {counts}")
        if remove:
            removed, more = remove_folders(folder, ours)
            done += f", folders removed: {removed}"
            notes += more
        return done, notes


def record_of(run: StoredRun) -> Record:
    """Read all of a run, and check what tables and figures will read."""
    record = run.record()
    if record.status == "finished":
        run.curve(run.config())
    return record


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder from being packed twice at a time."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        take_lock(handle)
        yield
    except BlockingIOError:
        raise UsageError(f"{folder}: is being packed by another process; wait for it") from None
    finally:
        os.close(handle)


def remove_folders(folder: Path, packed: Mapping[str, Record]) -> tuple[int, list[str]]:
    """Remove the folders of packed runs unless more is in them; how many, and notes on others."""
    removed = busy = kept = 0
    more: Counter[str] = Counter()
    for name, record in packed.items():
        path = folder / name
        others = {each.name for each in path.iterdir() if each.name not in PACKED or each.is_dir()}
        if others:
            kept += 1
            more.update(others)
        elif remove_folder(path, record):
            removed += 1
        else:
            busy += 1
    notes = []
    if kept:
        names = ", ".join(f"{name} ({count})" for name, count in more.most_common(4))
        notes.append(
            f"{kept} folders stay for what a pack does not hold: {names}"
            f"{', ...' * (len(more) > 4)}; remove these files if they may go, and pack again"
        )
    if busy:
        notes.append(f"{busy} folders stay, whose runs are being made again")
    return removed, notes


def remove_folder(path: Path, record: Record) -> bool:
    """Remove a run's folder if the run is still that of the pack, and no process makes it anew."""
    with open(path / LOCK, "a") as lock, suppress(BlockingIOError, BadRun):
        take_lock(lock)
        if StoredRun(path).record().canonical() == record.canonical():
            shutil.rmtree(path)
            for above in path.parents:
                if any(above.iterdir()):
                    break
                above.rmdir()
            return True
    return False


def main(arguments: list[str]) -> int:
    parser = Parser(prog="python -m plots pack", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds the runs")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="then remove the folders of packed runs, but for those that hold more, as model.pt",
    )

    def work() -> int:
        options = parser.parse_args(arguments)
        try:
            done, notes = pack(options.folder, options.remove)
        except BadRun as error:
            raise UsageError(f"{error}; nothing was removed, put that right first") from None
        print(done)
        for note in notes:
            say(f"note: {note}")
        return 0

    return exit_status_of("python -m plots pack", work)
