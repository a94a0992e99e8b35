"""The configuration of a run: every setting with its default, unit and source, said once.

Flags, their help, config.json, a run's identity and a sweep's checks are made from these fields.
Texts name a setting in backticks; a command line shows its flag instead.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import UsageError

from . import own
from .cadence import Cadence
from .options import Option, plain_kind
from .registries import AUGMENTATIONS, DATASETS, METHODS, RECORDED
from .trackers import PACKAGES as TRACKERS
from .values import Convert, converter, quoted

STUDY = "Arazo et al. 2021"
MODEL, EPOCHS = "resnet18", 200  # the study's; some data sets have others of their own
#: Networks of models.py: blocks per stage, and base width. The study's is the first.
RESNETS = {
    MODEL: ((2, 2, 2, 2), 64),
    "resnet18-w16": ((2, 2, 2, 2), 16),
    "resnet10-w32": ((1, 1, 1, 1), 32),
    "resnet10-w24": ((1, 1, 1, 1), 24),
    "resnet10-w16": ((1, 1, 1, 1), 16),
    "resnet10-w8": ((1, 1, 1, 1), 8),
}
GAMMA = 0.1
TABLES = ("classes", "labels", "groups")  # settings that name a file on images
RECORD_EPOCHS = 10
SEED = dict(low=0, high=2**32 - 1)

TASK = "what is trained"
OPTIMIZER = "budget and optimizer (SGD)"
RUN = "where and how it runs"


def setting(default: object, help_: str, group: str, **facts: Any) -> Any:
    """Declare a setting.

    Args:
        default: its value unless given; None where that depends on others, as `help_` then says.
        help_: what it is, its unit and its source.
        group: title under which the help lists it.
        facts: bounds and choices, see `values.converter`; `metavar` in the help; `optional_value`
            of a flag without value; `of_data` for what decides which images there are; `tunable`
            for what may be tuned for each method apart; `where` for what says where or how a run
            is made and not what it computes.
    """
    return field(default=default, metadata=dict(help=help_, group=group, **facts))


def own_defaults(name: str) -> str:
    """Return, for a help text, the defaults of data sets that have one of their own."""
    own = {dataset: getattr(defaults, name) for dataset, defaults in DATASETS.items()}
    return "".join(f", for {dataset} {value}" for dataset, value in own.items() if value)


def dataset_names() -> list[str]:
    """Return the names of data sets, with what is to follow those that take an argument."""
    return [f"{name}:{each.argument}" if each.argument else name for name, each in DATASETS.items()]


def tunable_settings() -> list[str]:
    """Return what a method may be tuned by: the optimizer's settings, and options with a value."""
    of_own = [declared for axis in REGISTRIES for declared in own.options(axis).values()]
    options = {
        name: None
        for declared in (*METHODS.values(), *AUGMENTATIONS.values(), *of_own)
        for name, (kind, _, facts) in declared.items()
        if kind is not bool and "needed" not in facts
    }
    return [*settings_with("tunable"), *options]


def file_path(text: str) -> str:
    """Return a file's absolute path, by which it is found from elsewhere; `folders` is none."""
    return text if text == "folders" else str(Path(text).expanduser().absolute())


def cadence_text(text: str) -> str:
    """Check how often checkpoints are to be written; a ValueError says what is wrong."""
    return Cadence(text).text


