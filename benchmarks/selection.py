"""What it costs to decide which images to train on."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from budgetbench import SelectiveBackpropSelector, draw_without_replacement
from engine.values import number
from methods import METHODS, Batch, Method, Task

from .pipeline import machine
from .score_files import noise_options

BATCH_SIZE, CLASSES, BUDGET = 128, 10, 0.5
IMAGES = 50_000
CANDIDATES = 10  # batches, the most that a method chooses from
MEASURED = {
    "unif-SGD": {},
    "p-SGD": {},
    "c-SGD": {},
    "dro": {},
    "infobatch": {},
    "grad-norm": {"gradnorm_tau": 0},  # always on
    "obftf": {},
    "cvar": {},
    "random-subset": {},
    "coreset": {},
    "rho-loss": {},
}


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def compare(ours: Callable, theirs: Callable, repeats: int) -> tuple[float, float, float]:
    """Median milliseconds of both, taking turns after a first call, and of their ratio."""
    ours(), theirs()
    times = np.array([(milliseconds(ours), milliseconds(theirs)) for _ in range(repeats)])
    return *np.median(times, 0), np.median(times[:, 1] / times[:, 0])


def make_task(num_images: int) -> Task:
    subset_size = int(BUDGET * num_images)
    return Task(
        dataset="none",
        labels=np.zeros(num_images, dtype=np.int64),
        num_images=num_images,
        num_classes=CLASSES,
        batch_size=BATCH_SIZE,
        budget=BUDGET,
        subset_size=subset_size,
        steps_per_epoch=subset_size // BATCH_SIZE,
        epochs=1,
        device=torch.device("cpu"),
        seed=1,
    )


def measure_drawing(sizes: dict[int, int]) -> None:
    """Half of N images without replacement, against NumPy's draw of the same law."""
    print("\nhalf of N images drawn without replacement, with unequal weights: median ms\n")
    print("| N | draw_without_replacement | numpy choice | ratio |")
    print("|--:|--:|--:|--:|")
    for n, repeats in sizes.items():
        rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(1)
        weights = torch.rand(n, generator=generator) + 0.01
        probabilities = weights.double().numpy() / weights.double().sum().item()
        ours, theirs, ratio = compare(
            lambda n=n, w=weights, g=generator: draw_without_replacement(w, n // 2, g),
            lambda n=n, p=probabilities, g=rng: g.choice(n, n // 2, replace=False, p=p),
            repeats,
        )
        print(f"| {n:,} | {ours:.2f} | {theirs:.2f} | {ratio:.1f} |", flush=True)


def kept_one_by_one(losses: list[float], history: deque[float], beta: float) -> list[bool]:
    """What `SelectiveBackpropSelector.kept` does, in a loop over images and past losses."""
    history.extend(losses)
    kept = []
    for loss in losses:
        percentile = sum(loss > other for other in history) / len(history)
        kept.append(random.random() < percentile**beta)
    return kept


def measure_percentiles(repeats: int) -> None:
    """selective-backprop's coins for one scored batch, against a loop over its images."""
    selector = SelectiveBackpropSelector(BATCH_SIZE, beta=1 / BUDGET - 1)
    size = selector.HISTORY
    past, losses = torch.rand(size), torch.rand(BATCH_SIZE)
    selector.kept(past)
    history, values = deque(past.tolist(), size), losses.tolist()
    ours, theirs, ratio = compare(
        lambda: selector.kept(losses),
        lambda: kept_one_by_one(values, history, selector.beta),
        repeats,
    )
    print(f"\npercentiles and coins of {BATCH_SIZE} losses among {size:,}: median ms\n")
    print("| SelectiveBackpropSelector.kept | plain Python | ratio |")
    print("|--:|--:|--:|")
    print(f"| {ours:.3f} | {theirs:.2f} | {ratio:.0f} |", flush=True)


def step_costs(method: Method) -> dict[str, float]:
    """Milliseconds per step of each question that the loop asks, over about a budgeted epoch.

    Scoring, which is the model's time, is not in it.
    """
    costs = dict.fromkeys(["draw", "choose", "reweigh", "observe"], 0.0)

    def ask(question: str, *details) -> object:
        start = time.perf_counter()
        answer = getattr(method, question)(*details)
        costs[question] += 1e3 * (time.perf_counter() - start)
        return answer

    size = CANDIDATES * BATCH_SIZE
    logits, images = torch.randn(size, CLASSES), torch.zeros(size, 3, 32, 32)
    labels = torch.zeros(size, dtype=torch.int64)
    targets = torch.eye(CLASSES)[labels]
    losses, step, steps = torch.rand(BATCH_SIZE), 0, method.task.steps_per_epoch
    while step < steps:
        for index in ask("draw", step / steps):
            b = len(index)
            candidates = Batch(images[:b], targets[:b], labels[:b], index)
            batch = ask("choose", candidates, lambda batch: logits[: len(batch)])
            ask("reweigh", batch, losses)
            ask("observe", batch, logits[:BATCH_SIZE], losses)
            step += 1
    return {question: cost / step for question, cost in costs.items()}


def make_method(name: str, options: dict) -> Method:
    task = make_task(IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        file = noise_options(name, task.dataset, task.labels, Path(folder) / "scores.npz")
        return METHODS[name](task, **file, **options)


def measure_steps(repeats: int) -> None:
    """What a method adds to a step; draws of many steps are shared by these."""
    print(f"\nper step of {BATCH_SIZE} of {IMAGES:,} images: median ms\n")
    print("| method | draw | choose | reweigh | observe | sum |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, options in MEASURED.items():
        method = make_method(name, options)
        step_costs(method)  # not counted: the first one warms up
        epochs = [list(step_costs(method).values()) for _ in range(repeats)]
        costs = [*np.median(epochs, 0), np.median(np.sum(epochs, 1))]
        print(f"| {name} | {' | '.join(f'{cost:.4f}' for cost in costs)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--large", action="store_true", help="draw from ten million images too")
    parser.add_argument("--num-threads", type=number(int, low=1), default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    print(machine())
    measure_drawing({50_000: 50, 1_000_000: 9} | ({10_000_000: 3} if arguments.large else {}))
    measure_percentiles(100)
    measure_steps(9)


if __name__ == "__main__":
    main()
