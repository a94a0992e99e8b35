"""mini-ImageNet (Vinyals et al. 2016): 60,000 colour images of 84x84 in 100 classes."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np

from errors import UsageError

from .cache import cached
from .dataset import Dataset, content_digest
from .image_files import decode_images
from .rows import Rows

TABLES = ("train.csv", "val.csv", "test.csv")  # the few-shot split, which parts the classes
SIDE = 84  # pixels


def load(root: Path, *, data_seed: int, image_size: int | None = None, **_) -> Dataset:
    """`mini-imagenet/` in `root`: images/ and the three tables of `filename,label`.

    The few-shot split has no class in common, so for classification all three are joined,
    shuffled with the data seed and cut 5:1 into train and test, as in Arazo et al. 2021. Images
    are resized to `image_size`, by default to 84, their size.
    """
    folder = root / "mini-imagenet"
    rows = [row for name in TABLES for row in read_table(folder / name)]
    if len(rows) < 2:
        raise UsageError(
            f"{folder}: its tables name {len(rows) or 'no'} images, and training and testing need "
            "one each; fill them with filename,label"
        )
    name, number = Counter(name for name, _ in rows).most_common(1)[0]
    if number > 1:
        raise UsageError(
            f"{folder}: its tables name images/{name} {number} times, so that it could be in "
            "training and in test; delete the other lines"
        )
    files = [folder / "images" / name for name, _ in rows]
    sources = [*(folder / name for name in TABLES), *files]
    side = image_size or SIDE
    arrays, sha256 = cached(
        root,
        f"mini-imagenet-{side}",
        sources,
        lambda: {"images": decode_images(files, root, side, colour=True)},
    )
    classes, labels = np.unique([label for _, label in rows], return_inverse=True)

    order = np.random.default_rng(data_seed).permutation(len(labels))
    train, test = np.split(order, [len(order) * 5 // 6])
    images = Rows.of(arrays["images"])
    return Dataset(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple(map(str, classes)),
        mean=(0.4728, 0.4487, 0.4031),
        std=(0.2744, 0.2663, 0.2806),
        sha256=content_digest({"images": np.array([sha256]), "labels": labels}),
    )


def read_table(path: Path) -> list[tuple[str, str]]:
    """The file name and label of each row; a UsageError names what is missing."""
    if not path.is_file():
        raise UsageError(
            f"`data_dir`: {path} is not there; mini-ImageNet cannot be downloaded, so put images/ "
            f"and {', '.join(TABLES)} in {path.parent}"
        )
    images = path.parent / "images"
    present = set(os.listdir(images)) if images.is_dir() else set()
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        try:
            for column in ("filename", "label"):
                if column not in (reader.fieldnames or ()):
                    raise UsageError(
                        f"{path}: no column {column!r} in its first line; it must be filename,label"
                    )
            return [check_row(path, reader.line_num, row, present) for row in reader]
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num}: {error}; fix the table") from error


def check_row(path: Path, line: int, row: dict[str, str], present: set[str]) -> tuple[str, str]:
    name, label = row["filename"], row["label"]
    if not name or not label:
        raise UsageError(f"{path}: line {line} lacks its filename or label; fix or delete it")
    if name not in present:
        raise UsageError(
            f"{path}: line {line} names images/{name}, which is not there; add the image or "
            "delete the line"
        )
    return name, label
