"""Checked values: text to numbers within bounds and to known names, with errors of one line."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from . import own

Convert = Callable[[str], Any]
BOUNDS = {"low", "high", "above", "below", "percent"}


def quoted(value: object) -> str:
    """Return a value as an error shows it: on one line, and cut in the middle where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = 60
    return short.repr(value)


def number(
    kind: type, *, low=None, high=None, above=None, below=None, percent: bool = False
) -> Convert:
    """Return a converter of text to an int or float inside closed or open bounds.

    With `percent`, 30% is 0.3.

    Like all converters here, it raises a ValueError that says what it wants.
    """
    bounds = [
        (low, "at least", lambda value, bound: value >= bound),
        (above, "above", lambda value, bound: value > bound),
        (high, "at most", lambda value, bound: value <= bound),
        (below, "below", lambda value, bound: value < bound),
    ]
    bounds = [bound for bound in bounds if bound[0] is not None]
    wanted = "a whole number" if kind is int else "a number"
    wanted += "".join(
        f"{',' if i else ''} {words} {bound}" for i, (bound, words, _) in enumerate(bounds)
    )

    def convert(text: str) -> int | float:
        try:
            of_hundred = percent and text.endswith("%")
            value = float(Decimal(text[:-1]) / 100) if of_hundred else kind(text)
            fits = math.isfinite(value) and all(holds(value, bound) for bound, _, holds in bounds)
        except (ArithmeticError, ValueError):  # no number, or one beyond the range of floats
            fits = False
        if not fits:
            raise ValueError(f"{quoted(text)} is not {wanted}")
        return value

    return convert


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "; did you mean X?" for the known name that is closest, or nothing."""
    spellings = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), spellings, 1, cutoff)
    return f"; did you mean {spellings[near[0]]}?" if near else ""


def one_of(names: Iterable[str], aliases: Mapping[str, str] | None = None) -> Convert:
    """Return a converter to one of some names; the error suggests the closest match.

    Capitals and dashes may be others, as in psgd or CIFAR-10.
    """
    names = list(names)
    plain = {bare(name): name for name in names}

    def convert(text: str) -> str:
        name = (aliases or {}).get(text, text)
        name = name if name in names else plain.get(bare(name), name)
        if name not in names:
            meant = closest(name, names, 0.4)
            raise ValueError(f"{quoted(text)} is not one of {', '.join(names)}{meant}")
        return name

    return convert


def bare(name: str) -> str:
    return re.sub("[-_ ]", "", name).lower()


def several_of(names: Iterable[str]) -> Convert:
    """Return a converter of names separated by commas to a list without duplicates."""
    convert = one_of(names)
    return lambda text: list(dict.fromkeys(convert(word) for word in text.split(",")))


def one_of_or_own(known: Mapping[str, Any]) -> Convert:
    """Return a converter to a name of a registry, to NAME:ARGUMENT or to a part of one's own."""

    def convert(text: str) -> str:
        family, colon, argument = text.partition(":")
        entry = known.get(family) if colon else None
        wants = getattr(entry, "argument", None)
        if wants:
            if not argument:
                raise ValueError(f"{quoted(text)}: give {family}:{wants}")
            return text
        if own.is_own(text):
            return own.canonical(text)
        if text.endswith(".py"):
            raise ValueError(f"{quoted(text)}: give {text}:NAME, of what to take from the file")
        name = one_of(known)(text)
        wants = getattr(known[name], "argument", None)
        if wants:
            raise ValueError(f"{quoted(text)}: give {name}:{wants}")
        return name

    return convert


def converter(kind: type, facts: Mapping[str, Any]) -> Convert:
    """Return the converter of a setting or option.

    Args:
        kind: int, float, str, or list, of names.
        facts: `low`, `high`, `above`, `below` of numbers; `choices` of names, and `own` where a
            part of a user's own is allowed in their place; or `convert`.
    """
    if "convert" in facts:
        return facts["convert"]
    if kind is list:
        return several_of(facts["choices"])
    if facts.get("own"):
        return one_of_or_own(facts["choices"])
    if kind is str:
        return one_of(facts["choices"]) if "choices" in facts else str
    return number(kind, **{key: facts[key] for key in facts.keys() & BOUNDS})


def in_words(seconds: float) -> str:
    """A duration as a person says it."""
    for size, unit, digits in ((86400, "days", 1), (3600, "hours", 1), (60, "minutes", 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} seconds"
