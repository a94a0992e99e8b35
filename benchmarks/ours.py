"""Shared parts: runs built as train.py builds them, data, the machine, times and tables."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data import DATASETS, Dataset
from engine.build import build
from engine.driver import warm_up
from engine.flags import parse
from engine.log import Log
from engine.loop import train
from engine.machine import find_device, set_up_torch
from engine.run_folder import TRAINING_SECONDS, RunFolder
from engine.source import processor_name
from engine.trainer import Trainer
from errors import UsageError

PASSED_ON = "words after -- go to train.py's own command line, for example: -- --batch-size 64"
#: What oneDNN uses where a processor has it, as `torch.cpu.get_capabilities` names it.
MATRIX_FEATURES = ("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16")
#: Steps before any that count: kernels are chosen, networks compiled, and selective-backprop's
#: losses fill a history of 1,024, before which it keeps every image.
WARM_UP = 10


class PooledLinear(nn.Module):
    """A linear layer on pixels averaged over bands of four rows, which costs next to nothing.

    Bands, because PyTorch's pooling of 4x4 squares takes as long as all else in a step of it.
    """

    def __init__(self, channels: int, classes: int, size: tuple[int, int]):
        super().__init__()
        self.bands = size[0] // 4
        self.classifier = nn.Linear(channels * self.bands, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images.reshape(*images.shape[:2], self.bands, -1).mean(3).flatten(1))

    def get_classifier(self) -> nn.Module:
        """As timm's networks have it."""
        return self.classifier


def register_pooled_linear() -> None:
    """Make the network known by name, pooled-linear, wherever timm's networks are."""
    from timm.models import is_model, register_model

    def entry(pretrained: bool = False, *, in_chans, num_classes, img_size, **_) -> nn.Module:
        return PooledLinear(in_chans, num_classes, img_size)

    entry.__name__ = "pooled-linear"
    if not is_model(entry.__name__):
        register_model(entry)


def load(folder: Path) -> tuple[Dataset, str]:
    """Return CIFAR-10 where it lies in `folder`, else random images of its shape; and which."""
    if (folder / "cifar-10-batches-py").is_dir():
        return DATASETS["cifar10"].load(folder), "CIFAR-10"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, len(images))
    classes = tuple(map(str, range(10)))
    dataset = Dataset(images, labels, images[:1], labels[:1], classes, (0.5,) * 3, (0.25,) * 3)
    return dataset, f"random images of CIFAR-10's shape, as it is not in {folder}"


def machine() -> str:
    """Return the processor, threads, versions and other work that times depend on."""
    has = torch.cpu.get_capabilities()
    fast = ", ".join(name for name in MATRIX_FEATURES if has.get(name)) or "none"
    packages = ("torch", "torchvision", "numpy", "pillow")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{os.cpu_count()} cores of {processor_name()}; vector instructions: "
        f"{torch.backends.cpu.get_cpu_capability()}, for matrices of few bits: {fast}; "
        f"{torch.get_num_threads()} threads; Python {platform.python_version()}, {versions}; "
        f"load average before {os.getloadavg()[0]:.1f}"
    )


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A benchmark's own words, and those after -- for train.py."""
    arguments = list(arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:cut], arguments[cut + 1 :]


def read_settings(words: Sequence[object]) -> argparse.Namespace:
    """train.py's settings of its words; those without effect are an error here."""
    register_pooled_linear()
    settings, notes = parse(list(map(str, words)))
    if notes:
        raise UsageError(notes[0])
    if "uniform_epochs" in settings.method_options:
        # Steps of the method itself are measured, not the uniform start that comes before them.
        settings.method_options["uniform_epochs"] = 0
    return settings


def make_trainer(settings: argparse.Namespace, dataset: Dataset) -> Trainer:
    """A trainer at its start, optionally compiled, ready for steps."""
    device = find_device(settings.device)
    set_up_torch(settings, device)
    trainer = build(settings, dataset, device)
    warm_up(trainer, settings)
    return trainer


def make_steps(trainer: Trainer, count: int, log: Log | None = None) -> None:
    """Make steps of the loop, without evaluation."""
    train(trainer, log or Log(), eval_every=10**9, steps=count)


def run_epoch(trainer: Trainer, folder: RunFolder) -> Mapping[str, float]:
    """A budgeted epoch and its row in the folder's curve; not evaluated."""
    rows: list[Mapping[str, float]] = []
    log = Log()
    log.end_epoch = rows.append
    make_steps(trainer, trainer.task.steps_per_epoch, log)
    folder.append_row(rows[0])
    return rows[0]


def phase_seconds(row: Mapping[str, float]) -> np.ndarray:
    """Seconds [3] of a run so far in selection, data and training, from a row of its curve."""
    return np.array([row[name] for name in TRAINING_SECONDS])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|---|{'--:|' * (len(heads) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
