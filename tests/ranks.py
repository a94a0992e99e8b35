"""All methods for some steps, in one process or in each of several: torchrun ... ranks.py DIR."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from test_methods import make_dataset, make_method, make_task, make_trainer

from methods import METHODS
from training.distributed import World, find_world

CASES = [(method, mix) for method in METHODS for mix in ("standard", "mixup", "ricap")]


def journal(method: str, augmentation: str, world: World) -> dict:
    """What a process saw in a run of a network without batch normalisation, and its end."""
    task = make_task(num_images=320, batch_size=16, budget=0.5, epochs=4)
    trainer = make_trainer(make_method(method, task), make_dataset(320), augmentation, world=world)
    indices, images = [], []
    trainer.start()
    while not trainer.finished:
        batch = trainer.next_batch()
        indices.append(batch.index)
        images.append(batch.images.sum())
        trainer.make_step(batch)
    row = trainer.finish_epoch()
    weights = [weight.detach().reshape(-1) for weight in trainer.model.parameters()]
    return {
        "indices": torch.cat(indices),
        "images": torch.stack(images),
        "weights": torch.cat(weights),
        "method": trainer.method.state_dict(),
        "row": {name: value for name, value in row.items() if not name.endswith("_seconds")},
    }


if __name__ == "__main__":
    world = find_world()
    torch.set_num_threads(1)
    with world.joined(torch.device("cpu")):
        journals = {case: journal(*case, world) for case in CASES}
        torch.save(journals, Path(sys.argv[1]) / f"{world.rank}.pt")
