"""Names and options of methods, augmentations and data sets, for who does not need them themselves.

They are read from the registries where these are imported, and else from a file in the user's cache
folder, which is made anew after a change of any source file of the parts. So help, a refused flag
and the list of a sweep do not wait for the import of PyTorch.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from . import own
from .options import Option, options_of
from .source import ROOT

SOURCES = ("methods", "augmentations", "data", "budgetbench")  # folders that decide what is known
KINDS = {kind.__name__: kind for kind in (int, float, bool, str, list)}
Entry = TypeVar("Entry")


class Defaults(NamedTuple):
    """What a data set decides of a run, see `data.Source`."""

    model: str | None
    epochs: int | None
    resizes: bool
    argument: str | None


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A registry's names, each with what is known of it."""

    def __init__(self, module: str, attribute: str, axis: str | None = None):
        self.module, self.attribute = module, attribute
        self.axis = axis  # the setting that takes its names, where it takes a user's own parts too

    def facts(self) -> Mapping[str, Any]:
        registry = getattr(sys.modules.get(self.module), self.attribute, None)
        return remembered()[self.module] if registry is None else describe(registry)

    def entry(self, facts: Any) -> Entry:
        raise NotImplementedError

    def __getitem__(self, name: str) -> Entry:
        """Return what is known of a part; a KeyError, or a ValueError for one of a user's own."""
        facts = self.facts()
        if name not in facts and self.axis and own.is_own(name):
            return self.entry(facts_of(own.load(self.axis, name)))
        return self.entry(facts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.facts())

    def __len__(self) -> int:
        return len(self.facts())


class OptionsRegistry(Registry[dict[str, Option]]):
    """Each name with the options of its constructor."""

    def entry(self, facts: Any) -> dict[str, Option]:
        return {name: Option(KINDS[kind], *rest) for name, (kind, *rest) in facts.items()}


class DefaultsRegistry(Registry[Defaults]):
    """Each data set with what it decides."""

    def entry(self, facts: Any) -> Defaults:
        return Defaults(*facts)

    def __getitem__(self, name: str) -> Defaults:
        return super().__getitem__(self.family(name) or name)

    def family(self, name: str) -> str | None:
        """Return the entry that takes an argument, of NAME:ARGUMENT; else None."""
        family, colon, _ = name.partition(":")
        return family if colon and family in self.facts() else None


class NamesRegistry(Registry[None]):
    """Names alone."""

    def entry(self, facts: Any) -> None:
        return None


METHODS = OptionsRegistry("methods", "METHODS", "method")
AUGMENTATIONS = OptionsRegistry("augmentations", "AUGMENTATIONS", "augmentation")
DATASETS = DefaultsRegistry("data", "DATASETS", "dataset")
RECORDED = NamesRegistry("methods.scores", "RECORDED")
ALL: tuple[Registry[Any], ...] = (METHODS, AUGMENTATIONS, DATASETS, RECORDED)


def own_parts(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each part of a user's own, by its setting, what config.json keeps of it."""
    names = {axis: settings[axis] for axis in own.WANTED}
    return {axis: own.facts(axis, name) for axis, name in names.items() if is_own(name)}


def is_own(name: str) -> bool:
    """Return whether a name is of a user's own part, not of a data set with an argument."""
    return own.is_own(name) and not DATASETS.family(name)


def describe(registry: Any) -> dict[str, Any]:
    """Return what is known of a registry's entries, in what JSON has, if their options allow it."""
    if not isinstance(registry, Mapping):
        return dict.fromkeys(registry)
    return {name: facts_of(each) for name, each in registry.items()}


@functools.cache
def facts_of(entry: Any) -> Any:
    if isinstance(entry, type):
        return {
            name: (option.kind.__name__, option.default, option.facts)
            for name, option in options_of(entry).items()
        }
    if inspect.isfunction(entry):  # a user's own `load`
        return None, None, True, None
    return entry.model, entry.epochs, entry.resizes, entry.argument


@functools.cache
def remembered() -> dict[str, dict[str, Any]]:
    """Return what is known of all registries, without importing them where they are unchanged."""
    path = cache_file()
    version = version_of_sources()
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text())
        if content["version"] == version:
            return content["registries"]
    found = {
        each.module: describe(getattr(importlib.import_module(each.module), each.attribute))
        for each in ALL
    }
    # Where that fails, the registries are imported again next time: with an option whose facts JSON
    # does not have, such as a converter, or in a home that cannot be written to.
    with suppress(OSError, TypeError):
        text = json.dumps(dict(version=version, registries=found))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(text)
        aside.replace(path)
    return found


def cache_file() -> Path:
    """Return the file of this checkout, in the folder that XDG's base directories name."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    checkout = hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:16]
    return Path(folder) / "budgetbench" / f"registries-{checkout}.json"


def version_of_sources() -> list[list[Any]]:
    """Return name, time and size of every source file of the parts."""
    paths = sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
    facts = [(path, path.stat()) for path in paths]
    return [[str(path), fact.st_mtime_ns, fact.st_size] for path, fact in facts]
