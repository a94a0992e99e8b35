"""Comparable runs: runs in cells of the grid, cells in setups.

A cell is all that decides a run's result but the seed: its settings, the kind of device, the
precision and number of processes that it had, and its versions. A setup is the cells that differ
only in method, augmentation (with their options) and budget, the axes of the grid; only runs of one
setup are ever compared or drawn together. What `sweep.py --tune` chose for each method counts as
the method's.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import pandas as pd

from engine.config import REGISTRIES, consequential, settings_with
from engine.options import Option, options_of
from engine.own import label
from errors import UsageError
from methods import Selecting

from .runs import Run

AXES = ["method", "method_options", "augmentation", "augmentation_options", "budget"]
#: Settings of the optimizer, which tuning may choose for each method apart.
TUNABLE = set(settings_with("tunable"))
SOURCE = "source"  # stands for the file of a part of a user's own, among its options
LONGEST_NAME = 80  # letters of a setup's name, which begins the names of its files


def as_text(values: Mapping) -> str:
    return json.dumps(values, sort_keys=True)


def short(sha256: str) -> str:
    """Return enough of a digest to distinguish contents."""
    return f"sha256-{sha256:.12}"


def describe(run: Run, several: Collection[str] = ()) -> dict:
    """A run's place in the grid, a row of the table of runs.

    Args:
        several: names of data sets, and of files of groups, that runs have different ones of.
    """
    config = run.config
    options = config.settings["method_options"]
    files = {name: short(digest) for name, digest in config.files_sha256.items() if name in options}
    settings = config.settings | {"method_options": options | files}
    settings |= {axis: label(settings[axis]) for axis in config.own_parts}
    for axis in config.own_parts.keys() & REGISTRIES.keys():
        part, key = config.own_parts[axis], f"{axis}_options"
        given = {k: v for k, v in settings[key].items() if v != part["defaults"].get(k)}
        settings[key] = given | {SOURCE: short(part["sha256"])}
    if settings["count_scoring_run"]:  # a variant of the method, to be held against the others
        settings["method_options"] = settings["method_options"] | {"scoring_run": "paid"}
    shared = {key: value for key, value in consequential(settings).items() if value is not None}
    del shared["count_scoring_run"]
    # What --amp came to on the run's device says what it computed; auto does not.
    del shared["amp"]
    if shared["cache"] == "uint8":  # what every data set has that is no folder of large images
        del shared["cache"]
    shared |= {key: getattr(config, key) for key in ("device", "precision", "processes")}
    for axis in config.own_parts.keys() - REGISTRIES.keys():
        shared[f"{axis}_source"] = short(config.own_parts[axis]["sha256"])
    if config.tuned:
        shared["tuned"] = True
    if settings["dataset"] in several:  # older runs do not say which data they had
        shared["data"] = config.data_sha256 and short(config.data_sha256)
    if shared.get("groups") in several:
        shared["groups"] += f" {short(config.files_sha256.get('groups', 'unknown'))}"
    apart = {*AXES, "seed"}
    return {
        "folder": str(run.folder),
        "others": as_text({key: value for key, value in shared.items() if key not in apart}),
        "tuned": as_text({}),
        "versions": as_text(config.versions),
        "num_images": config.num_images,
        "realised_fraction": config.realised_fraction,
        "scoring_cost": config.scoring_cost,
        "scoring_seconds": config.scoring_seconds,
        "unknown_scoring": bool(files) and config.scoring_seconds is None,
        "selection_seconds": config.selection_seconds,
        **{key: settings[key] for key in ("dataset", "model", "epochs", "seed", "budget")},
        **{key: settings[key] for key in ("imbalance", "label_noise", "validation")},
        **{key: settings[key] for key in ("compute_budget", "schedule", "method", "augmentation")},
        **{key: as_text(settings[key]) for key in ("method_options", "augmentation_options")},
    }


def join_tuned(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Move what tuning chose differently for tuned runs from their setup to column `tuned`."""
    others = table["others"].map(json.loads)
    tuned = others[others.map(lambda own: "tuned" in own)]
    fixed = tuned.map(lambda own: as_text({k: own[k] for k in own.keys() - TUNABLE}))
    for _, group in tuned.groupby(fixed):
        chosen = TUNABLE.intersection(differing(group))
        for index, own in group.items():
            table.loc[index, "tuned"] = as_text({key: own.get(key) for key in chosen})
            table.loc[index, "others"] = as_text(own | dict.fromkeys(chosen, "tuned"))
    return table, []


