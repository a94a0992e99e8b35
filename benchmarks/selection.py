"""How long each way of choosing a core-set takes.

    python -m benchmarks.selection

Features are non-negative and in clusters, as those of a network; errors are its, of which most are
small.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from engine.source import processor_name
from methods.selection import SELECTION, Candidates


def make_candidates(images: int, features: int, classes: int) -> tuple[Candidates, np.ndarray]:
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
        means=means.astype(np.float32),
        features=given.astype(np.float16),
        errors=errors.astype(np.float16),
    )
    return candidates, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--budget", type=float, default=0.3)
    options = parser.parse_args()
    candidates, labels = make_candidates(options.images, options.features, options.classes)
    print(f"{options.images:,} images, {options.features} features, {processor_name()}")
    for name, rule in SELECTION.items():
        groups = [np.arange(options.images)]
        if rule.always_per_class:
            groups = [np.flatnonzero(labels == label) for label in range(options.classes)]
        start = time.perf_counter()
        for group in groups:
            rule.choose(candidates[group], int(options.budget * len(group)))
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:<18} {seconds:7.2f} s   most memory so far {memory:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