@dataclass
class RunConfig:
    """All settings of a run.

    Where the type allows no None, a default of None stands for what other settings decide;
    `resolved` fills it in and checks all.
    """

    method: str = setting(
        "SGD",
        f"how the budget is spent: {', '.join(METHODS)}; or a class of your own, FILE.py:CLASS",
        TASK,
        choices=METHODS,
        own=True,
    )
    augmentation: str = setting(
        "standard",
        f"{', '.join(AUGMENTATIONS)}; or a class of your own, FILE.py:CLASS; randaugment's and "
        "trivialaugment's operations, ranges and signs are torchvision's",
        TASK,
        choices=AUGMENTATIONS,
        own=True,
    )
    dataset: str = setting(
        "digits",
        f"{', '.join(dataset_names())}; or FILE.py:FUNCTION of your own; folder is "
        "DATA_DIR/train/CLASS/IMAGE and test/ or val/ alike",
        TASK,
        choices=DATASETS,
        own=True,
        of_data=True,
    )
    num_classes: int | None = setting(
        None,
        "classes of the data set; only checked, since the data say it",
        TASK,
        low=2,
        of_data=True,
        where=True,
    )
    image_size: int | None = setting(
        None,
        "folder, torchvision, hf and mini-imagenet: height and width to resize images to; default "
        "84 for mini-imagenet, else all images must have one size",
        TASK,
        low=4,
        high=4096,
        metavar="PIXELS",
        of_data=True,
    )
    cache: str = setting(
        "uint8",
        "folder: uint8 keeps all images decoded and resized; jpeg keeps the files' bytes in one "
        "packed file, for data too large to store decoded, and decodes a random-resized crop of "
        "each image whenever it is trained on (Szegedy et al. 2015), the centre in evaluation",
        TASK,
        choices=("uint8", "jpeg"),
        of_data=True,
    )
    classes: str | None = setting(
        None,
        "keep the classes that a text file names, one in a line",
        TASK,
        metavar="FILE",
        convert=file_path,
        of_data=True,
    )
    labels: str | None = setting(
        None,
        "labels of the training images from a CSV with columns image (its number from 0, of folder "
        "its path in train/) and label, or from an array .npy; the test set keeps its own",
        TASK,
        metavar="FILE",
        convert=file_path,
        of_data=True,
    )
    groups: str | None = setting(
        None,
        "report the accuracy over groups of images too: a CSV with columns part (train or test), "
        "image and group; or the word folders, for the folders inside of each class's (folder)",
        TASK,
        metavar="FILE",
        convert=file_path,
        of_data=True,
    )
    train_images: int | None = setting(
        None,
        "train on a random class-balanced subset of N images, fixed by `data_seed` and taken "
        "before `imbalance`, `label_noise` and `validation`",
        TASK,
        low=1,
        of_data=True,
    )
    validation: int | None = setting(
        None,
        "hold out N training images and evaluate on them instead of the test set; 5000 if N is "
        f"left out ({STUDY}). Class-balanced; with `imbalance` in the proportions of the classes, "
        "and with `label_noise` the labels held out are as noisy as those trained on",
        TASK,
        low=1,
        optional_value=5000,
        of_data=True,
    )
    imbalance: float | None = setting(
        None,
        "train on fewer images of each class than of the one before it, in equal proportions, so "
        "that the first class has RATIO times as many as the last (Cui et al. 2019)",
        TASK,
        above=1,
        high=1_000_000,
        metavar="RATIO",
        of_data=True,
    )
    label_noise: float | None = setting(
        None,
        "give that fraction of the training images, in (0, 1), a wrong label, uniform over the "
        "other classes (Han et al. 2018); after `imbalance`, before `validation`; not of the test "
        "set",
        TASK,
        above=0,
        below=1,
        metavar="FRACTION",
        of_data=True,
    )
    model: str = setting(
        None,
        f"{', '.join(RESNETS)} (w: base width), any network of timm's, or FILE.py:FUNCTION of your "
        f"own; default {MODEL} ({STUDY}){own_defaults('model')}",
        TASK,
        convert=own.canonical_or_same,
    )

    budget: float = setting(
        1.0,
        "iterations per epoch, as a fraction of a full pass, in (0, 1]; or as 30%",
        OPTIMIZER,
        above=0,
        high=1,
        percent=True,
        metavar="FRACTION",
    )
    compute_budget: bool = setting(
        False,
        "count the budget in compute, not in steps: images that are only scored are paid for too, "
        "1 each where one trained on costs 3, so a method that scores makes fewer steps",
        OPTIMIZER,
    )
    count_scoring_run: bool = setting(
        False,
        "with `compute_budget`: the runs behind a score file are paid for out of the budget too; "
        "coreset and rho-loss train on what is left",
        OPTIMIZER,
    )
    epochs: int = setting(
        None,
        "budgeted epochs, each of floor(floor(budget * images) / batch size) steps; default "
        f"{EPOCHS} ({STUDY}){own_defaults('epochs')}",
        OPTIMIZER,
        low=1,
        high=1_000_000,
    )
    batch_size: int = setting(
        128,
        f"images per step ({STUDY}); at least 2, which batch normalisation needs",
        OPTIMIZER,
        low=2,
        high=1_000_000,
        tunable=True,
    )
    lr: float = setting(
        0.1,
        f"learning rate of the first step ({STUDY})",
        OPTIMIZER,
        above=0,
        high=1000,
        tunable=True,
    )
    momentum: float = setting(0.9, f"({STUDY})", OPTIMIZER, low=0, below=1, tunable=True)
    weight_decay: float = setting(
        1e-4, f"applied to all parameters ({STUDY})", OPTIMIZER, low=0, high=1000, tunable=True
    )
    schedule: str = setting(
        "linear",
        "learning-rate schedule: linear, to 1e-6 at the last step (Li et al. 2020), or step, times "
        "gamma at milestones",
        OPTIMIZER,
        choices=("linear", "step"),
        tunable=True,
    )
    milestones: list[int] = setting(
        None,
        "step schedule: epochs after which the learning rate is multiplied by gamma; by default at "
        "half and at three quarters of the run",
        OPTIMIZER,
        low=1,
        metavar="EPOCH",
        several=True,
        tunable=True,
    )
    gamma: float = setting(
        None,
        f"step schedule: factor of the learning rate at a milestone; default {GAMMA} ({STUDY})",
        OPTIMIZER,
        above=0,
        high=1,
        tunable=True,
    )

    seed: int = setting(1, "seed of the initial weights, sampling and augmentation", RUN, **SEED)
    data_seed: int = setting(
        42,
        "of splits: `validation`, and train/test of mini-imagenet; of the choices of "
        "`train_images`, `imbalance` and `label_noise`",
        RUN,
        **SEED,
        of_data=True,
    )
    data_dir: str = setting(
        "datasets",
        "where data sets lie, are downloaded to and their decoded images cached",
        RUN,
        metavar="DIR",
        of_data=True,
        where=True,
    )
    results_dir: str = setting(
        "results", "parent of the run's folder", RUN, metavar="DIR", where=True
    )
    experiment_name: str = setting(
        None,
        "the run's folder in RESULTS_DIR; default DATASET_METHOD_AUGMENTATION_bBUDGET_sSEED, with "
        "_nIMAGES, _imbalanceRATIO, _noiseFRACTION, _compute before _b where these are given",
        RUN,
        where=True,
    )
    overwrite: bool = setting(False, "replace a finished run of that name", RUN, where=True)
    resume: bool = setting(
        True,
        "do not resume an unfinished run of that name; with `overwrite`, start it afresh",
        RUN,
        where=True,
    )
    checkpoint_every: str = setting(
        "1",
        "epochs between checkpoints; or, for example, 500steps or 10minutes",
        RUN,
        convert=cadence_text,
        metavar="N",
        where=True,
    )
    eval_every: int = setting(
        1, "epochs between evaluations; the last epoch is always evaluated", RUN, low=1, where=True
    )
    record: list[str] | None = setting(
        None,
        f"record per-example statistics of training, any of {', '.join(RECORDED)}, in scores.npz "
        "in the run's folder, for `coreset_file`; changes nothing else",
        RUN,
        choices=RECORDED,
        where=True,
    )
    record_epochs: int = setting(
        None,
        "el2n of `record`: mean over the visits of the first N budgeted epochs; default "
        f"{RECORD_EPOCHS}",
        RUN,
        low=1,
        where=True,
    )
    tuned: list[str] | None = setting(
        None,
        "note that the values of these settings were chosen by trials on held-out images, as "
        "sweep.py `tune` does; changes nothing else, and tables say tuned",
        RUN,
        convert=lambda text: tuned_names(text),
    )
    log: list[str] | None = setting(
        None,
        "show the curve's numbers in trackers too: tensorboard (files in the run's folder), wandb "
        "(offline with WANDB_MODE=offline), mlflow; each has to be installed",
        RUN,
        choices=TRACKERS,
        where=True,
    )
    tensorboard: bool = setting(False, "`log` tensorboard", RUN, where=True)
    device: str = setting(
        "auto", "cpu, cuda, cuda:1, ...; auto is cuda where there is one", RUN, where=True
    )
    amp: str = setting(
        "auto",
        "automatic mixed precision: bf16, fp16 (with loss scaling; a step that overflows is made "
        "again with half the scale) or off, which is float32 (TF32 on CUDA); auto is bf16 where "
        "the processor gains from it, a GPU that has it or a CPU with AMX or AVX512-BF16 (unless "
        "`compile` is given: a CPU does not take both)",
        RUN,
        choices=("auto", "off", "bf16", "fp16"),
    )
    compile: bool = setting(
        False,
        "compile the network with torch.compile first (CUDA graphs on a GPU); the time is in "
        "config.json, not in the curve",
        RUN,
    )
    sync_batchnorm: bool = setting(
        False,
        "CUDA, several processes: normalise over the batch of all, not each process over its own "
        "part",
        RUN,
    )
    resident_limit: float | None = setting(
        None,
        "data sets larger than this stay on disk, from where a thread reads the next batches "
        "ahead; default: half the memory of the device",
        RUN,
        low=0,
        metavar="GIB",
        where=True,
    )
    deterministic: bool = setting(
        False,
        "CUDA: only deterministic algorithms, so that results repeat bit for bit, more slowly",
        RUN,
    )
    num_threads: int | None = setting(
        None,
        "CPU threads; default: as many as PyTorch takes, one per core",
        RUN,
        low=1,
        high=4096,
        where=True,
    )
    method_options: dict[str, Any] = field(default_factory=dict)
    augmentation_options: dict[str, Any] = field(default_factory=dict)

    def resolved(self) -> tuple[RunConfig, list[str]]:
        """Return this configuration checked and complete, and notes on what has no effect.

        Resolving what is resolved changes nothing.

        Raises:
            UsageError: naming the setting and the remedy.
        """
        try:
            config = RunConfig(**checked(vars(self)))
        except ValueError as error:
            raise UsageError(str(error)) from None
        for name, value in vars(config).items():
            if isinstance(value, str) and re.search("[\ud800-\udfff]", value):  # of other bytes
                raise UsageError(f"`{name}` {value!a}: not UTF-8; rename it")
        notes: list[str] = []
        of_data = DATASETS[config.dataset]
        if config.image_size and not of_data.resizes:
            raise UsageError(f"`image_size`: {config.dataset} has a size of its own; leave it out")
        if config.cache == "jpeg" and config.dataset != "folder":
            raise UsageError("`cache` jpeg: only of folder; leave it out")
        if config.cache == "jpeg" and not config.image_size:
            raise UsageError("`cache` jpeg: crops need a size; give `image_size`, such as 224")
        if config.model is None:
            config.model = of_data.model or MODEL
        if config.epochs is None:
            config.epochs = of_data.epochs or EPOCHS
        check_scoring_run(config, notes)
        check_schedule(config, notes)
        recorded = config.record_epochs not in (None, RECORD_EPOCHS)
        if recorded and "el2n" not in (config.record or ()):
            notes.append("`record_epochs` has no effect without `record` el2n")
            config.record_epochs = RECORD_EPOCHS
        config.record_epochs = config.record_epochs or RECORD_EPOCHS
        if config.tensorboard and "tensorboard" not in (config.log or ()):
            config.log = [*(config.log or ()), "tensorboard"]
        if config.experiment_name is None:
            config.experiment_name = default_name(config)
        return config, notes