def drop_copies(runs: Sequence[Run], table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep one of runs that are copies of each other: one cell, one seed, one curve.

    Two results for one cell and seed are an error: which of them counts is not ours to choose, and
    counting both would give one seed more weight than the others.

    Args:
        table: a row per run, in their order.
    """
    notes, copies = [], []
    for _, group in table.groupby([*AXES, "tuned", "others", "versions", "seed"], sort=False):
        for first, other in combinations(group.index, 2):
            folders = f"{table['folder'][first]} and {table['folder'][other]}"
            if not without_seconds(runs[first]).equals(without_seconds(runs[other])):
                threads = [run.config.threads for run in (runs[first], runs[other])]
                why = f" (of {threads[0]} and {threads[1]} threads)" * (len(set(threads)) > 1)
                raise UsageError(
                    f"{folders}: the same settings and seed with different results{why}; remove "
                    "one, or give a folder that holds only one"
                )
            if first == group.index[0]:
                notes.append(f"{folders}: the same run twice; the first is kept")
                copies.append(other)
    return table.drop(index=copies), notes


def without_seconds(run: Run) -> pd.DataFrame:
    return run.curve[sorted(name for name in run.curve if not name.endswith("_seconds"))]


def add_setups(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Add columns `setup`, a short unique name, and `title`; notes say what is kept apart."""
    setups, notes = divide_by_version(table)
    for dataset, group in setups.groupby(table["dataset"], sort=False):
        different = differing(group)
        names = {as_text(setup): name_of(setup, different) for setup in group}
        if len(set(names.values())) < len(names) or max(map(len, names.values())) > LONGEST_NAME:
            names = {text: f"{dataset}_{i}" for i, text in enumerate(names, 1)}
        for index, setup in group.items():
            table.loc[index, "setup"] = names[as_text(setup)]
            table.loc[index, "title"] = title_of(setup, different)
        if len(names) > 1:
            texts = ", ".join(names.values())
            notes.append(f"{dataset}: runs of different settings are kept apart: {texts}")
    return table, notes


def divide_by_version(table: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """The setup of each run, as settings, and of versions what keeps it apart from others.

    Where a cell holds runs of several versions, its whole setup is divided by version. Where every
    cell is of one version, cells of different versions are compared, and a note says so.
    """
    setups, notes = table["others"].map(json.loads), []
    for _, group in table.groupby("others", sort=False):
        versions = group["versions"].map(json.loads)
        apart = differing(versions)
        if not apart:
            continue
        texts = ", ".join(
            " ".join(f"{key} {show(part.iloc[0].get(key))}" for key in apart) + f": {len(part)}"
            for _, part in versions.groupby(group["versions"], sort=False)
        )
        outcome = "cells of different versions are compared"
        if group.groupby([*AXES, "tuned"])["versions"].nunique().max() > 1:
            outcome = "runs of different versions are kept apart"
            for index, own in versions.items():
                setups[index] |= {key: own.get(key) for key in apart}
        notes.append(f"{title_of(setups[group.index[0]], ())}: {outcome}; runs of {texts}")
    return setups, notes


def differing(settings: Sequence[Mapping]) -> list[str]:
    """The keys in which some settings differ, sorted; an absent one differs from a present one."""
    keys = sorted({key for one in settings for key in one})
    return [key for key in keys if len({json.dumps(one.get(key)) for one in settings}) > 1]


def show(value: object) -> str:
    """A setting's value as a user would write it."""
    short = isinstance(value, float) and float(f"{value:g}") == value
    return f"{value:g}" if short else str(value)


def name_of(setup: Mapping, different: Sequence[str]) -> str:
    """A setup's name, fit for a file: its data set and what sets it apart from the others."""
    parts = [setup["dataset"], *(f"{key}-{show(setup[key])}" for key in different if key in setup)]
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", "_".join(parts))


def title_of(setup: Mapping, different: Sequence[str]) -> str:
    """A setup in words, for a reader of one figure."""
    words = [setup["dataset"], setup["model"], f"{setup['epochs']} epochs"]
    noted = ("train_images", "imbalance", "label_noise", "compute_budget", "tuned")
    always = [key for key in noted if setup.get(key)]
    for key in dict.fromkeys([*always, *different]):
        if key not in ("dataset", "model", "epochs") and key in setup:
            words.append(key.replace("_", " ") + in_words(setup[key]))
    return ", ".join(words)


def add_labels(table: pd.DataFrame, axis: str) -> tuple[pd.DataFrame, list[str]]:
    """Add column AXIS_label: the name, and in brackets the options that are not the defaults.

    A file is only named where its label would else be that of others with another one, and what was
    done before there was an option where others do otherwise.

    Args:
        axis: method or augmentation.
    """
    notes: list[str] = []
    registry = REGISTRIES[axis]
    for (setup, name), group in table.groupby(["setup", axis], sort=False):
        options = group[f"{axis}_options"].map(json.loads)
        declared = registry.get(name) or {}
        keys = unnamed(declared, options)
        for files in ([key for key, option in declared.items() if is_file(option)], []):
            labels = options.map(partial(label_of, name, declared, [*keys, *files]))
            if labels.nunique() == options.map(as_text).nunique():
                break
        table.loc[group.index, f"{axis}_label"] = labels
        if labels.nunique() > 1:
            texts = ", ".join(labels.unique())
            notes.append(f"{setup}: {name} with different options: {texts}")
    return table, notes


def unnamed(declared: Mapping, options: pd.Series) -> list[str]:
    """The options that are alike in all runs and name a file, or what was done before them."""
    keys = [SOURCE] if len({own.get(SOURCE) for own in options}) == 1 else []
    for key, option in declared.items():
        values = {own.get(key, option.default) for own in options}
        before = option.facts.get("before", option.default)
        if len(values) == 1 and (is_file(option) or values == {before}):
            keys.append(key)
    return keys


def is_file(option: Option) -> bool:
    return option.facts.get("metavar") == "FILE"


def label_tuned(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Add values to the method's label where tuning chose several in one cell."""
    cell = ["setup", "method_label", "augmentation_label", "budget"]
    for _, group in table.groupby(["setup", "method_label"], sort=False):
        if group.groupby(cell)["tuned"].nunique().max() > 1:
            for index, values in group["tuned"].map(json.loads).items():
                words = [key.replace("_", " ") + in_words(values[key]) for key in sorted(values)]
                table.loc[index, "method_label"] += f" ({', '.join(words)})"
    return table, []


@functools.cache
def shared_options() -> frozenset[str]:
    """Names of options that many methods have."""
    return frozenset(options_of(Selecting))


def label_of(
    name: str, declared: Mapping[str, Option], unnamed: Sequence[str], options: Mapping
) -> str:
    """A method or augmentation with those of its options that are not as by default."""
    named = {
        key: value
        for key, value in options.items()
        if key not in unnamed and (key not in declared or value != declared[key].default)
    }
    families = {key.partition("_")[0] for key in options if key not in shared_options()}
    prefix = f"{families.pop() if len(families) == 1 else name}_"  # such as dro_
    words = [key.removeprefix(prefix).replace("_", " ") + in_words(named[key]) for key in named]
    return f"{name} ({', '.join(words)})" if words else name


def in_words(value: object) -> str:
    """An option's value as it follows the option's name."""
    if isinstance(value, bool):
        return "" if value else " off"
    return f" {show(value)}"


def arrange(runs: Sequence[Run], results: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table of runs, whose index is a run's place in `runs`; and notes, a line each."""
    contents = set()
    for config in (run.config for run in runs):
        contents.add((config.settings["dataset"], config.data_sha256))
        groups = config.settings["groups"]
        contents.add((groups and Path(groups).name, config.files_sha256.get("groups")))
    counts = Counter(name for name, digest in contents if digest)
    several = {name for name, count in counts.items() if count > 1}
    table = pd.DataFrame([describe(run, several) for run in runs])
    table["folder"] = [str(Path(folder).relative_to(results)) for folder in table["folder"]]
    notes = []
    for step in (
        join_tuned,
        lambda table: drop_copies(runs, table),
        add_setups,
        lambda table: add_labels(table, "method"),
        lambda table: add_labels(table, "augmentation"),
        label_tuned,
    ):
        table, more = step(table)
        notes += more
    return table, notes
