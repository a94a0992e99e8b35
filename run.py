"""One run, from its settings to the folder that it leaves."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import checkpoint
from augmentations import AUGMENTATIONS
from board import Board
from budget import Budget, linear_rate, step_rate, steps_per_epoch, subset_size
from data import DATASETS, Dataset, hold_out, long_tailed, with_label_noise
from distributed import ALONE, World, find_world
from errors import Interrupted, UsageError
from flags import require_options
from methods import METHODS, Method, OptionError, Task, __version__
from methods.scores import Recording
from models import create_model
from network import Network, choose_amp
from record import ENDED, SCORES_FILE, RunFolder
from signals import Signals
from stream import Stream
from trainer import Trainer

METHOD_SEED = 2  # keeps a method's draws apart from those of the stream, which uses 0 and 1
#: Settings that say where and how a run is made, not what it computes.
INCIDENTAL = {
    "checkpoint_every",
    "data_dir",
    "device",
    "eval_every",
    "experiment_name",
    "num_classes",
    "num_threads",
    "overwrite",
    "record",
    "record_epochs",
    "resident_limit",
    "resume",
    "results_dir",
    "tensorboard",
}


def run(settings: argparse.Namespace) -> None:
    """Make the run that the settings describe, or go on with it where it was interrupted."""
    world = find_world()
    device = find_device(settings.device, world)
    set_up_torch(settings, device)
    with world.joined(device):
        if world.leads:
            lead(settings, device, world)
        else:
            follow(settings, device, world)


def lead(settings: argparse.Namespace, device: torch.device, world: World) -> None:
    """The whole run, or the part of it that reads, writes and reports."""
    folder = RunFolder(Path(settings.results_dir), settings.experiment_name)
    folder.check(settings.overwrite)
    if settings.tensorboard:
        folder.board = Board(folder.path)
    trainer = build(settings, load_dataset(settings), device, world)
    with folder:
        signals = Signals()
        rows = restore(folder, settings, trainer)
        with folder.running():
            config = describe(settings, trainer, warm_up(trainer, settings))
            folder.write_config(config)
            folder.write_curve(rows)
            train(trainer, folder, settings, rows, signals)
            folder.write_model(trainer.model.state_dict())
            if settings.record:
                source = dict(code=__version__, settings=identity(settings, trainer.task))
                file = trainer.method.file(source)
                folder.write(SCORES_FILE, file.to_bytes())
            folder.write_per_class(trainer.per_class())
            folder.write_config(config | {"method_summary": trainer.method.summary()})
        checkpoint.remove(folder)
    best = max(rows, key=lambda row: row.get("test_accuracy", 0.0))
    print(
        f"accuracy after the last epoch: {rows[-1]['test_accuracy']:.2f}% (best, for information: "
        f"{best['test_accuracy']:.2f}% after epoch {best['epoch']})\n"
        f"curve: {folder.path / 'curve.csv'}"
    )


def follow(settings: argparse.Namespace, device: torch.device, world: World) -> None:
    """What the other processes do: the same steps, in step with the leading one."""
    trainer = build(settings, load_dataset(settings), device, world)
    signals = Signals()
    state = world.told(None)
    if state is not None:
        trainer.load_state_dict(state)
    warm_up(trainer, settings)
    train(trainer, None, settings, [], signals)


def warm_up(trainer: Trainer, settings: argparse.Namespace) -> float | None:
    """Compile, if that is wished, while no clock runs; the seconds that it took."""
    return trainer.warm_up() if settings.compile else None


def train(
    trainer: Trainer,
    folder: RunFolder | None,
    settings: argparse.Namespace,
    rows: list[dict],
    signals: Signals,
) -> None:
    """Make the steps that are left; with a folder, log a row per epoch and write checkpoints."""
    epoch = trainer.epoch
    on_terminal = folder is not None and sys.stderr.isatty()
    done = int(trainer.position)
    bar = tqdm(total=trainer.budget.steps, initial=done, unit="step", disable=not on_terminal)
    trainer.start()
    with bar:
        while not trainer.finished:
            trainer.make_step(trainer.next_batch())
            bar.update(int(trainer.position) - bar.n)
            ended = trainer.epoch if trainer.epoch > epoch else None
            if ended:
                epoch = ended
                rows.append(
                    trainer.finish_epoch(epoch % settings.eval_every == 0 or trainer.finished)
                )
                if folder:
                    folder.append_row(rows[-1])
                    report(rows[-1], trainer.task.epochs, bar if on_terminal else None)
            signals.checkpoint |= settings.checkpoint_every.due(trainer.step, ended)
            if not trainer.finished and (ended or trainer.world.may_talk(trainer.step)):
                heed(signals, trainer, folder, settings, rows)


def heed(
    signals: Signals,
    trainer: Trainer,
    folder: RunFolder | None,
    settings: argparse.Namespace,
    rows: list[dict],
) -> None:
    """Write a checkpoint, and stop, if any process of the run was asked to."""
    due, stop = trainer.world.largest(signals.checkpoint, signals.stop or 0)
    if not due and not stop:
        return
    if folder:
        state = trainer.state_dict() | {"rows": rows}
        checkpoint.save(folder, identity(settings, trainer.task), state)
    signals.checkpoint = False
    trainer.start()
    if stop:
        number = signal.Signals(int(stop))
        raise Interrupted(
            f"stopped by {number.name} after step {trainer.step}, "
            f"{trainer.spent / trainer.budget.total:.0%} of the budget; "
            "start the same command again to go on",
            number,
        )


def report(row: Mapping, epochs: int, bar: tqdm | None) -> None:
    """Show an epoch: beside the progress bar on a terminal, else as a line."""
    results = f"train loss {row['train_loss']:.4f}"
    if "test_loss" in row:
        results += f", test loss {row['test_loss']:.4f}, test accuracy {row['test_accuracy']:.2f}%"
    if bar is not None:
        bar.set_postfix_str(results)
    else:
        print(f"epoch {row['epoch']}/{epochs}: {results}", flush=True)


def restore(folder: RunFolder, settings: argparse.Namespace, trainer: Trainer) -> list[dict]:
    """Put the trainer where an unfinished run stands; the rows of its curve so far."""
    afresh = not settings.resume or folder.status() in ENDED
    if afresh and folder.status() is not None:
        if not settings.overwrite:
            raise UsageError(
                f"{folder.path}: holds a run ({folder.status()}); to start afresh and lose it, "
                "add --overwrite"
            )
        folder.clear()
    state, notes = checkpoint.load(folder, identity(settings, trainer.task))
    rows: list[dict] = state.pop("rows") if state else []
    trainer.world.told(state)
    if state is not None:
        trainer.load_state_dict(state)
        notes.append(f"{folder.path}: going on after step {trainer.step}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return rows


def build(
    settings: argparse.Namespace, dataset: Dataset, device: torch.device, world: World = ALONE
) -> Trainer:
    """The trainer of a run that is at its start."""
    world.check_batch_size(settings.batch_size)
    n = len(dataset.train_labels)
    per_epoch = steps_per_epoch(settings.budget, n, settings.batch_size)
    method_seed = np.random.SeedSequence([settings.seed, METHOD_SEED]).generate_state(1)
    task = Task(
        dataset=settings.dataset,
        labels=dataset.train_labels,
        num_images=n,
        num_classes=len(dataset.classes),
        batch_size=settings.batch_size,
        budget=settings.budget,
        subset_size=subset_size(settings.budget, n),
        steps_per_epoch=per_epoch,
        epochs=settings.epochs,
        device=device,
        seed=int(method_seed[0]),
    )
    torch.manual_seed(settings.seed)
    channels, *size = dataset.train_images.shape[1:]
    model = create_model(settings.model, channels, len(dataset.classes), tuple(size))
    network = Network(
        model.to(device, memory_format=torch.channels_last),
        device,
        amp=choose_amp(settings.amp, device),
        compiled=settings.compile,
        sync_batchnorm=settings.sync_batchnorm and world.size > 1,
        world=world,
    )
    augmentation = AUGMENTATIONS[settings.augmentation](**settings.augmentation_options)
    try:
        augmentation.check(*size)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if settings.schedule == "linear":
        rate = partial(linear_rate, total=settings.epochs * per_epoch, first=settings.lr)
    else:
        milestones, gamma = settings.milestones, settings.gamma
        rate = partial(
            step_rate, per_epoch=per_epoch, first=settings.lr, milestones=milestones, gamma=gamma
        )
    return Trainer(
        network,
        create_method(settings, task),
        Stream(dataset, augmentation, device, settings.seed, settings.resident_limit),
        dataset,
        Budget(per_epoch, settings.epochs, settings.batch_size, settings.compute_budget),
        rate,
        settings.momentum,
        settings.weight_decay,
    )


def create_method(settings: argparse.Namespace, task: Task) -> Method:
    """The run's method, with notes on what its training passes show if these are wanted."""
    constructor, options = METHODS[settings.method], settings.method_options
    require_options(constructor, options)
    try:
        method = constructor(task, **options)
    except OptionError as error:
        flag, value = "--" + error.option.replace("_", "-"), options[error.option]
        raise UsageError(f"{flag} {value}: {error.reason}") from error
    if settings.record:
        return Recording(method, settings.record, settings.record_epochs)
    return method


