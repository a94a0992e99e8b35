"""Build the data and the trainer of a run from its settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from augmentations import AUGMENTATIONS, Augmentation
from data import (
    DATASETS,
    Dataset,
    PackedRows,
    Source,
    check_dataset,
    class_balanced_subset,
    grouped,
    hold_out,
    long_tailed,
    relabelled,
    with_classes,
    with_label_noise,
)
from errors import RunError, UsageError
from methods import METHODS, Method, OptionError, Task
from methods.scores import RECORDED, Recorder, Recording
from methods.scores.file import HOW

from . import own
from .budget import TRAINING_COST, Budget, check_steps, linear_rate, step_rate
from .config import RESNETS, RunConfig
from .distributed import ALONE, World
from .evaluation import Evaluator
from .images import memory
from .loader import Loader
from .models import classifier_of, create_model
from .network import Network, choose_precision
from .options import options_of, require_options
from .trainer import Trainer

SOURCE = ("dataset", "data_dir", "data_seed", "image_size", "cache")
#: Sets of data that stay in memory, for the many runs of a process or of its forks.
KEPT: dict[tuple[object, ...], Dataset] = {}
TOO_LARGE: set[tuple[object, ...]] = set()  # to be kept; as `source_of`
METHOD_SEED = 2  # keeps a method's draws apart from those of the loader, which uses 0 and 1


def build(
    settings: RunConfig, dataset: Dataset, device: torch.device, world: World = ALONE
) -> Trainer:
    """Build the trainer of a run that is at its start."""
    world.check_batch_size(settings.batch_size)
    task = task_of(settings, dataset, device)
    torch.manual_seed(settings.seed)  # so that all methods start from the same weights
    channels, *size = dataset.train_images.shape[1:]
    model = create_model(settings.model, channels, len(dataset.classes), tuple(size))
    network = Network(
        # The order of memory for which the kernels of convolutions in bf16 are made. PyTorch's
        # types do not know the argument.
        model.to(device).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        device,
        precision=choose_precision(settings.amp, device, settings.compile),
        compiled=settings.compile,
        sync_batchnorm=settings.sync_batchnorm and world.size > 1,
        world=world,
    )
    augmentation = create_augmentation(settings, *size)
    method = create_method(settings, task)
    if method.needs_features and not isinstance(classifier_of(model), nn.Module):
        raise UsageError(
            f"`model` {settings.model}: has no one last layer, by the input of which `method` "
            f"{settings.method} chooses; give another"
        )
    if settings.schedule == "linear":
        rate = partial(linear_rate, total=task.steps, first=settings.lr)
    else:
        milestones, gamma = settings.milestones, settings.gamma
        rate = partial(
            step_rate,
            per_epoch=task.steps_per_epoch,
            first=settings.lr,
            milestones=milestones,
            gamma=gamma,
        )
    return Trainer(
        network,
        method,
        Loader(dataset, augmentation, device, settings.seed, settings.resident_limit),
        Evaluator(dataset, device, settings.resident_limit),
        create_budget(settings, method),
        rate,
        settings.momentum,
        settings.weight_decay,
    )


def task_of(settings: RunConfig, dataset: Dataset, device: torch.device) -> Task:
    """Return the facts for the method; a UsageError where the budget is less than one step."""
    task = Task(
        dataset=settings.dataset,
        labels=dataset.train_labels,
        num_classes=len(dataset.classes),
        batch_size=settings.batch_size,
        budget=settings.budget,
        epochs=settings.epochs,
        device=device,
        seed=method_seed(settings.seed),
        data_sha256=dataset.sha256,
    )
    check_steps(task)
    return task


def method_seed(seed: int) -> int:
    """Return the seed of a method's own draws in a run of a seed."""
    return int(np.random.SeedSequence([seed, METHOD_SEED]).generate_state(1)[0])


def find(axis: str, registry: Mapping[str, Any], name: str) -> Any:
    """Return a registered part, or one of a user's own; a UsageError where that is none."""
    if name in registry:
        return registry[name]
    try:
        return own.load(axis, name)
    except ValueError as error:
        raise UsageError(f"`{axis}` {error}") from None


def create_augmentation(settings: RunConfig, height: int, width: int) -> Augmentation:
    """Create the augmentation; a UsageError where it does not fit images of that size."""
    constructor = find("augmentation", AUGMENTATIONS, settings.augmentation)
    augmentation = constructor(**settings.augmentation_options)
    try:
        augmentation.check(height, width)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return augmentation


def create_method(settings: RunConfig, task: Task) -> Method:
    """Create the method, which records per-example statistics where that is asked for."""
    constructor = find("method", METHODS, settings.method)
    options = settings.method_options
    require_options(options_of(constructor), options)
    try:
        method = constructor(task, **options)
    except OptionError as error:
        value = options[error.option]
        raise UsageError(f"`{error.option}` {value}: {error.reason}") from error
    if settings.record:
        if settings.compute_budget and method.num_candidates:
            raise UsageError(
                f"`record` goes by epochs of equal steps, which `method` {settings.method} does "
                "not make with `compute_budget`; leave one of them out"
            )
        recording: Any = Recording(method, create_recorders(settings, task))
        return recording  # in all that the loop asks, the method
    return method


