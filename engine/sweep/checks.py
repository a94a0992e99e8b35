"""Checks, before the first run of a sweep, of what would stop any of them at its start.

Each set of data is read once, whatever the number of its runs, and no training step is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import Dataset

from ..build import (
    create_augmentation,
    create_budget,
    create_method,
    load_dataset,
    task_of,
)
from ..config import RunConfig, settings_with
from ..machine import check_device, find_device
from ..models import create_model
from ..trackers import Trackers


def check_runs(runs: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a run that could not start, with the UsageError that train.py would give.

    Args:
        runs: settings of each. Those that differ only in their seed, or in where they are kept, are
            looked at once.
    """
    different = {
        as_text(settings, {"seed", "experiment_name", "results_dir"}): settings for settings in runs
    }
    facts, check_model = cache(read_facts), cache(make_model)
    for settings in different.values():
        check_run(RunConfig(**settings), facts, check_model)


def check_run(
    settings: RunConfig, facts: Callable[[str], Dataset], check_model: Callable[..., None]
) -> None:
    device = find_device(settings.device)
    check_device(settings, device)
    Trackers(settings.log or (), Path(), {})
    of_data = {name: getattr(settings, name) for name in settings_with("of_data")}
    dataset = facts(json.dumps(of_data))
    task = task_of(settings, dataset, torch.device("cpu"))
    shape = dataset.train_images.shape[1:]
    check_model(settings.model, len(dataset.classes), *shape)
    create_augmentation(settings, *shape[1:])
    create_budget(settings, create_method(settings, task))


def as_text(settings: Mapping[str, Any], without: Iterable[str]) -> str:
    kept = {name: value for name, value in settings.items() if name not in without}
    return json.dumps(kept, sort_keys=True)


def read_facts(text: str) -> Dataset:
    """The data of some settings, in JSON, with the shapes of images but not the images."""
    dataset = load_dataset(RunConfig(**json.loads(text)))
    train, test = (
        np.broadcast_to(np.uint8(0), images.shape)
        for images in (dataset.train_images, dataset.test_images)
    )
    return replace(dataset, train_images=train, test_images=test)


def make_model(name: str, classes: int, channels: int, height: int, width: int) -> None:
    with torch.random.fork_rng([]):
        create_model(name, channels, classes, (height, width))
