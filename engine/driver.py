"""One run, from its settings to the folder that it leaves."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from budgetbench import __version__
from data import Dataset
from errors import Failed, UsageError, is_first_of_machine, say

from . import checkpoint
from .budget import TRAINING_COST
from .build import build, load_dataset
from .config import RunConfig, consequential, differences
from .config_file import BadRun, read_config
from .distributed import World, find_world
from .identity import describe, identity
from .log import RunLog
from .loop import train
from .machine import find_device, set_up_torch
from .registries import DATASETS
from .run_folder import (
    COLUMNS,
    GROUP_COLUMNS,
    MODEL_FILE,
    NOT_RESUMED,
    SCORES_FILE,
    SETTINGS_FILE,
    RunFolder,
    training_seconds,
)
from .settings_file import toml_of
from .signals import Signals
from .trackers import Trackers
from .trainer import Trainer
from .values import in_words


def run(config: RunConfig) -> Path:
    """Make a run, or resume it where it was interrupted.

    Args:
        config: of the run; what is left out of it is filled in as `RunConfig.resolved` does.

    Returns:
        The folder that the run leaves, see results/FILES.md.

    Raises:
        UsageError: naming the setting or file that is wrong, and the remedy. Nothing is lost.
        Diverged: for a loss that became NaN or infinite.
        Interrupted: after a signal and a checkpoint; the same call resumes from there.
        Failed: for a cause outside, such as a full disk.
    """
    settings, notes = config.resolved()
    for note in notes if is_first_of_machine() else ():
        say(f"note: {note}")
    world = find_world()
    device = find_device(settings.device, world)
    set_up_torch(settings, device)
    with world.process_group(device):
        try:
            (run_main if world.is_main else run_other)(settings, device, world)
        except torch.OutOfMemoryError as error:
            raise Failed("out of GPU memory; lower `batch_size` or the `model`") from error
    return Path(settings.results_dir) / settings.experiment_name


def run_main(settings: RunConfig, device: torch.device, world: World) -> None:
    """Train, read and write the run's folder, and report."""
    folder = RunFolder(Path(settings.results_dir), settings.experiment_name)
    folder.check()
    starts_anew(folder, settings)  # or is refused, before the data are read
    folder.trackers = Trackers(settings.log or (), folder.path, vars(settings))
    dataset = load_dataset(settings)
    trainer = build(settings, dataset, device, world)
    if dataset.groups:
        folder.columns = (*COLUMNS, *GROUP_COLUMNS)
    with folder, Signals() as signals:
        replaces = starts_anew(folder, settings)
        rows = restore(folder, settings, trainer, replaces)
        with folder.running(replaces):
            seconds = warm_up(trainer, settings)
            earlier = folder.starts() if trainer.step else []
            config = describe(settings, trainer, dataset, seconds, earlier)
            folder.write_config(config)
            folder.write(SETTINGS_FILE, toml_of(settings).encode())
            folder.write_curve(rows)
            if ":" in settings.dataset or DATASETS[settings.dataset].resizes:  # else it is known
                print(f"{settings.dataset}: {in_numbers(dataset)}", flush=True)
            if settings.record:
                recording: Any = trainer.method
                print(f"record: {recording.num_bytes / 1e6:,.1f} MB of notes in memory", flush=True)
            log = RunLog(settings, trainer, signals, folder, rows)
            with log.bar:
                train(trainer, log, settings.eval_every)
            leave_results(folder, settings, trainer, rows[-1])
            folder.write_config(config | {"method_summary": trainer.method.summary()})
        checkpoint.remove(folder)
    best = max(rows, key=lambda row: row.get("test_accuracy", 0.0))
    print(
        f"accuracy after the last epoch: {rows[-1]['test_accuracy']:.2f}% (best, for information: "
        f"{best['test_accuracy']:.2f}% after epoch {best['epoch']})\n"
        f"{cost_line(rows[-1], trainer.task.num_images)}\n"
        f"curve: {folder.path / 'curve.csv'}"
    )


def leave_results(
    folder: RunFolder, settings: RunConfig, trainer: Trainer, row: Mapping[str, Any]
) -> None:
    """Write the network, the scores recorded and the tables; `row` is the curve's last."""
    buffer = io.BytesIO()
    torch.save(trainer.model.state_dict(), buffer)
    folder.write(MODEL_FILE, buffer.getbuffer())
    if settings.record:
        recording: Any = trainer.method
        paid = recording.scoring_cost
        source = dict(
            code=__version__,
            settings=identity(settings, trainer),
            cost=None if paid is None else row["cost"] + paid,
            seconds=training_seconds(row),
        )
        folder.write(SCORES_FILE, recording.file(source).to_bytes())
    folder.write_per_class(trainer.per_class())
    folder.write_per_group(trainer.per_group())


