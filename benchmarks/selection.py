"""How long each way of choosing a core-set takes.

Features are non-negative and in clusters, as those of a network; most errors are small.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

from methods.selection import SELECTION, Candidates

from .ours import machine


def make_candidates(
    images: int, features: int, classes: int, budget: float
) -> tuple[Candidates, np.ndarray]:
    """Candidates as a trained network would give, and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=images)
    centres = 2 * rng.normal(size=(classes, features))
    given = np.maximum(centres[labels] + rng.normal(size=(images, features)), 0)
    logits = 3 * rng.normal(size=(images, classes))
    logits[np.arange(images), labels] += 6
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    means = errors[np.arange(images), labels].copy()
    errors[np.arange(images), labels] -= 1
    scores = np.linalg.norm(errors, axis=1).astype(np.float32)
    candidates = Candidates(
        scores,
        False,
        rng,
        budget,
        means=means.astype(np.float32),
        features=given.astype(np.float16),
        errors=errors.astype(np.float16),
    )
    return candidates, labels


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--images", type=int, default=50_000, help="[default: 50000]")
    parser.add_argument("--features", type=int, default=512, help="of each [default: 512]")
    parser.add_argument("--classes", type=int, default=10, help="[default: 10]")
    parser.add_argument("--budget", type=float, default=0.3, help="to choose [default: 0.3]")
    options = parser.parse_args(arguments)
    candidates, labels = make_candidates(
        options.images, options.features, options.classes, options.budget
    )
    print(machine())
    print(f"{'':<20}{'seconds':>8}{'most GiB so far':>18}")
    for name, rule in SELECTION.items():
        groups = [np.arange(options.images)]
        if rule.always_per_class:
            groups = [np.flatnonzero(labels == label) for label in range(options.classes)]
        start = time.perf_counter()
        for group in groups:
            rule.choose(candidates[group], int(options.budget * len(group)))
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:<20}{seconds:8.2f}{memory:18.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
