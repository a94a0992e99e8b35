"""What a checkpoint after every budgeted epoch adds to a run's time.

python -m benchmarks.checkpointing --dataset cifar10 --data-dir DIR
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from engine import checkpoint
from engine.build import build, load_dataset
from engine.flags import parse
from engine.identity import identity
from engine.run_folder import RunFolder
from methods import METHODS

from .ours import make_steps
from .score_files import noise_options

STEPS = 10  # timed, to tell how long an epoch's take
SAVES = 15


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpointing", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dataset", default="cifar10", help="[default: cifar10]")
    parser.add_argument("--data-dir", default="datasets", help="[default: datasets]")
    parser.add_argument("--model", default="resnet18-w16", help="[default: resnet18-w16]")
    parser.add_argument("--budget", default="0.2", help="[default: 0.2]")
    options = parser.parse_args()
    flags = [word for name, value in vars(options).items() for word in (f"--{name}", value)]
    flags = [word.replace("data_dir", "data-dir") for word in flags]

    print(f"{'method':20}{'checkpoint':>12}{'epoch of training':>20}{'added':>9}")
    for method in METHODS:
        settings, _ = parse([*flags, "--method", method, "--device", "cpu"])
        dataset = load_dataset(settings)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scores.npz"
            settings.method_options |= noise_options(
                method, options.dataset, dataset.train_labels, file
            )
            trainer = build(settings, dataset, torch.device("cpu"))
        make_steps(trainer, 1)
        began = time.perf_counter()
        make_steps(trainer, STEPS)
        epoch = (time.perf_counter() - began) / STEPS * trainer.task.steps_per_epoch
        with tempfile.TemporaryDirectory(dir=".") as parent, RunFolder(Path(parent), "run") as run:
            saves = []
            for _ in range(SAVES):
                began = time.perf_counter()
                state = trainer.state_dict() | {"rows": []}
                checkpoint.save(run, identity(settings, trainer), state)
                saves.append(time.perf_counter() - began)
        median = statistics.median(saves)
        print(f"{method:20}{median:10.3f} s{epoch:18.1f} s{median / epoch:9.2%}", flush=True)


if __name__ == "__main__":
    main()
