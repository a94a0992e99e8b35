"""The command line of train.py: flags made from the settings of `RunConfig` and from options."""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import UsageError, as_flags, exit_status_of, is_first_of_machine, say

from . import own
from .options import Option
from .values import converter

if typing.TYPE_CHECKING:
    from .config import RunConfig


LISTS = ("methods", "augmentations", "datasets", "models", "scores")


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return "--" + name.replace("_", "-")


def off(flag: str) -> str:
    """Return the flag that turns off what another, which there is not, would turn on."""
    return f"--no-{flag.removeprefix('--')}"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`s of one line."""

    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(message.removeprefix("argument ") + " (see --help)")

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        """Convert a value; what a converter says is shown as it is, which argparse would not."""
        try:
            return self._registry_get("type", action.type, action.type)(text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise argparse.ArgumentError(action, str(error)) from None

    def known_flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]


class ListParts(argparse.Action):
    """Prints what there is of a kind, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any, **_: Any) -> None:
        from .listing import list_parts

        print(list_parts(given[1]))
        parser.exit()


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


#: Flags of other programs, and what does the same here.
ELSEWHERE = {
    "--gpu": "--device cuda",
    "--cuda": "--device cuda",
    "--cpu": "--device cpu",
    "--fp16": "--amp fp16",
    "--workers": "--num-threads",
    "--num-workers": "--num-threads",
    "--output-dir": "--results-dir",
    "--coreset-keep": "--coreset-select top or bottom",
    "--optimizer": "--lr, --momentum and --weight-decay: there is SGD only",
    **{f"--list-{kind}": f"--list {kind}" for kind in LISTS},
}


def unknown_flag(known: Iterable[str], word: str) -> UsageError:
    if (flag := word.partition("=")[0]) in ELSEWHERE:
        return UsageError(f"{flag}: no such flag; give {ELSEWHERE[flag]}")
    if not word.startswith("-"):
        return UsageError(f"{word!r}: unexpected argument (see --help)")
    flag = word.partition("=")[0]
    near = difflib.get_close_matches(flag, known, 1)
    meant = f"; did you mean {near[0]}?" if near else " (see --help)"
    return UsageError(f"{flag}: no such flag{meant}")


def build_parser() -> Parser:
    """Return the parser of train.py's command line, with the options of own parts seen so far."""
    return parser_with(tuple(own.SEEN))


@functools.cache
def parser_with(own_parts: tuple[tuple[str, str], ...]) -> Parser:
    from . import published
    from .config import OPTIMIZER, REGISTRIES, RUN, TASK

    parser = Parser(
        prog="train.py",
        description="Train a network on images under a budget of iterations and log its accuracy "
        "curve to RESULTS_DIR/EXPERIMENT_NAME/curve.csv. Without arguments: a small network on "
        "scikit-learn's digits, which needs no download.",
        epilog="The flags of the published study's train.py (--epoch, --wd, --num_classes, ...) "
        "are accepted too.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings from a TOML file, such as a run's run.toml; other flags take precedence",
    )
    parser.add_argument(
        "--list",
        choices=LISTS,
        metavar="KIND",
        action=ListParts,
        help=f"list what is available of a kind, and exit: {', '.join(LISTS)}",
    )
    add_settings(parser, TASK)
    add_settings(parser, OPTIMIZER)
    for axis, registry in REGISTRIES.items():
        add_options(parser, f"options of {axis}s", registry.values())
    for axis, name in own_parts:
        if axis in REGISTRIES:
            add_own_options(parser, name, REGISTRIES[axis][name])
    add_settings(parser, RUN)
    published.add_flags(parser)
    return parser


def add_own_options(parser: Parser, name: str, options: Mapping[str, Option]) -> None:
    """Add the options of a user's own part, but for those that another part has, too."""
    from .config import SETTINGS

    taken = sorted(options.keys() & SETTINGS.keys())
    if taken:
        raise UsageError(f"{name}: train.py has a flag --{taken[0]}; name the option otherwise")
    known = parser.known_flags()
    new = {key: option for key, option in options.items() if flag_of(key) not in known}
    add_options(parser, f"options of {own.label(name)}", [new])


def add_settings(parser: Parser, title: str) -> None:
    """Add a group of flags, one for each setting of that title."""
    from . import published
    from .config import SETTINGS, converter_of, kind_of

    group = parser.add_argument_group(title)
    metavars = {int: "N", float: "X", str: "NAME", list: "NAME,..."}
    for name, each in SETTINGS.items():
        facts, kind = each.metadata, kind_of(name)
        if facts["group"] != title:
            continue
        common: dict[str, Any] = dict(
            dest=name, default=each.default, help=help_text(facts["help"])
        )
        if kind is bool:
            switch = "store_false" if each.default else "store_true"
            flag = off(flag_of(name)) if each.default else flag_of(name)
            group.add_argument(flag, action=switch, **common)
            continue
        convert = converter_of(name)
        if name in published.VALUES:
            convert = published.with_aliases(convert, published.VALUES[name])
        common |= dict(type=convert, metavar=facts.get("metavar", metavars[kind]))
        if "optional_value" in facts:
            common |= dict(nargs="?", const=facts["optional_value"])
        if facts.get("several"):
            common |= dict(nargs="+", action="extend")
        offer(group.add_argument(flag_of(name), **common), facts.get("choices", ()))


def help_text(text: str) -> str:
    """A text of a setting as argparse takes it."""
    return as_flags(text).replace("%", "%%")


def add_options(parser: Parser, title: str, parts: Iterable[Mapping[str, Option]]) -> None:
    """Add a group of flags, one for each option that any of some parts has."""
    group = parser.add_argument_group(title)
    declared = {name: option for options in parts for name, option in options.items()}
    for name, (kind, default, facts) in declared.items():
        help_ = help_text(facts["help"])
        if default is not None and kind is not bool and "default" not in help_:
            help_ += f" [default: {default}]"
        # Absent unless given, so that the constructor alone holds the default.
        common: dict[str, Any] = dict(default=argparse.SUPPRESS, help=help_)
        if kind is bool and default is True:
            common |= dict(action="store_false", dest=name)
            group.add_argument(off(flag_of(name)), **common)
        elif kind is bool:
            group.add_argument(flag_of(name), action="store_true", **common)
        else:
            metavar = facts.get("metavar", {int: "N", float: "X", str: "NAME"}[kind])
            convert = converter(kind, facts)
            action = group.add_argument(flag_of(name), type=convert, metavar=metavar, **common)
            offer(action, facts.get("choices", ()))


def offer(action: argparse.Action, names: Iterable[str]) -> None:
    """Let a shell complete a flag's value to one of some names."""
    if names:
        setattr(action, "completer", lambda **_: list(names))  # noqa: B010 - argcomplete's own


def complete(make_parser: Callable[[], Parser]) -> None:
    """Answer a shell that asks how a command line may go on, and exit; see docs/running.md."""
    if "_ARGCOMPLETE" in os.environ:  # set by argcomplete's part in the shell
        import argcomplete

        argcomplete.autocomplete(make_parser())


def take_options(
    given: dict[str, Any],
    parts: Mapping[str, Mapping[str, Option]],
    chosen: str,
    notes: list[str],
) -> dict[str, Any]:
    """Move the options of some parts off what is given; return those that the chosen one takes."""
    taken = {}
    for name in {name: None for options in parts.values() for name in options}:
        if name not in given:
            continue
        value = given.pop(name)
        if name in parts[chosen]:
            taken[name] = value
        else:
            notes.append(f"`{name}` has no effect with {own.label(chosen)}")
    return taken


def note_own_parts(words: Sequence[str]) -> None:
    """Remember the parts of a user's own that a command line names, whose options are flags too."""
    from .registries import DATASETS

    for flag, following in zip(words, [*words[1:], ""]):
        axis, equals, value = flag.removeprefix("--").partition("=")
        name = value if equals else following
        if flag.startswith("--") and axis in own.WANTED and not DATASETS.family(name):
            try:
                own.note(axis, name)
            except ValueError as error:
                raise UsageError(f"--{axis}: {error}") from None


def with_file(words: Sequence[str]) -> list[str]:
    """Put the settings of the file that `--config` names before what the command line says."""
    from .published import PARTNERS
    from .settings_file import words_of_file

    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--config":
            rest = [*words[:place], *words[place + (1 if equals else 2) :]]
            file = value if equals else next(iter(words[place + 1 :]), None)
            given = {other.partition("=")[0] for other in rest}
            if not file or "--config" in given:
                raise UsageError("--config: give one TOML file")
            given |= {flag for same in PARTNERS if same & given for flag in same}
            return [*words_of_file(Path(file), given), *rest]
    return list(words)


def without(words: Sequence[str], flags: Collection[str]) -> Iterator[str]:
    """Leave out some flags with the values that follow them."""
    left_out = False
    for word in words:
        if word.startswith("--"):
            left_out = word in flags
        if not left_out:
            yield word


def parse(arguments: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Read and check a command line of train.py.

    Args:
        arguments: without the program's name; our flags or the published study's.

    Returns:
        The configuration, resolved; and notes on flags that have no effect, a line each.

    Raises:
        UsageError: naming the flag and the remedy.
    """
    from . import published
    from .config import REGISTRIES, RunConfig

    words = with_file([published.canonical(word) for word in arguments])
    note_own_parts(words)
    parser = build_parser()
    found, unknown = parser.parse_known_args(words)
    if unknown:
        raise unknown_flag(parser.known_flags(), unknown[0])
    notes = published.drop_without_effect(found)
    published.take_validation(found, notes)
    published.take_schedule(found, notes)
    published.take_warmup(found, notes)
    given = vars(found)
    for name in ("config", "list"):
        del given[name]
    for axis, registry in REGISTRIES.items():
        parts = {**registry, **own.options(axis)}
        given[f"{axis}_options"] = take_options(given, parts, given[axis], notes)
    try:
        config, more = RunConfig(**given).resolved()
    except UsageError as error:
        raise UsageError(as_flags(str(error))) from None
    return config, [as_flags(note) for note in (*notes, *more)]


def main(arguments: list[str]) -> int:
    """Make one run, as `python train.py ARGUMENTS`.

    Returns:
        The exit status: 0, or that of the error, which is said in one line.
    """

    complete(build_parser)

    def work() -> int:
        config, notes = parse(arguments)
        for note in notes if is_first_of_machine() else ():
            say(f"note: {note}")
        from .driver import run  # imports PyTorch, which takes seconds: flags are refused before

        run(config)
        return 0

    return exit_status_of("train.py", work)
