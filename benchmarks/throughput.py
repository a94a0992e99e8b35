"""Images per second of training, where its time goes, and how much of the machine's rate it gets.

python -m benchmarks.throughput --model resnet18 --data-dir DIR
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from data import Dataset
from engine.flags import HelpFormatter, Parser
from engine.machine import find_device, set_up_torch
from engine.models import create_model
from engine.trainer import Trainer
from engine.values import number, one_of
from errors import exit_status_of
from methods import METHODS

from .kernels import measure_kernels
from .ours import (
    PASSED_ON,
    WARM_UP,
    load,
    machine,
    make_steps,
    make_trainer,
    print_table,
    read_settings,
    seconds,
    split,
)
from .plain_loop import PLAIN_LOOPS

#: Switches of train.py, and in what its matrix products are then computed.
SWITCHES = {
    "float32": ("--amp off", torch.float32),
    "bf16": ("--amp bf16", torch.bfloat16),
    "float32, compiled": ("--amp off --compile", torch.float32),
    "bf16, compiled": ("--amp bf16 --compile", torch.bfloat16),
}


def matrix_rate(
    device: torch.device, dtype: torch.dtype, tf32: bool = False, size: int | None = None
) -> float:
    """TFLOP/s of a product of square matrices (of `size` rows), the best of five turns."""
    large, times = (8192, 10) if device.type == "cuda" else (1024, 4)
    size = size or large
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")

    def multiply() -> None:
        for _ in range(times):
            a @ b

    multiply()
    best = min(seconds(multiply, device) for _ in range(5))
    torch.set_float32_matmul_precision(before)
    return 2 * size**3 * times / best / 1e12


def measure_matrices(device: torch.device) -> dict[torch.dtype, float]:
    """The rates that training is held against: in float32, that of TF32 where there is."""
    kinds = {"float32": (torch.float32, False), "bf16": (torch.bfloat16, False)}
    if device.type == "cuda":
        kinds["TF32"] = (torch.float32, True)
    rates = {name: matrix_rate(device, *kind) for name, kind in kinds.items()}
    rows = [[name, f"{rate:.2f}"] for name, rate in rates.items()]
    print_table("a large matrix product", ["in", "TFLOP/s"], rows)
    return {
        torch.float32: rates.get("TF32", rates["float32"]),
        torch.bfloat16: rates["bf16"],
    }


def count_flops(name: str, dataset: Dataset, backward: bool = True) -> float:
    """Floating-point operations of the forward (and backward) pass of one image."""
    channels, *size = dataset.train_images.shape[1:]
    model = create_model(name, channels, len(dataset.classes), tuple(size))
    images = torch.zeros(2, channels, *size)
    with FlopCounterMode(display=False) as counter:
        total = model(images).sum()
        if backward:
            total.backward()
    return counter.get_total_flops() / len(images)


def take_turns(
    trainers: dict[str, Trainer], arguments: argparse.Namespace
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Seconds of each turn's steps, and the clock's fractions of selection, data and training."""
    times, before = {name: [] for name in trainers}, {}
    for name, trainer in trainers.items():
        make_steps(trainer, WARM_UP)
        before[name] = phases(trainer)
    for _ in range(arguments.turns):
        for name, trainer in trainers.items():
            work = partial(make_steps, trainer, arguments.steps)
            times[name].append(seconds(work, trainer.device))
    results = {}
    for name, trainer in trainers.items():
        spent = phases(trainer) - before[name]
        results[name] = np.array(times[name]), [f"{share:.1%}" for share in spent / spent.sum()]
    return results


def phases(trainer: Trainer) -> np.ndarray:
    """Seconds [3] so far in selection, data and training."""
    return np.array([trainer.clock.seconds(name) for name in ("select", "data", "train")])


def measure_switches(
    words: list[str], dataset: Dataset, arguments: argparse.Namespace, rates: dict
) -> None:
    """Training with each combination of switches, beside the first of them."""
    trainers = {
        name: make_trainer(read_settings([*words, *SWITCHES[name][0].split()]), dataset)
        for name in arguments.switches
    }
    results = take_turns(trainers, arguments)
    first = next(iter(trainers))
    images = arguments.steps * trainers[first].task.batch_size
    flops = count_flops(read_settings(words).model, dataset)
    rows = []
    for name, (times, shares) in results.items():
        achieved = images * flops / np.median(times) / 1e12
        share = achieved / rates[SWITCHES[name][1]]
        ratio = np.median(results[first][0] / times)
        row = [name, f"{images / np.median(times):,.0f}", f"{ratio:.2f}", f"{achieved:.2f}"]
        rows.append([*row, f"{share:.0%}", *shares])
    heads = ["switches", "images/s", f"times {first}", "TFLOP/s", "of the rate of matrix products"]
    title = f"training: medians of {arguments.turns} turns of {arguments.steps} steps"
    print_table(title, [*heads, "select", "data", "train"], rows)


