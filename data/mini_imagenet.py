"""mini-ImageNet (Vinyals et al. 2016): 60,000 colour images of 84x84 in 100 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from errors import UsageError

from .cache import cached
from .dataset import Dataset
from .image_files import decode_images

TABLES = ("train.csv", "val.csv", "test.csv")  # the few-shot split, which parts the classes
SIDE = 84  # pixels


def load(root: Path, *, data_seed: int, **_) -> Dataset:
    """`mini-imagenet/` in `root`: images/ and the three tables of `filename,label`.

    The few-shot split has no class in common, so for classification all three are joined,
    shuffled with the data seed and cut 5:1 into train and test, as in Arazo et al. 2021.
    """
    folder = root / "mini-imagenet"
    table = pd.concat([read_table(folder / name) for name in TABLES], ignore_index=True)
    files = [folder / "images" / name for name in table["filename"]]
    sources = [*(folder / name for name in TABLES), *files]
    images = cached(root, "mini-imagenet", sources, lambda: dict(images=decode_images(files, SIDE)))
    classes, labels = np.unique(table["label"].to_numpy(dtype=str), return_inverse=True)

    order = np.random.default_rng(data_seed).permutation(len(labels))
    train, test = np.split(order, [len(order) * 5 // 6])
    return Dataset(
        train_images=images["images"][train],
        train_labels=labels[train],
        test_images=images["images"][test],
        test_labels=labels[test],
        classes=tuple(map(str, classes)),
        mean=(0.4728, 0.4487, 0.4031),
        deviation=(0.2744, 0.2663, 0.2806),
    )


def read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(
            f"--data-dir: {path} is not there; mini-ImageNet cannot be downloaded, so put images/ "
            f"and {', '.join(TABLES)} in {path.parent}"
        )
    try:
        table = pd.read_csv(path, dtype=str)
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: not a readable CSV file ({error})") from error
    for column in ("filename", "label"):
        if column not in table:
            raise UsageError(f"{path}: no column {column!r}; its header must be filename,label")
    for row, (name, label) in enumerate(zip(table["filename"], table["label"]), start=2):
        if not isinstance(name, str) or not isinstance(label, str):
            raise UsageError(
                f"{path}: line {row} lacks its filename or label; complete or delete it"
            )
        if not (path.parent / "images" / name).is_file():
            raise UsageError(
                f"{path}: line {row} names images/{name}, which is not there; "
                "add the image or delete the line"
            )
    return table
