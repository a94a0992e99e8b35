"""Cost of hardness weighted sampling per iteration, for your own number of images.

An iteration is a draw of a batch, its importance weights and the update of its losses. Beside it
stands the straightforward implementation: a softmax over all stale losses, the floor,
numpy.random.choice without replacement, and loops over the batch for weights and updates.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from budgetbench import HardnessWeightedSampler
from budgetbench.hardness_weighted import CLIP, FLOOR
from engine.flags import HelpFormatter
from engine.machine import find_device
from engine.values import number
from errors import UsageError, as_flags

from .ours import machine

SECONDS = 4.0  # spent on each row of the table
TURNS = 50  # iterations of ours for each of the plain one, which takes so much longer
PLAIN_IMAGES = 100_000_000  # above which the plain one takes seconds an iteration


class PlainSampler:
    """The method as its formulas say it, one step after the other."""

    def __init__(self, num_samples: int, batch_size: int, beta: float):
        self.losses = torch.ones(num_samples) * (1 + 0.001 * torch.randn(num_samples))
        self.batch_size, self.beta = batch_size, beta

    def iterate(self, new_losses: Tensor) -> None:
        probabilities = (self.beta * self.losses).softmax(0).double().numpy()
        floor = FLOOR / len(probabilities)
        probabilities = np.maximum(probabilities, floor)
        probabilities /= probabilities.sum()
        index = np.random.choice(
            len(probabilities), self.batch_size, replace=False, p=probabilities
        )
        weights = torch.empty(self.batch_size)
        for row, image in enumerate(index):
            change = new_losses[row] - self.losses[image]
            weights[row] = torch.exp(self.beta * change).clamp(*CLIP)
        for row, image in enumerate(index):
            self.losses[image] = new_losses[row]


def iterate(sampler: HardnessWeightedSampler, losses: Tensor) -> list[float]:
    """Milliseconds of the draw, the importance weights and the update, and of all three."""
    clock, wait = time.perf_counter, torch.cuda.synchronize
    on_cuda = sampler.device.type == "cuda"
    start = clock()
    index = sampler.draw()
    if on_cuda:
        wait()
    drawn = clock()
    sampler.importance_weights(index, losses)
    if on_cuda:
        wait()
    weighed = clock()
    sampler.update(index, losses)
    if on_cuda:
        wait()
    end = clock()
    seconds = (drawn - start, weighed - drawn, end - weighed, end - start)
    return [1e3 * part for part in seconds]


def iterate_plain(plain: PlainSampler, losses: Tensor) -> float:
    """Milliseconds of an iteration."""
    start = time.perf_counter()
    plain.iterate(losses)
    return 1e3 * (time.perf_counter() - start)


def measure(sampler: HardnessWeightedSampler, plain: PlainSampler | None) -> list[float]:
    """Median milliseconds of draw, weights, update and their sum; of plain; ratio by turns."""
    ours, theirs, ratios = [], [], []
    rng = torch.Generator().manual_seed(1)
    deadline = time.perf_counter() + SECONDS
    while len(ours) < 7 * TURNS or time.perf_counter() < deadline:
        turn = []
        for _ in range(TURNS):
            losses = 3 * torch.rand(sampler.batch_size, generator=rng)
            turn.append(iterate(sampler, losses.to(sampler.device)))
        ours += turn
        if plain is not None:
            theirs.append(iterate_plain(plain, losses))
            ratios.append(theirs[-1] / np.median(turn, 0)[-1])
    first = len(ours) // 10  # the first ones warm up
    missing = float("nan")
    return [
        *np.median(ours[first:], 0),
        np.median(theirs) if theirs else missing,
        np.median(ratios) if ratios else missing,
    ]


def bytes_per_image(sampler: HardnessWeightedSampler) -> float:
    """Return the bytes of all that the sampler keeps."""
    arrays = [] if sampler.tree is None else [*sampler.tree.levels, sampler.tree.top]
    total = sampler.losses.numel() * sampler.losses.element_size()
    return (total + sum(array.nbytes for array in arrays)) / sampler.num_samples


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sampler_overhead",
        description=__doc__.split("\n\n")[0],
        formatter_class=HelpFormatter,
    )
    whole = number(int, low=1)
    parser.add_argument(
        "--num-samples",
        type=whole,
        nargs="+",
        default=[50_000],
        metavar="N",
        help="images of your data set; several make a table [default: 50000]",
    )
    parser.add_argument(
        "--batch-size", type=whole, default=128, metavar="N", help="images of a batch"
    )
    parser.add_argument(
        "--beta",
        type=number(float, low=0),
        nargs="+",
        default=[1.0, 100.0],
        metavar="X",
        help="robustness, per unit of loss [default: 1 100]",
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:1, ...")
    arguments = parser.parse_args()
    if arguments.batch_size > min(arguments.num_samples):
        parser.error(f"--batch-size: give at most {min(arguments.num_samples)}, the --num-samples")
    try:
        arguments.device = find_device(arguments.device)
    except UsageError as error:
        parser.error(as_flags(str(error)))
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    print(machine())
    print(f"\nmedian ms per iteration, batch {arguments.batch_size}, on {arguments.device}\n")
    print("| N | beta | draw | weights | update | sum | plain | ratio | bytes per image | MB |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for n in arguments.num_samples:
        for beta in arguments.beta:
            sampler = HardnessWeightedSampler(
                n, arguments.batch_size, beta=beta, device=arguments.device
            )
            plain = PlainSampler(n, arguments.batch_size, beta) if n <= PLAIN_IMAGES else None
            *times, plain_time, ratio = measure(sampler, plain)
            cells = [f"{n:,}", f"{beta:g}", *(f"{each:.3f}" for each in times)]
            cells += [f"{plain_time:.2f}", f"{ratio:.0f}"] if plain else ["", ""]
            size = bytes_per_image(sampler)
            print(f"| {' | '.join(cells)} | {size:.1f} | {size * n / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    main()
