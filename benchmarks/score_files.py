"""A score file of noise, for methods that need one where only their work is of interest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.options import options_of
from methods import METHODS
from methods.scores import ScoreFile, digest


def noise_options(method: str, dataset: str, labels: np.ndarray, path: Path) -> dict[str, str]:
    """Options that give a method a file of noise, written to `path`; {} if it needs none."""
    needing = [
        name for name, (*_, facts) in options_of(METHODS[method]).items() if "needed" in facts
    ]
    if needing:
        noise = np.random.default_rng(0).random(len(labels), dtype=np.float32)
        file = ScoreFile(dataset, digest(labels), {"irreducible-loss": noise})
        path.write_bytes(file.to_bytes())
    return dict.fromkeys(needing, str(path))


def noise_flags(method: str, dataset: str, labels: np.ndarray, path: Path) -> list[str]:
    """`noise_options` as words of a command line."""
    options = noise_options(method, dataset, labels, path)
    return [
        word for name, file in options.items() for word in ("--" + name.replace("_", "-"), file)
    ]
