"""The runs of a sweep: their settings, their folders, and what is left of them to do."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UsageError

from .. import own
from ..config import IN_DEFAULT_NAME, TABLES, consequential, differences, settings_with
from ..config_file import BadRun
from ..flags import parse
from ..options import require_options, values_before
from ..registries import METHODS, own_parts
from ..run_folder import RunFolder
from ..runs import StoredRun, find_run
from ..status import ENDED, holder
from .grid import Words


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as a command line of train.py gives it."""

    words: Words
    settings: Mapping[str, Any]  # as config.json has them

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.settings["results_dir"]), self.settings["experiment_name"])

    @property
    def path(self) -> Path:
        return self.folder.path

    def stored(self) -> StoredRun:
        """Return what is there of the run, in its folder or packed."""
        try:
            return find_run(self.path) or StoredRun(self.path)
        except BadRun as error:
            raise UsageError(f"{error}; restore that file or move it away") from None

    def status(self) -> str | None:
        return self.folder.status() or self.stored().status()

    def has_finished(self) -> bool:
        """Return whether the folder holds this very run, finished."""
        return self.status() == "finished" and not other_settings(self)

    def holder(self) -> str | None:
        """The process that is making the run at present, in words; None if there is none."""
        return holder(self.path)


def list_runs(lines: Iterable[Words]) -> tuple[list[Run], list[str]]:
    """The runs of some command lines of train.py, each once; and train.py's notes on them.

    Raises:
        UsageError: on a command line that train.py refuses, on two different runs of one folder,
            and on a folder that holds another run than the one that belongs there.
    """
    read = [read_run(words) for words in lines]
    notes = dict.fromkeys(note for _, notes in read for note in notes)
    return each_once(run for run, _ in read), list(notes)


def each_once(all_runs: Iterable[Run]) -> list[Run]:
    """The different ones of some runs; a UsageError as `list_runs` says on folders."""
    runs: dict[Path, Run] = {}
    for run in all_runs:
        other = runs.setdefault(run.path.resolve(), run)
        if other.settings != run.settings:
            raise UsageError(
                f"{run.path}: two runs would share this folder "
                f"({'; '.join(differences(other.settings, run.settings))}); leave "
                "--experiment-name out, or give one of them another or another --results-dir"
            )
    for run in runs.values():
        run.folder.check()
        check_ended(run)
    return list(runs.values())


def read_run(words: Words) -> tuple[Run, list[str]]:
    """The run that a command line of train.py asks for, in a folder of its own; with notes."""
    settings, notes = parse(words)
    require_options(METHODS[settings.method], settings.method_options)
    if "--experiment-name" not in words:
        settings.experiment_name = name_of(vars(settings))
        words = (*words, "--experiment-name", settings.experiment_name)
    return Run(words, vars(settings)), notes


def name_of(settings: Mapping[str, Any]) -> str:
    """Return a folder's name with all settings but the defaults and those of no consequence.

    It depends on nothing else, so that a run has one name in whatever grid it occurs. Where a new
    option's default is not what was done before, it is named, and the earlier runs keep their
    names.
    """
    plain = flatten(defaults(*(settings[name] for name in ("dataset", "method", "augmentation"))))
    plain |= values_before(METHODS[settings["method"]])
    parts, incidental = [settings["experiment_name"]], settings_with("where")
    for name, value in flatten(settings).items():
        rounded = isinstance(value, float) and value != float(f"{value:g}")
        named = name in IN_DEFAULT_NAME and not rounded
        if value != plain[name] and name not in incidental and not named:
            parts.append(name.replace("_", "-") + text_of(value))
    return re.sub(r"[^\w.+-]", "-", "_".join(parts))


@functools.cache
def defaults(dataset: str, method: str, augmentation: str) -> Mapping[str, Any]:
    choice = ("--dataset", dataset, "--method", method, "--augmentation", augmentation)
    return vars(parse(choice)[0])


def flatten(settings: Mapping[str, Any]) -> dict[str, object]:
    """Settings with the options of method and augmentation among them."""
    options = {**settings["method_options"], **settings["augmentation_options"]}
    names = [name for name in settings if name not in ("method_options", "augmentation_options")]
    return {name: settings[name] for name in names} | options


def text_of(value: object) -> str:
    if value is None:
        return "-default"
    if isinstance(value, bool):
        return "" if value else "-off"
    if isinstance(value, list):
        return "+".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}" if value == float(f"{value:g}") else repr(value)
    if isinstance(value, str):
        name = own.label(value)
        return f"-{Path(name).name if name.startswith('/') else name}"
    return str(value)


def check_ended(run: Run) -> None:
    """Refuse a folder whose run has ended if it is not this run."""
    if run.status() not in ENDED:
        return  # train.py looks at checkpoints itself
    different = other_settings(run)
    if different:
        raise UsageError(
            f"{run.path}: holds a run ({run.status()}) with other settings, there and here: "
            f"{'; '.join(different)}; give another --experiment-name or --results-dir, or delete "
            f"{run.stored().deletion}"
        )


def other_settings(run: Run) -> list[str]:
    """Return in words the settings of the run in the folder that are not this run's."""
    try:
        config = run.stored().config()
    except BadRun as error:
        return [str(error)]
    theirs = {axis: part["sha256"] for axis, part in config.own_parts.items()}
    changed = [
        f"{part['file']} has changed"
        for axis, part in own_parts(run.settings).items()
        if theirs.get(axis, part["sha256"]) != part["sha256"]
    ]
    ours = run.settings | run.settings["method_options"]
    files = {name: Path(ours[name]) for name in config.files_sha256 if ours.get(name)}
    changed += [
        f"{path} has changed"
        for name, path in files.items()
        if path.is_file()
        and digest_of_file(name, path, path.stat().st_mtime_ns) != config.files_sha256[name]
    ]
    return [*differences(consequential(config.settings), consequential(run.settings)), *changed]


@functools.cache
def digest_of_file(setting: str, path: Path, _modified: int) -> str | None:
    """Return the digest that config.json has of a file that a setting or option names."""
    if setting in TABLES:
        return own.digest_of(path)
    from methods.scores import ScoreFile  # which imports PyTorch

    try:
        return ScoreFile.read(path).sha256
    except ValueError:
        return "damaged"