def load_dataset(settings: argparse.Namespace) -> Dataset:
    dataset = DATASETS[settings.dataset](
        Path(settings.data_dir), data_seed=settings.data_seed, image_size=settings.image_size
    )
    classes = len(dataset.classes)
    if settings.num_classes not in (None, classes):
        raise UsageError(
            f"--num-classes {settings.num_classes}: {settings.dataset} has {classes} classes; "
            "give that number or leave the flag out"
        )
    if settings.validation:
        dataset = hold_out(dataset, settings.validation, settings.data_seed)
    if settings.imbalance:
        dataset = long_tailed(dataset, settings.imbalance, settings.data_seed)
    if settings.label_noise:
        dataset = with_label_noise(dataset, settings.label_noise, settings.data_seed)
    return dataset


def find_device(name: str, world: World = ALONE) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if world.size > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise UsageError(f"--device {name}: of several processes each has its own; give cuda")
        name = f"cuda:{world.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: no such device; give cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: not supported; give cpu, cuda or cuda:N")
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise UsageError(f"--device {name}: this machine has {found} CUDA devices; try cpu")
    return device


def set_up_torch(settings: argparse.Namespace, device: torch.device) -> None:
    """Settings that hold for the whole process."""
    if settings.sync_batchnorm and device.type == "cpu":
        raise UsageError("--sync-batchnorm: PyTorch has it for CUDA alone; leave the flag out")
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where timing events are recorded
        torch.set_float32_matmul_precision("high")  # TF32, of convolutions too
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = not settings.deterministic
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as PyTorch asks for
        torch.use_deterministic_algorithms(True)


