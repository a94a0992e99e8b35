"""All methods for some steps, in one process or in each of several: torchrun ... ranks.py DIR."""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path

import torch
from steps import Rows, make_steps
from test_methods import make_dataset, make_method, make_task, make_trainer
from torch import Tensor, nn

from engine.distributed import World, find_world
from engine.trainer import Trainer
from methods import METHODS

RESUMED = ("SGD", "selective-backprop")
CASES = [(method, mix) for method in METHODS for mix in ("standard", "mixup", "ricap")]


def journal(method: str, augmentation: str, world: World) -> dict:
    """What a process saw in a run of a network without batch normalisation, and its end."""
    task = make_task(num_images=320, batch_size=16, budget=0.5, epochs=4)
    trainer = make_trainer(make_method(method, task), make_dataset(320), augmentation, world=world)
    log = Rows()
    steps = make_steps(trainer, log=log)
    weights = [weight.detach().reshape(-1) for weight in trainer.model.parameters()]
    return {
        "indices": torch.cat([step.batch.index for step in steps]),
        "images": torch.stack([step.batch.images.sum() for step in steps]),
        "weights": torch.cat(weights),
        "method": trainer.method.state_dict(),
        "rows": [
            {name: value for name, value in row.items() if not name.endswith("_seconds")}
            for row in log.rows
        ],
    }


def resumed_journal(method: str, world: World) -> dict:
    """What a process saw of a run, and of one that went on from the leading process's checkpoint.

    Of a network with batch normalisation and dropout; the checkpoint is of the middle of an epoch.
    """
    task = make_task(num_images=320, batch_size=16, budget=0.5, epochs=4)
    layers = (partial(nn.BatchNorm1d, 16), nn.Dropout)

    def start() -> tuple[Trainer, list[Tensor]]:
        dataset = make_dataset(320)
        trainer = make_trainer(make_method(method, task), dataset, world=world, layers=layers)
        dropped = []
        hook = trainer.model[2].register_forward_hook
        hook(lambda layer, _, output: dropped.append(output == 0) if layer.training else None)
        return trainer, dropped

    whole, dropped = start()
    make_steps(whole, 5)
    state = world.broadcast(copy.deepcopy(whole.state_dict()))
    buffers = [buffer.clone() for buffer in whole.model.buffers()]
    make_steps(whole, 9)
    resumed, dropped_again = start()
    resumed.load_state_dict(state)
    make_steps(resumed, 9)
    return {
        "buffers": buffers,
        "whole": copy.deepcopy(whole.model.state_dict()),
        "resumed": copy.deepcopy(resumed.model.state_dict()),
        "dropped": dropped,
        "dropped_again": dropped_again,
    }


if __name__ == "__main__":
    world = find_world()
    torch.set_num_threads(1)
    with world.process_group(torch.device("cpu")):
        journals = {case: journal(*case, world) for case in CASES}
        journals |= {method: resumed_journal(method, world) for method in RESUMED}
        torch.save(journals, Path(sys.argv[1]) / f"{world.rank}.pt")
