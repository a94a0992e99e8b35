"""Options of methods and augmentations, declared once: at their constructors."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import NamedTuple

from errors import UsageError


class Option(NamedTuple):
    """A keyword argument of a constructor, annotated as `Annotated[type, dict(help=...)]`.

    Or as a type alone, without help and bounds.
    """

    kind: type  # int, float, bool or str
    default: typing.Any
    facts: Mapping[str, typing.Any]  # help, bounds, choices, ..., see `methods.Method`


def options_of(constructor: type) -> dict[str, Option]:
    """Return the options of a method or augmentation by name.

    They are those of its constructor and, where it passes on others, of its base classes'.

    Raises:
        UsageError: for an argument that no flag can be made of.
    """
    options: dict[str, Option] = {}
    for owner in constructor.__mro__:
        make = vars(owner).get("__init__")
        if make is None:
            continue
        hints = typing.get_type_hints(make, include_extras=True)
        parameters = inspect.signature(make).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in options:
                options[parameter.name] = option_of(owner, parameter, hints.get(parameter.name))
            elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD and has_default(parameter):
                raise UsageError(
                    f"{owner.__name__}: argument {parameter.name}: put a * before it, so that it "
                    "becomes a flag"
                )
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return options


def has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty


def option_of(owner: type, parameter: inspect.Parameter, hint: object) -> Option:
    """Return the option that an annotated keyword argument declares."""
    annotated: object = hint
    facts: Mapping[str, typing.Any] = {}
    if typing.get_origin(hint) is typing.Annotated:
        annotated, facts = typing.get_args(hint)[:2]
    try:
        if has_default(parameter):
            return Option(plain_kind(annotated), parameter.default, {"help": "", **facts})
    except (StopIteration, TypeError):
        pass
    raise UsageError(
        f"{owner.__name__}: argument {parameter.name}: annotate it as int, float, bool or str, or "
        "as Annotated[float, dict(help=..., low=..., high=...)], and give it a default"
    )


def plain_kind(annotated: object) -> type:
    """Return int, float, bool, str or list, of an annotation that may also allow None."""
    kinds = [typing.get_origin(each) or each for each in typing.get_args(annotated)]
    if typing.get_origin(annotated) is list or not kinds:
        kinds = [typing.get_origin(annotated) or annotated]
    return next(kind for kind in kinds if kind in (int, float, bool, str, list))


def values_before(options: Mapping[str, Option]) -> dict[str, object]:
    """Return what versions without some of the options did in their place: name -> value."""
    return {name: each.facts.get("before", each.default) for name, each in options.items()}


def require_options(options: Mapping[str, Option], values: Mapping[str, object]) -> None:
    """Refuse values of options where one that has to be given is not."""
    for name, option in options.items():
        if "needed" in option.facts and values[name] is None:
            raise UsageError(f"`{name}`: not given; it is {option.facts['needed']}")