def in_numbers(dataset: Dataset) -> str:
    """Say how many images of which kind there are."""
    channels, height, width = dataset.train_images.shape[1:]
    groups = f", {len(dataset.groups)} groups" if dataset.groups else ""
    return (
        f"{len(dataset.train_labels):,} images to train on, {len(dataset.test_labels):,} to "
        f"evaluate on, {len(dataset.classes)} classes{groups}, {width}x{height} in "
        f"{'colour' if channels == 3 else 'grey'}"
    )


def cost_line(row: Mapping[str, float], num_images: int) -> str:
    """Say what a run cost, of the last row of its curve."""
    seconds = training_seconds(row)
    return (
        f"cost: {row['images_trained']:,} images trained on, {row['images_scored']:,} scored, "
        f"{row['cost'] / (TRAINING_COST * num_images):.1f} epochs of plain training in all; "
        f"{in_words(seconds)} of training, {in_words(row['eval_seconds'])} of evaluation"
    )


def run_other(settings: RunConfig, device: torch.device, world: World) -> None:
    """Train in step with the main process, from the same state."""
    trainer = build(settings, load_dataset(settings), device, world)
    with Signals() as signals:
        state = world.broadcast(None)
        if state is not None:
            trainer.load_state_dict(state)
        warm_up(trainer, settings)
        train(trainer, RunLog(settings, trainer, signals, None, []), settings.eval_every)


def warm_up(trainer: Trainer, settings: RunConfig) -> float | None:
    """Compile, where that is asked for, untimed; the seconds that it took."""
    if not settings.compile:
        return None
    try:
        return trainer.warm_up()
    except Exception as error:
        if not type(error).__module__.startswith("torch._"):  # as its compilers' errors do
            raise
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"`compile`: PyTorch could not compile the network ({reason}); on a CPU it needs a C++ "
            "compiler such as g++; leave it out"
        ) from error


def starts_anew(folder: RunFolder, settings: RunConfig) -> bool:
    """Return whether to replace the run in the folder; a UsageError unless `overwrite` allows it.

    It says how the run in the way differs from this one.
    """
    status = folder.status()
    if status is None or (settings.resume and status not in NOT_RESUMED):
        return False
    if settings.overwrite:
        return True
    try:
        theirs = consequential(read_config(folder.path).settings)
    except BadRun:
        likeness = ""
    else:
        different = "; ".join(differences(theirs, consequential(vars(settings))))
        others = f" with other settings, there and here: {different}"
        likeness = others if different else ", this one"
    raise UsageError(
        f"{folder.path}: holds a run ({status}){likeness}; choose another `experiment_name`, or "
        "replace it with `overwrite`"
    )


def restore(folder: RunFolder, settings: RunConfig, trainer: Trainer, replaces: bool) -> list[dict]:
    """Put the trainer where an unfinished run stands; return the rows of its curve so far."""
    state: dict | None = None
    notes: list[str] = []
    if not replaces:
        settled = identity(settings, trainer)
        at_start = trainer.state_dict() | {"rows": []}
        state, notes = checkpoint.load(
            folder, settled, lambda state: take(state, at_start, trainer)
        )
    rows: list[dict] = state.pop("rows") if state else []
    trainer.world.broadcast(state)
    if state is not None:
        notes.append(f"{folder.path}: resuming after step {trainer.step}")
    for note in notes:
        say(f"note: {note}")
    return rows


def take(state: Mapping, at_start: Mapping, trainer: Trainer) -> None:
    """Load a checkpoint's state; an exception of any kind says that it is not of such a run."""
    checkpoint.check_like(state, at_start)
    for row in state["rows"]:
        if not row.keys() <= {*COLUMNS, *GROUP_COLUMNS}:
            raise ValueError("rows are not those of a curve")
    trainer.load_state_dict(state)
    if not 0 <= trainer.logged_step <= trainer.step or trainer.finished:
        raise ValueError(f"step is {trainer.step}")
    for parameter, kept in trainer.optimizer.state.items():
        if kept.get("momentum_buffer") is not None:
            checkpoint.check_like(kept["momentum_buffer"], parameter.detach(), "momentum")