def create_recorders(settings: RunConfig, task: Task) -> dict[str, Recorder]:
    """Create what `record` asks for; a UsageError where the run is too short for it."""
    names = settings.record or ()
    for name in names:
        least = RECORDED[name].least_epochs
        if task.epochs < least:
            raise UsageError(
                f"`record` {name}: needs {least} epochs and the run has {task.epochs}; raise "
                "`epochs`, or leave it out"
            )
    return {name: RECORDED[name](task, settings.record_epochs) for name in names}


def create_budget(settings: RunConfig, method: Method) -> Budget:
    """Create the budget, less what earlier runs have spent where that is to be counted."""
    task = method.task
    budget = Budget(task, settings.compute_budget)
    if not settings.count_scoring_run:
        return budget
    cost = method.scoring_cost
    if cost is None:
        raise UsageError(
            "`count_scoring_run`: the score file is of an older version and does not say what its "
            f"runs cost; make it again with {HOW}"
        )
    if budget.total - cost < TRAINING_COST * task.batch_size:
        raise UsageError(
            f"`count_scoring_run`: the runs behind the score file cost {cost:,} forward passes and "
            f"the budget is {budget.total:,}, so nothing is left to train with; raise `budget` or "
            "`epochs`, or give scores of shorter runs"
        )
    return Budget(task, settings.compute_budget, paid_before=cost)


def load_dataset(settings: RunConfig) -> Dataset:
    """Load the data set of some settings, with the choices among its images that they make."""
    dataset = KEPT.get(source_of(settings)) or load_source(settings)
    if settings.labels:
        dataset = relabelled(dataset, Path(settings.labels))
    if settings.groups:
        dataset = grouped(dataset, settings.groups)
    if settings.classes:
        dataset = with_classes(dataset, Path(settings.classes))
    classes = len(dataset.classes)
    if settings.num_classes not in (None, classes):
        raise UsageError(
            f"`num_classes` {settings.num_classes}: {settings.dataset} has {classes} classes; "
            "give that number or leave it out"
        )
    if settings.train_images:
        dataset = class_balanced_subset(dataset, settings.train_images, settings.data_seed)
    if settings.imbalance:
        dataset = long_tailed(dataset, settings.imbalance, settings.data_seed)
    if settings.label_noise:
        dataset = with_label_noise(dataset, settings.label_noise, settings.data_seed)
    # Last, so that what is held out is like the rest, and has the labels that a run without
    # `validation` trains it with: irreducible losses have to be of these.
    return hold_out(dataset, **split(settings)) if settings.validation else dataset


def split(settings: RunConfig) -> dict:
    """Return the arguments by which `hold_out` and `held_out` make the split of `validation`."""
    return dict(
        count=settings.validation,
        seed=settings.data_seed,
        proportional=bool(settings.imbalance),
    )


def load_source(settings: RunConfig) -> Dataset:
    """Load all of a data set."""
    family, _, argument = settings.dataset.partition(":")
    name = family if family in DATASETS else settings.dataset
    source = find("dataset", DATASETS, name)
    load = source.load if isinstance(source, Source) else source
    load = partial(
        load,
        Path(settings.data_dir),
        name=argument,
        data_seed=settings.data_seed,
        image_size=settings.image_size,
        cache=settings.cache,
    )
    return own_dataset(name, load) if own.is_own(name) else load()


def own_dataset(name: str, load: Callable[[], Dataset]) -> Dataset:
    """Return the data set of a user's own function, checked; a UsageError for what it raises."""
    try:
        dataset = load()
        check_dataset(dataset)
    except RunError:
        raise
    except Exception as error:  # whatever a user's code raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"`dataset` {name}: {reason}") from error
    return dataset


def source_of(settings: RunConfig) -> tuple[object, ...]:
    """Return what decides what `load_source` returns."""
    return tuple(getattr(settings, name) for name in SOURCE)


def import_parts(settings: RunConfig) -> None:
    """Import what a run would import late, but a user's own parts, which may do anything.

    What fails here, the run comes to by itself, and reports.
    """
    with suppress(Exception):
        if settings.augmentation in AUGMENTATIONS:
            AUGMENTATIONS[settings.augmentation](**settings.augmentation_options)
        if settings.model not in RESNETS and not own.is_own(settings.model):
            importlib.import_module("timm")


def keep_dataset(settings: RunConfig) -> None:
    """Keep a data set in memory, where it takes no more than an eighth of the machine's.

    Larger ones stay in their files, which the runs then read by themselves.
    """
    if source_of(settings) in KEPT or source_of(settings) in TOO_LARGE:
        return
    dataset = load_source(settings)
    parts = dataset.train_images, dataset.test_images
    kept = sum(each.train_images.nbytes + each.test_images.nbytes for each in KEPT.values())
    if isinstance(dataset.train_images, PackedRows):
        KEPT[source_of(settings)] = dataset  # whose images stay in their file
    elif kept + sum(images.nbytes for images in parts) <= memory(torch.device("cpu")) / 8:
        train, test = (np.array(images) for images in parts)
        dataset = replace(dataset, train_images=train, test_images=test)
        KEPT[source_of(settings)] = dataset
    else:
        TOO_LARGE.add(source_of(settings))
