"""Floors of the house: nothing imports upward, and no folders import each other in a circle."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

#: What a folder may import beside itself. `errors` is one file that imports nothing.
MAY_IMPORT = {
    "budgetbench": set(),
    "methods": {"budgetbench"},
    "augmentations": {"budgetbench"},
    "data": {"errors"},
    "engine": {"budgetbench", "methods", "augmentations", "data", "errors"},
    "engine/sweep": {"engine", "budgetbench", "methods", "augmentations", "data", "errors"},
    "segmentation": {"budgetbench", "engine", "errors"},
    "plots": {"engine", "budgetbench", "methods", "augmentations", "data", "errors"},
}
FOLDERS = {*MAY_IMPORT, "errors", "tests", "benchmarks", "train", "sweep"}


def folder_of(module: str) -> str:
    """Return the folder, or top-level file, of a module's dotted name; or another's first name."""
    parts = module.split(".")
    inner = "/".join(parts[:2])
    return inner if inner in MAY_IMPORT else parts[0]


def imported_by(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it, by absolute names."""
    package = path.relative_to(ROOT).parent.parts
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *([node.module] if node.module else [])))
            modules.add(name)
            if not node.module:  # from . import name
                modules |= {f"{name}.{alias.name}" for alias in node.names}
    return modules


def imports_of(folder: str) -> dict[str, set[str]]:
    """Return for each file of a folder the folders of this project that it imports."""
    return {
        str(path.relative_to(ROOT)): {
            name for name in map(folder_of, imported_by(path)) if name in FOLDERS
        }
        for path in sorted((ROOT / folder).rglob("*.py"))
        if folder_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) == folder
    }


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_lies_below(folder: str) -> None:
    found = imports_of(folder)
    assert found, "the folder is there"
    upward = {
        path: names - MAY_IMPORT[folder] - {folder}
        for path, names in found.items()
        if names - MAY_IMPORT[folder] - {folder}
    }
    assert upward == {}


def test_no_folders_import_each_other_in_a_circle() -> None:
    graph = {folder: set().union(*imports_of(folder).values()) - {folder} for folder in MAY_IMPORT}
    assert list(TopologicalSorter(graph).static_order())  # a circle is a CycleError


def test_the_mains_are_thin() -> None:
    for name in ("train.py", "sweep.py"):
        assert len((ROOT / name).read_text().splitlines()) <= 40


def texts_of(path: Path) -> list[str]:
    """Return the texts in a file, those within f-strings included."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


#: What builds or reads command lines, and texts that quote one.
COMMAND_LINES = {"engine/flags.py", "engine/published.py", "engine/scores.py", "engine/source.py"}
COMMAND_LINES |= {"engine/settings_file.py", "engine/score_export.py"}
QUOTED = ("python -m ", "torchrun ")


@pytest.mark.parametrize("folder", ["methods", "augmentations", "data", "engine"])
def test_under_the_mains_nothing_speaks_of_flags(folder: str) -> None:
    """Messages name settings; the mains show these as flags."""
    flags = re.compile(r"(?<![\w-])--[a-z]")
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name in COMMAND_LINES or name.startswith("engine/sweep/"):
            continue
        for text in texts_of(path):
            assert any(word in text for word in QUOTED) or not flags.search(text), (name, text)