#: What the default name of a run says.
IN_DEFAULT_NAME = ["dataset", "method", "augmentation", "train_images", "imbalance"]
IN_DEFAULT_NAME += ["label_noise", "compute_budget", "budget", "seed"]


def default_name(config: RunConfig) -> str:
    images = f"_n{config.train_images}" if config.train_images else ""
    imbalance = f"_imbalance{config.imbalance:g}" if config.imbalance else ""
    noise = f"_noise{config.label_noise:g}" if config.label_noise else ""
    compute = "_compute" if config.compute_budget else ""
    dataset, method, augmentation = map(
        short_name, (config.dataset, config.method, config.augmentation)
    )
    return (
        f"{dataset}_{method}_{augmentation}{images}{imbalance}{noise}"
        f"{compute}_b{config.budget:g}_s{config.seed}"
    )


def short_name(name: str) -> str:
    """Return a part's name as folders have it: of a path or an argument its last part."""
    if own.is_own(name):
        return own.label(name)
    return re.sub(r"[^\w.+-]", "-", Path(name.rpartition(":")[2]).name) if ":" in name else name


def check_scoring_run(config: RunConfig, notes: list[str]) -> None:
    """Leave `count_scoring_run` on only where there are runs to count and a budget to pay from."""
    if not config.count_scoring_run:
        return
    options = METHODS[config.method].values()
    needs_scores = any("needed" in option.facts for option in options)
    if config.compute_budget and needs_scores:
        return
    config.count_scoring_run = False
    reason = config.method if config.compute_budget else "a budget of steps"
    notes.append(f"`count_scoring_run` has no effect with {reason}")


