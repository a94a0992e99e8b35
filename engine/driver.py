"""One run, from its settings to the folder that it leaves."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from budgetbench import __version__
from errors import Interrupted, UsageError, say

from . import checkpoint
from .board import Board
from .build import build, load_dataset
from .cadence import Cadence, passed
from .config import RunConfig
from .distributed import World, find_world
from .identity import describe, identity
from .machine import find_device, set_up_torch
from .run_folder import COLUMNS, ENDED, SCORES_FILE, RunFolder
from .signals import Signals
from .trainer import Trainer


def run(settings: RunConfig) -> None:
    """Make the run that the settings describe, or go on with it where it was interrupted."""
    world = find_world()
    device = find_device(settings.device, world)
    set_up_torch(settings, device)
    with world.joined(device):
        if world.leads:
            lead(settings, device, world)
        else:
            follow(settings, device, world)


def lead(settings: RunConfig, device: torch.device, world: World) -> None:
    """The whole run, or the part of it that reads, writes and reports."""
    folder = RunFolder(Path(settings.results_dir), settings.experiment_name)
    folder.check(settings.overwrite)
    if settings.tensorboard:
        folder.board = Board(folder.path)
    trainer = build(settings, load_dataset(settings), device, world)
    with folder:
        signals = Signals()
        replaces = starts_afresh(folder, settings)
        rows = restore(folder, settings, trainer, replaces)
        with folder.running(replaces):
            seconds = warm_up(trainer, settings)
            earlier = folder.starts() if trainer.step else []
            config = describe(settings, trainer, seconds, earlier)
            folder.write_config(config)
            folder.write_curve(rows)
            train(trainer, folder, settings, rows, signals)
            folder.write_model(trainer.model.state_dict())
            if settings.record:
                paid = trainer.method.scoring_cost
                cost = None if paid is None else rows[-1]["cost"] + paid
                settled = identity(settings, trainer)
                source = dict(code=__version__, settings=settled, cost=cost)
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


def follow(settings: RunConfig, device: torch.device, world: World) -> None:
    """What the other processes do: the same steps, in step with the leading one."""
    trainer = build(settings, load_dataset(settings), device, world)
    signals = Signals()
    state = world.told(None)
    if state is not None:
        trainer.load_state_dict(state)
    warm_up(trainer, settings)
    train(trainer, None, settings, [], signals)


def warm_up(trainer: Trainer, settings: RunConfig) -> float | None:
    """Compile, if that is wished, while no clock runs; the seconds that it took."""
    if not settings.compile:
        return None
    try:
        return trainer.warm_up()
    except Exception as error:
        if not type(error).__module__.startswith("torch._"):  # as its compilers' errors do
            raise
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"--compile: PyTorch could not compile the network ({reason}); on a CPU it needs a C++ "
            "compiler such as g++; leave the flag out"
        ) from error


def train(
    trainer: Trainer,
    folder: RunFolder | None,
    settings: RunConfig,
    rows: list[dict],
    signals: Signals,
) -> None:
    """Make the steps that are left; with a folder, log a row per epoch and write checkpoints."""
    epoch, cadence = trainer.epoch, Cadence(settings.checkpoint_every)
    on_terminal = folder is not None and sys.stderr.isatty()
    done = int(trainer.position)
    bar = tqdm(total=trainer.budget.steps, initial=done, unit="step", disable=not on_terminal)
    trainer.start()
    with bar:
        while not trainer.finished:
            trainer.make_step(trainer.next_batch())
            bar.update(int(trainer.position) - bar.n)
            before, epoch = epoch, trainer.epoch
            ended = epoch > before
            if ended:
                evaluate = passed(settings.eval_every, before, epoch) or trainer.finished
                rows.append(trainer.finish_epoch(evaluate))
                if folder:
                    folder.append_row(rows[-1])
                    report(rows[-1], trainer.task.epochs, bar if on_terminal else None)
            signals.checkpoint |= cadence.due(trainer.step, before, epoch)
            if not trainer.finished and (ended or trainer.world.may_talk(trainer.step)):
                heed(signals, trainer, folder, settings, rows)


def heed(
    signals: Signals,
    trainer: Trainer,
    folder: RunFolder | None,
    settings: RunConfig,
    rows: list[dict],
) -> None:
    """Write a checkpoint, and stop, if any process of the run was asked to."""
    due, stop = trainer.world.largest(signals.checkpoint, signals.stop or 0)
    if not due and not stop:
        return
    if folder:
        state = trainer.state_dict() | {"rows": rows}
        checkpoint.save(folder, identity(settings, trainer), state)
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


def starts_afresh(folder: RunFolder, settings: RunConfig) -> bool:
    """Whether to replace the run in the folder; a UsageError if that is not allowed."""
    status = folder.status()
    if status is None or (settings.resume and status not in ENDED):
        return False
    if not settings.overwrite:
        raise UsageError(
            f"{folder.path}: holds a run ({status}); to start afresh and lose it, add --overwrite"
        )
    return True


def restore(folder: RunFolder, settings: RunConfig, trainer: Trainer, replaces: bool) -> list[dict]:
    """Put the trainer where an unfinished run stands; the rows of its curve so far."""
    state, notes = None, []
    if not replaces:
        settled = identity(settings, trainer)
        at_start = trainer.state_dict() | {"rows": []}
        state, notes = checkpoint.load(
            folder, settled, lambda state: take(state, at_start, trainer)
        )
    rows: list[dict] = state.pop("rows") if state else []
    trainer.world.told(state)
    if state is not None:
        notes.append(f"{folder.path}: going on after step {trainer.step}")
    for note in notes:
        say(f"note: {note}")
    return rows


def take(state: Mapping, at_start: Mapping, trainer: Trainer) -> None:
    """Load a checkpoint's state; whatever exception says that it is none of such a run."""
    checkpoint.check_like(state, at_start)
    for row in state["rows"]:
        if not row.keys() <= set(COLUMNS):
            raise ValueError("rows are not those of a curve")
    trainer.load_state_dict(state)
    if not 0 <= trainer.logged_step <= trainer.step or trainer.finished:
        raise ValueError(f"step is {trainer.step}")
    for parameter, kept in trainer.optimizer.state.items():
        if kept.get("momentum_buffer") is not None:
            checkpoint.check_like(kept["momentum_buffer"], parameter.detach(), "momentum")
