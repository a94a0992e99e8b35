"""The published study's own command lines (Arazo et al. 2021), taken unchanged."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from .flags import Parser
from .values import Convert, number, one_of

#: Names that the published study's train.py gives to the same flags.
FLAGS = {
    "--epoch": "--epochs",
    "--wd": "--weight-decay",
    "--M": "--milestones",
    "--gamma-scheduler": "--gamma",
    "--seed-initialization": "--seed",
    "--seed-dataset": "--data-seed",
    "--train-root": "--data-dir",
    "--randaugm-N": "--randaugment-n",
    "--randaugm-M": "--randaugment-m",
    "--warmup-epochs": "--uniform-epochs",  # our own former name
    "--SB-sensitivity": "--sb-beta",
    "--SB-strategy": "--sb-strategy",
    "--SB-init": "--sb-init",
}
#: Flags of the published train.py that have no counterpart here: accepted, and said to do nothing.
WITHOUT_EFFECT = {
    "--cuda-dev": "choose the device with --device",
    "--num-workers": "there are no loader processes",
    "--pre-load": "images are kept in memory where they fit, see --resident-limit",
    "--download": "missing data sets are always downloaded",
    "--test-batch-size": "the evaluation's batch size does not change its result",
    "--sb-strategy": "there is one selective-backprop",
    "--sb-init": "everything is kept until 1,024 losses are known",
}
#: Values of the published train.py and ours. CE, its default augmentation, is none beyond the
#: standard one; at None, its default method, it stops with an error before it has a subset to draw.
VALUES = {
    "method": {"selective_backpropagation": "selective-backprop", "None": "SGD"},
    "augmentation": {"CE": "standard", "RICAP": "ricap"},
}
SCHEDULES = {"standard": "step"}


def add_flags(parser: Parser) -> None:
    """Accept, without listing them, the published flags that are not renamed ones of ours."""
    hidden: dict[str, Any] = dict(default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for flag in WITHOUT_EFFECT:
        parser.add_argument(flag, **hidden)
    parser.add_argument("--validation-exp", type=one_of(["True", "False"]), **hidden)
    parser.add_argument("--val-samples", type=number(int, low=1), **hidden)
    schedules = one_of(["linear", "step"], SCHEDULES)
    parser.add_argument("--scheduler-type", type=schedules, **hidden)
    parser.add_argument("--c-sgd-warmup", type=number(int, low=0), **hidden)


def with_aliases(convert: Convert, aliases: Mapping[str, str]) -> Convert:
    """Return a converter that also takes other names for some values."""
    return lambda text: convert(aliases.get(text, text))


def canonical(word: str) -> str:
    """A word of the command line with a published flag replaced by ours."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    flag = flag.replace("_", "-")
    return FLAGS.get(flag, flag) + equals + value


def drop_without_effect(settings: argparse.Namespace) -> list[str]:
    """Remove flags that do nothing here; a note on each."""
    notes = []
    for flag, reason in WITHOUT_EFFECT.items():
        name = flag[2:].replace("-", "_")
        if hasattr(settings, name):
            delattr(settings, name)
            notes.append(f"{flag} has no effect: {reason}")
    return notes


#: Flags that say the same, of which a command line has its own way whatever a file says.
PARTNERS = (
    {"--schedule", "--scheduler-type"},
    {"--uniform-epochs", "--c-sgd-warmup"},
    {"--validation", "--validation-exp", "--val-samples"},
)


def take_validation(settings: argparse.Namespace, notes: list[str]) -> None:
    """The study writes `--validation_exp True --val_samples N` for our `--validation N`."""
    given = vars(settings)
    wanted, count = given.pop("validation_exp", "False"), given.pop("val_samples", None)
    if wanted == "True":
        settings.validation = 5000 if count is None else count
    elif count is not None:
        notes.append("--val-samples has no effect without --validation-exp True")


def take_schedule(settings: argparse.Namespace, notes: list[str]) -> None:
    """The study writes `--scheduler_type` for our `--schedule`, and has no default milestones."""
    schedule = vars(settings).pop("scheduler_type", None)
    if schedule is None:
        return
    settings.schedule = schedule
    if schedule == "step" and settings.milestones is None:
        settings.milestones = []
        notes.append(
            "--scheduler-type step without --M: the learning rate stays constant, as published; "
            "--schedule step has default milestones"
        )


def take_warmup(settings: argparse.Namespace, notes: list[str]) -> None:
    """The study writes `--c_sgd_warmup K` for our `--uniform-epochs`."""
    epochs = vars(settings).pop("c_sgd_warmup", None)
    if epochs is not None:
        settings.uniform_epochs = epochs
        notes.append(
            f"--c-sgd-warmup {epochs}: {epochs} uniform epochs, as --uniform-epochs {epochs}; the "
            f"published code makes {max(epochs - 1, 0)} of them, for it tests epoch < {epochs}"
        )
