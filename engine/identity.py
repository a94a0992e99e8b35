"""Identity of a run: the settings that count, and the content of its config.json."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from budgetbench import __version__
from data import Dataset

from . import own
from .config import TABLES, RunConfig, consequential
from .registries import own_parts
from .source import commit
from .trainer import Trainer


def identity(settings: RunConfig, trainer: Trainer) -> dict:
    """Return what a run computes: a checkpoint of another identity cannot continue as this one.

    Data and files are what they hold, not where they lie.
    """
    task = trainer.task
    facts: dict[str, Any] = {
        "num_images": task.num_images,
        "data_sha256": task.data_sha256,
        "method_options": settings.method_options | dict(trainer.method.files),
        # A CPU's random generators and a GPU's cannot continue from each other's states.
        "device_type": trainer.device.type,
        # As resolved: `auto` may be something else on the machine where a run is resumed.
        "amp": trainer.network.precision.option,
    }
    if "groups" in (digests := digests_of_tables(settings)):  # no part of the data's
        facts["groups_sha256"] = digests["groups"]
    if settings.record:  # notes that have to be taken from the start
        facts |= {"record": settings.record, "record_epochs": settings.record_epochs}
    for axis, part in own_parts(vars(settings)).items():
        facts |= {axis: own.label(getattr(settings, axis)), f"{axis}_sha256": part["sha256"]}
    return consequential(vars(settings)) | facts


def digests_of_tables(settings: RunConfig) -> dict[str, str]:
    """Return the SHA-256 of each file on images that a setting names."""
    files = {name: Path(getattr(settings, name) or "") for name in TABLES}
    return {name: own.digest_of(path) for name, path in files.items() if path.is_file()}


def describe(
    settings: RunConfig,
    trainer: Trainer,
    dataset: Dataset,
    compile_seconds: float | None,
    earlier_starts: Sequence[Mapping] = (),
) -> dict:
    """Return the content of config.json: settings, what followed from them, versions and device.

    Args:
        settings: of the run.
        trainer: where the run stands: at its start, or where it is resumed.
        dataset: that it trains and is evaluated on.
        compile_seconds: that `compile` took.
        earlier_starts: of a run that is resumed, the `starts` of its config.json so far.
    """
    task = trainer.task
    start = describe_start(trainer)
    return {
        "settings": dict(vars(settings)),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "evaluated_on": "validation" if settings.validation else "test",
        "tuned": bool(settings.tuned),
        "num_images": task.num_images,
        "num_classes": task.num_classes,
        "data": {
            "train": len(dataset.train_labels),
            "test": len(dataset.test_labels),
            "image": [int(size) for size in dataset.train_images.shape[1:]],
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            **({"groups": list(dataset.groups)} if dataset.groups else {}),
        },
        "data_sha256": task.data_sha256,
        "files_sha256": dict(trainer.method.files) | digests_of_tables(settings),
        "scoring_cost": trainer.method.scoring_cost,
        "scoring_seconds": trainer.method.scoring_seconds,
        **({"own_parts": parts} if (parts := own_parts(vars(settings))) else {}),
        "steps_per_epoch": task.steps_per_epoch,
        "total_steps": task.steps,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "compile_seconds": compile_seconds,
        "threads": torch.get_num_threads(),
        **start,
        "starts": [
            *earlier_starts,
            {
                "step": trainer.step,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                **start,
            },
        ],
    }


def describe_start(trainer: Trainer) -> dict:
    """Return device and versions of a run, which may differ where it is resumed."""
    device, precision = trainer.device, trainer.network.precision
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device} ({name})",
        "processes": trainer.world.size,
        "precision": precision.type_name,
        "precision_reason": precision.reason,
        "versions": {
            "code": __version__,
            "commit": commit(),
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        },
    }
