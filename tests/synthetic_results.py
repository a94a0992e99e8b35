"""Results folders as train.py leaves them, with numbers that are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

IMAGES = 50_000
VERSIONS = {"code": "0.1.0", "commit": "abc1234", "torch": "2.11.0"}
SETTINGS = {
    "method": "SGD",
    "augmentation": "standard",
    "dataset": "cifar10",
    "model": "resnet18",
    "budget": 1.0,
    "epochs": 4,
    "batch_size": 128,
    "lr": 0.1,
    "schedule": "linear",
    "milestones": [],
    "validation": None,
    "imbalance": None,
    "label_noise": None,
    "seed": 1,
    "results_dir": "results",
    "device": "cpu",
    "method_options": {},
    "augmentation_options": {},
}


def make_curve(
    accuracy: float,
    epochs: int,
    budget: float,
    scored: float = 0,
    entropy: float = 10.8,
    worst: float | None = None,
    seconds: float = 10,
) -> pd.DataFrame:
    """A curve that rises to an accuracy in percent.

    Args:
        scored: images scored per image trained.
        worst: accuracy of the worst class, by default 10 below; the 5th percentile is 2 above.
        seconds: of training an epoch at full budget.
    """
    epoch = np.arange(1, epochs + 1)
    rise = 1 - 0.85 * np.exp(-4 * epoch / epochs)
    trained = (epoch * int(budget * IMAGES)).astype(int)
    values = accuracy * rise / rise[-1]
    low = values - 10 if worst is None else values + worst - accuracy
    return pd.DataFrame(
        {
            "epoch": epoch,
            "step": trained // 128,
            "lr": 0.1 * (1 - epoch / epochs),
            "train_loss": 2 / epoch,
            "train_accuracy": values,
            "test_loss": 2 / epoch,
            "test_accuracy": values,
            "worst_class_accuracy": low,
            "class_accuracy_p5": low + 2,
            "images_scored": (scored * trained).astype(int),
            "images_trained": trained,
            "count_entropy": entropy - 0.2 / epoch + 0.2 / epochs,
            "select_seconds": 0.1 * epoch,
            "data_seconds": 0.2 * epoch,
            "train_seconds": seconds * budget * (1 + 0.4 * scored) * epoch,
            "eval_seconds": 0.5 * epoch,
        }
    )


def write_run(
    folder: Path,
    accuracy: float,
    settings: Mapping = {},
    versions: Mapping = VERSIONS,
    status: str = "finished",
    facts: Mapping = {},
    **curve: float,
) -> Path:
    """Write one run; config.json gets `facts` too, `curve` goes to `make_curve`."""
    settings = SETTINGS | dict(settings)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"settings": settings, "num_images": IMAGES, "versions": dict(versions), **facts}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    table = make_curve(accuracy, settings["epochs"], settings["budget"], **curve)
    table.to_csv(folder / "curve.csv", index=False)
    (folder / "status").write_text(f"{status}\n")
    return folder