def identity(settings: argparse.Namespace, task: Task) -> dict:
    """What a run computes: a checkpoint of another identity cannot go on as this one."""
    # A CPU's random generators and a GPU's cannot go on from each other's states.
    facts = {"num_images": task.num_images, "device_type": task.device.type}
    if settings.record:  # notes that have to be taken from the start
        facts |= {"record": settings.record, "record_epochs": settings.record_epochs}
    return consequential(vars(settings)) | facts


def consequential(settings: Mapping) -> dict[str, object]:
    """The settings that say what a run computes."""
    return {name: value for name, value in settings.items() if name not in INCIDENTAL}


def describe(settings: argparse.Namespace, trainer: Trainer, compile_seconds: float | None) -> dict:
    """What config.json says: every setting, what followed from it, and with what it was run."""
    task = trainer.task
    device = task.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "settings": {
            key: value if key != "checkpoint_every" else str(value)
            for key, value in vars(settings).items()
        },
        "command": shlex.join(sys.argv),
        "evaluated_on": "validation" if settings.validation else "test",
        "num_images": task.num_images,
        "num_classes": task.num_classes,
        "steps_per_epoch": task.steps_per_epoch,
        "total_steps": task.epochs * task.steps_per_epoch,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "device": f"{device} ({name})",
        "processes": trainer.world.size,
        "precision": str(trainer.network.amp or torch.float32).removeprefix("torch."),
        "compile_seconds": compile_seconds,
        "threads": torch.get_num_threads(),
        "versions": {
            "code": __version__,
            "commit": commit(),
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        },
    }


def commit() -> str | None:
    """The commit of the code that runs, with -dirty if it was changed; None outside git.

    SOURCE_COMMIT tells it to the nodes of a cluster, which get the code without its history.
    """
    if "SOURCE_COMMIT" in os.environ:
        return os.environ["SOURCE_COMMIT"] or None
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
