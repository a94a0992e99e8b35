"""Options that no table of the tests names: of methods and augmentations that were added since."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from engine.config import REGISTRIES
from engine.flags import flag_of
from engine.options import Option


class Unlisted(NamedTuple):
    """An option and a value of it that is not the default."""

    flag: str
    axis: str  # method or augmentation
    users: set[str]  # names of those that take it
    default: object
    text: str | None  # gives the value on a command line; None for a switch
    value: object


def unlisted(listed: Collection[str]) -> dict[str, Unlisted]:
    """Return the options of all registries that are not among the listed ones, by name."""
    found: dict[str, Unlisted] = {}
    for axis, registry in REGISTRIES.items():
        for chosen, options in registry.items():
            for name, option in options.items():
                if name in found:
                    found[name].users.add(chosen)
                elif name not in listed:
                    text, value = other_value(option)
                    flag = flag_of(name)
                    found[name] = Unlisted(flag, axis, {chosen}, option.default, text, value)
    return found


def other_value(option: Option) -> tuple[str | None, object]:
    """Return a value within an option's bounds that is not its default, as text and as it is."""
    kind, default, facts = option
    if kind is bool:
        return None, True
    if kind is str:
        value = next(each for each in facts.get("choices", ["other"]) if each != default)
        return value, value
    low = facts.get("low", facts.get("above", 0))
    high = facts.get("high", facts.get("below", low + 2))
    tried = (low + high) / 2, (3 * low + high) / 4
    value = next(kind(each) for each in tried if kind(each) != default)
    return str(value), value
