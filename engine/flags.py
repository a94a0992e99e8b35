"""Building blocks of the command line: checked values, nearest names, declared options."""

from __future__ import annotations

import argparse
import difflib
import inspect
import math
import reprlib
import typing
from collections.abc import Callable, Iterable

from errors import UsageError


def quoted(value: object) -> str:
    """A value as an error shows it: on one line, and cut in the middle where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = 60
    return short.repr(value)


def number(
    kind: type, *, low=None, high=None, above=None, below=None
) -> Callable[[str], int | float]:
    """A converter for argparse: text to an int or float inside closed or open bounds."""
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
            value = kind(text)
            fits = math.isfinite(value) and all(holds(value, bound) for bound, _, holds in bounds)
        except (ValueError, OverflowError):  # no number, or one beyond the range of floats
            fits = False
        if not fits:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not {wanted}")
        return value

    return convert


def one_of(names: Iterable[str], aliases: dict[str, str] | None = None) -> Callable[[str], str]:
    """A converter for argparse: one of some names; an unknown one is told the nearest."""
    names = list(names)

    def convert(text: str) -> str:
        name = (aliases or {}).get(text, text)
        if name not in names:
            near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], 1, 0.4)
            nearest = next((n for n in names if near and n.lower() == near[0]), None)
            meant = f"; did you mean {nearest}?" if nearest else ""
            known = ", ".join(names)
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not one of {known}{meant}")
        return name

    return convert


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`s of one line."""

    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(message.removeprefix("argument ") + " (see --help)")

    def known_flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]


class HelpFormatter(argparse.HelpFormatter):
    """States the default of every flag that has one and does not explain it itself."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        unstated = action.default in (None, argparse.SUPPRESS) or isinstance(action.default, bool)
        if unstated or "default" in text:
            return text
        return f"{text} [default: %(default)s]"


def options_of(constructor: type) -> dict[str, tuple[type, object, dict]]:
    """The options of a method or augmentation: name -> (type, default, its annotation).

    They are those of its constructor and, where it passes on others, of its base classes'.
    """
    options: dict[str, tuple[type, object, dict]] = {}
    for owner in constructor.__mro__:
        if "__init__" not in vars(owner):
            continue
        hints = typing.get_type_hints(owner.__init__, include_extras=True)
        parameters = inspect.signature(owner.__init__).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in options:
                annotated, facts = typing.get_args(hints[parameter.name])
                kinds = [
                    kind
                    for kind in typing.get_args(annotated) or (annotated,)
                    if kind in (int, float, bool, str)
                ]
                options[parameter.name] = (kinds[0], parameter.default, facts)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return options


def options_before(constructor: type) -> dict[str, object]:
    """What versions without some of the options did in their place: name -> value."""
    options = options_of(constructor).items()
    return {name: facts.get("before", default) for name, (_, default, facts) in options}


def add_options(parser: Parser, title: str, constructors: Iterable[type]) -> None:
    """Add a group of flags, one for each option that any of the constructors declares."""
    group = parser.add_argument_group(title)
    declared = {name: option for cls in constructors for name, option in options_of(cls).items()}
    for name, (kind, default, facts) in declared.items():
        flag, help_ = "--" + name.replace("_", "-"), facts["help"]
        if default is not None and kind is not bool and "default" not in help_:
            help_ += f" [default: {default}]"
        # Absent unless given, so that the constructor alone holds the default.
        if kind is bool:
            group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=help_)
        else:
            group.add_argument(
                flag,
                type=converter(kind, facts),
                default=argparse.SUPPRESS,
                metavar=facts.get("metavar", {int: "N", float: "X", str: "NAME"}[kind]),
                help=help_,
            )


def converter(kind: type, facts: dict) -> Callable[[str], object]:
    """The converter for argparse of an option with this annotation."""
    if kind is str:
        return one_of(facts["choices"]) if "choices" in facts else str
    bounds = {key: facts[key] for key in ("low", "high", "above", "below") if key in facts}
    return number(kind, **bounds)


def require_options(constructor: type, options: dict[str, object]) -> None:
    """Refuse options of which one that has to be given is not."""
    for name, (_, _, facts) in options_of(constructor).items():
        if "needed" in facts and options[name] is None:
            raise UsageError(f"--{name.replace('_', '-')}: not given; it is {facts['needed']}")


def several_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A converter for argparse: some of the names, separated by commas; as a list without twins."""
    convert = one_of(names)
    return lambda text: list(dict.fromkeys(convert(word) for word in text.split(",")))


def unknown_flag(known: Iterable[str], word: str) -> UsageError:
    if not word.startswith("-"):
        return UsageError(f"{word!r} belongs to no flag (see --help)")
    flag = word.partition("=")[0]
    near = difflib.get_close_matches(flag, known, 1)
    meant = f"; did you mean {near[0]}?" if near else " (see --help)"
    return UsageError(f"{flag}: no such flag{meant}")


def take_options(
    settings: argparse.Namespace, registry: dict[str, type], chosen: str, notes: list[str]
) -> dict[str, object]:
    """Move a registry's options off the settings; return those that the chosen entry takes."""
    taken = {}
    for name in {name: None for cls in registry.values() for name in options_of(cls)}:
        if not hasattr(settings, name):
            continue
        value = getattr(settings, name)
        delattr(settings, name)
        if name in options_of(registry[chosen]):
            taken[name] = value
        else:
            notes.append(f"--{name.replace('_', '-')} has no effect with {chosen}")
    defaults = {name: default for name, (_, default, _) in options_of(registry[chosen]).items()}
    return defaults | taken