def measure_methods(words: list[str], dataset: Dataset, arguments: argparse.Namespace) -> None:
    """Print what methods add to the steps of SGD."""
    names = dict.fromkeys(["SGD", *arguments.methods])
    trainers = {
        name: make_trainer(read_settings([*words, "--method", name]), dataset) for name in names
    }
    results = take_turns(trainers, arguments)
    rows = []
    for name, (times, shares) in results.items():
        ratio = np.median(times / results["SGD"][0])
        milliseconds = 1e3 * np.median(times) / arguments.steps
        rows.append([name, f"{milliseconds:.2f}", f"{ratio:.2f}", *shares])
    heads = ["method", "ms per step", "relative to SGD", "select", "data", "train"]
    print_table("methods; scoring counts as selection", heads, rows)


def measure_scoring(words: list[str], dataset: Dataset, arguments: argparse.Namespace) -> None:
    """Images per second that selective-backprop scores and picks from, beside scoring alone."""
    trainer = make_trainer(read_settings([*words, "--method", "selective-backprop"]), dataset)
    make_steps(trainer, WARM_UP)
    device = trainer.device
    picking, scoring = [], []
    for _ in range(arguments.turns):
        scored, spent = trainer.images_scored, trainer.clock.seconds("select")
        make_steps(trainer, arguments.steps)
        scored = trainer.images_scored - scored
        picking.append(scored / (trainer.clock.seconds("select") - spent))
        images = trainer.loader.images.between(0, trainer.task.batch_size)
        images = trainer.loader.normalise(images)
        count = scored // len(images)

        def score(images: Tensor = images, count: int = count) -> None:
            for _ in range(count):
                trainer.network.score(images)

        scoring.append(count * len(images) / seconds(score, device))
    row = [f"{np.median(picking):,.0f}", f"{np.median(scoring):,.0f}"]
    row.append(f"{np.median(np.divide(picking, scoring)):.2f}")
    print_table("selective-backprop", ["scored and picked/s", "scored/s", "ratio"], [row])


def measure(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.throughput",
        description=__doc__.splitlines()[0],
        epilog=PASSED_ON,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    positive = number(int, low=1)
    parser.add_argument("--data-dir", default="datasets", metavar="DIR", help="of CIFAR-10")
    parser.add_argument("--model", default="resnet18", metavar="NAME", help="train.py's")
    parser.add_argument(
        "--methods", type=one_of(METHODS), nargs="+", default=list(PLAIN_LOOPS), metavar="NAME"
    )
    parser.add_argument(
        "--switches", type=one_of(SWITCHES), nargs="+", metavar="NAMES", help="all by default"
    )
    parser.add_argument("--steps", type=positive, default=50, metavar="N", help="of a turn")
    parser.add_argument("--turns", type=positive, default=3, metavar="N", help="of each row")
    parser.add_argument("--num-threads", type=positive, default=2, metavar="N", help="on a CPU")
    own, words = split(arguments)
    options = parser.parse_args(own)
    ours = ["--dataset", "cifar10", "--model", options.model, "--epochs", "1000"]
    words = [*ours, "--num-threads", str(options.num_threads), *words]
    settings = read_settings(words)
    device = find_device(settings.device)
    set_up_torch(settings, device)
    if options.switches is None:  # train.py refuses the last of them on a CPU
        options.switches = list(SWITCHES) if device.type == "cuda" else list(SWITCHES)[:-1]
    dataset, source = load(Path(options.data_dir))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{machine()}\ndevice: {name}; data: {source}\ntrain.py {' '.join(words)}", flush=True)
    rates = measure_matrices(device)
    measure_switches(words, dataset, options, rates)
    measure_methods(words, dataset, options)
    measure_scoring(words, dataset, options)
    measure_kernels(words, dataset, options.steps)
    return 0


def main(arguments: list[str]) -> int:
    return exit_status_of("python -m benchmarks.throughput", lambda: measure(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