def check_schedule(config: RunConfig, notes: list[str]) -> None:
    """Leave the milestones of the step schedule in order, and none for the linear one."""
    linear = config.schedule == "linear"
    if linear:
        if config.milestones:
            notes.append("`milestones` has no effect with `schedule` linear")
        config.milestones = []
    elif config.milestones is None:
        config.milestones = sorted({config.epochs // 2, config.epochs * 3 // 4} - {0})
    if config.gamma not in (None, GAMMA) and not config.milestones:
        reason = "with `schedule` linear" if linear else "without milestones"
        notes.append(f"`gamma` has no effect {reason}")
        config.gamma = GAMMA
    config.gamma = config.gamma or GAMMA
    if not config.milestones:
        return
    given = " ".join(map(str, config.milestones))
    if any(a >= b for a, b in zip(config.milestones, config.milestones[1:])):
        raise UsageError(
            f"`milestones` {given}: out of order; give each epoch once, smallest first"
        )
    if config.milestones[-1] > config.epochs:
        raise UsageError(f"`milestones` {given}: the run ends after `epochs` {config.epochs}")


#: The settings by name, the two tables of options left out.
SETTINGS: dict[str, dataclasses.Field[Any]] = {
    each.name: each for each in dataclasses.fields(RunConfig) if "help" in each.metadata
}
REGISTRIES = {"method": METHODS, "augmentation": AUGMENTATIONS}


def settings_with(role: str) -> list[str]:
    """Return the settings that are declared to have a role, such as `where`."""
    return [name for name, each in SETTINGS.items() if each.metadata.get(role)]


@functools.cache
def kind_of(name: str) -> type:
    """Return the type of a setting: int, float, bool, str or list."""
    return plain_kind(typing.get_type_hints(RunConfig)[name])


def converter_of(name: str) -> Convert:
    """Return what makes a value of a setting of its text; of a list of numbers, one of these."""
    facts = SETTINGS[name].metadata
    return converter(int if facts.get("several") else kind_of(name), facts)


def tuned_names(text: str) -> list[str]:
    """Convert names of tunable settings, spelt as flags, separated by commas."""
    names = [name.replace("_", "-") for name in tunable_settings()]
    return converter(list, dict(choices=names))(text)


def consequential(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a run's settings that say what it computes, not where or how it is made.

    Files on images have their names alone: what they hold counts, not where they lie.
    """
    incidental = settings_with("where")
    kept = {name: value for name, value in settings.items() if name not in incidental}
    return kept | {name: Path(kept[name]).name for name in TABLES if kept.get(name)}


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return in words the settings that are not the same."""
    return [
        f"{name} {theirs.get(name)} and {ours.get(name)}"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with each value of the right type and within its bounds.

    Missing options of the method and the augmentation get their defaults.

    Raises:
        ValueError: naming the setting and what is wrong.
    """
    values = dict(settings)
    for name in SETTINGS.keys() & settings.keys():
        values[name] = check_setting(name, settings[name])
    for axis, registry in REGISTRIES.items():
        key, chosen = f"{axis}_options", values[axis]
        values[key] = check_options(key, chosen, registry[chosen], values[key])
    return values


def check_setting(name: str, value: object) -> Any:
    facts, label = SETTINGS[name].metadata, f"`{name}`"
    if value is None and SETTINGS[name].default is None:
        return None
    if kind_of(name) is bool:
        return as_bool(label, value)
    if isinstance(value, str) and (name in TABLES or own.is_own(value)):
        value = as_text(label, converter_of(name), value)  # a file's absolute path
    if not facts.get("several"):
        return as_converted(label, converter_of(name), value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{label}: {quoted(value)} is not a list")
    return [as_converted(label, converter_of(name), each) for each in value]


def check_options(
    key: str, chosen: str, declared: Mapping[str, Option], given: object, absent: str = "default"
) -> dict[str, Any]:
    """Return the options of a method or augmentation, checked, with those not given.

    Args:
        key: name of the setting.
        chosen: name of the method or augmentation, and the options that it has `declared`.
        given: name -> value.
        absent: what an option that is not given is: its default, or, of a run of an older version,
            what was done before there was the option.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"`{key}`: {quoted(given)} is not a table of names and values")
    for name in given.keys() - declared.keys():
        raise ValueError(f"`{key}`: {quoted(name)} is not an option of {chosen}")
    options: dict[str, Any] = {}
    for name, (kind, default, facts) in declared.items():
        unset = facts.get("before", default) if absent == "before" else default
        value, label = given.get(name, unset), f"`{key}`: {name}"
        if value is None and default is None:
            options[name] = None
        elif kind is bool:
            options[name] = as_bool(label, value)
        else:
            options[name] = as_converted(label, converter(kind, facts), value)
    return options


def as_bool(label: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{label}: {quoted(value)} is not true or false")
    return value


def as_text(label: str, convert: Convert, text: str) -> Any:
    """Return what a converter makes of a text; its ValueError begins with the label."""
    try:
        return convert(text)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def as_converted(label: str, convert: Convert, value: object) -> Any:
    """Return what a converter makes of a value's text, which has to be that value.

    So a text in a number's place is wrong even where it is the number's digits.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    converted = json.loads(json.dumps(as_text(label, convert, text)))
    if converted != value or "\0" in text:
        if isinstance(value, str) and isinstance(converted, str) and converted != value:
            raise ValueError(f"{label}: {quoted(value)} is written {quoted(converted)}")
        raise ValueError(f"{label}: {quoted(value)} is of the wrong type")
    return converted
