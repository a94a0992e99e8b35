"""Facts on images that a user gives in a table: labels of the training part, groups of both."""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from errors import UsageError, say

from .dataset import Dataset, content_digest

FOLDERS = "folders"  # in the place of a file of groups: the folders inside of the classes' folders


def relabelled(dataset: Dataset, path: Path) -> Dataset:
    """Give training images the labels of a table; the test part stays as it is.

    The table is a CSV with columns `image` and `label`, or, of all images in order, `label` alone;
    or an array of NumPy, int [N]. An image is its number from 0 or, of a folder, its path in
    train/. A label is the name of a class or its number. Images that are not named keep theirs.

    Raises:
        UsageError: naming the file, and the line that is wrong.
    """
    labels = np.array(dataset.train_labels)
    if path.suffix == ".npy":
        given = read_array(path, len(labels))
        check_range(given, dataset, path)
        labels = given
    else:
        rows = read_rows("labels", path, ("label",))
        numbers = {name: number for number, name in enumerate(dataset.classes)}
        names = dataset.names("train") if dataset.names else None
        places = places_of(rows, len(labels), names, path)
        for line, (place, row) in enumerate(zip(places, rows), 2):
            text = row["label"]
            number = numbers.get(text, int(text) if text.isdecimal() else -1)
            if not 0 <= number < len(numbers):
                raise UsageError(f"{path}: line {line}: {text!r} is no class of {len(numbers)}")
            labels[place] = number
    changed = (labels != dataset.train_labels).mean()
    say(f"note: {path}: another label for {changed:.2%} of the training images")
    old = np.array([dataset.sha256 or ""])
    sha256 = content_digest({"data": old, "train_labels": labels})
    return replace(dataset, train_labels=labels, sha256=sha256)


def grouped(dataset: Dataset, source: str) -> Dataset:
    """Name the group of each image, over which accuracies are reported.

    Args:
        source: `folders`, of train/CLASS/GROUP/IMAGE and test/ alike; or a CSV with columns `part`
            (train or test), `image` (as for `relabelled`) and `group`. It has to name all test
            images; the training images only where some are held out for validation.

    Raises:
        UsageError: naming the file or folder that is wrong.
    """
    sizes = {"train": len(dataset.train_labels), "test": len(dataset.test_labels)}
    names = {part: dataset.names(part) if dataset.names else None for part in sizes}
    given: dict[str, list[str | None]] = {part: [None] * size for part, size in sizes.items()}
    if source == FOLDERS:
        for part, paths in names.items():
            if paths is None:
                raise UsageError("`groups` folders: only of `dataset` folder; give a CSV")
            given[part] = [folder_of(path, part) for path in paths]
    else:
        path = Path(source)
        rows = read_rows("groups", path, ("part", "image", "group"))
        for part in sizes:
            mine = [row for row in rows if row["part"] == part]
            for place, row in zip(places_of(mine, sizes[part], names[part], path), mine):
                given[part][place] = row["group"]
        strange = {row["part"] for row in rows} - sizes.keys()
        if strange:
            raise UsageError(f"{path}: part {min(strange)!r}; give train or test")
    lacking = given["test"].count(None)
    if lacking:
        raise UsageError(f"`groups` {source}: no group for {lacking} of the test images; add them")
    groups = sorted({group for part in given.values() for group in part if group is not None})
    number = {group: i for i, group in enumerate(groups)} | {None: -1}
    arrays = {part: np.array([number[group] for group in given[part]]) for part in given}
    return replace(
        dataset,
        groups=tuple(groups),
        train_groups=None if (arrays["train"] < 0).any() else arrays["train"],
        test_groups=arrays["test"],
    )


def with_classes(dataset: Dataset, path: Path) -> Dataset:
    """Keep the classes that a file names, one in a line, in its order.

    Raises:
        UsageError: naming the file, for a class that is not there or comes twice.
    """
    try:
        chosen = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"`classes` {path}: cannot be read ({error}); give a text file") from None
    for name in chosen:
        if name not in dataset.classes or chosen.count(name) > 1:
            what = "twice" if name in dataset.classes else "no class of the data set"
            raise UsageError(f"{path}: {name}: {what}")
    if len(chosen) < 2:
        raise UsageError(f"{path}: {len(chosen)} classes; name two or more")
    numbers = np.full(len(dataset.classes), -1)
    numbers[[dataset.classes.index(name) for name in chosen]] = np.arange(len(chosen))
    kept_train, kept_test = (
        numbers[labels] >= 0 for labels in (dataset.train_labels, dataset.test_labels)
    )
    for part, kept in (("train", kept_train), ("test", kept_test)):
        if not kept.any():
            raise UsageError(f"{path}: no {part} images of these classes; name others")
    dataset = dataset.chosen("train", kept_train).chosen("test", kept_test)
    old = np.array([dataset.sha256 or ""])
    return replace(
        dataset,
        sha256=content_digest({"data": old, "classes": np.array(chosen)}),
        train_labels=numbers[dataset.train_labels],
        test_labels=numbers[dataset.test_labels],
        classes=tuple(chosen),
    )


def folder_of(path: str, part: str) -> str:
    parts = Path(path).parts
    if len(parts) < 3:
        raise UsageError(f"`groups` folders: {part}/{path} lies in no folder inside of its class's")
    return parts[1]


def read_array(path: Path, count: int) -> np.ndarray:
    try:
        array = np.load(path)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"`labels` {path}: cannot be read ({error}); give an array") from None
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        raise UsageError(f"{path}: {array.dtype} {list(array.shape)}; give whole numbers [{count}]")
    return array.astype(np.int64)


def check_range(labels: np.ndarray, dataset: Dataset, path: Path) -> None:
    if labels.min() < 0 or labels.max() >= len(dataset.classes):
        raise UsageError(
            f"{path}: labels {labels.min()} to {labels.max()} of {len(dataset.classes)} classes"
        )


def read_rows(setting: str, path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV that has some columns; a UsageError names what is missing."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, csv.Error) as error:
        raise UsageError(f"`{setting}` {path}: cannot be read ({error}); give a CSV") from None
    for column in columns:
        if column not in (reader.fieldnames or ()):
            raise UsageError(f"{path}: no column {column!r} in its first line")
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UsageError(f"{path}: line {line} has another number of cells than the first")
    return rows


def places_of(
    rows: Sequence[dict[str, str]], count: int, names: Sequence[str] | None, path: Path
) -> list[int]:
    """The number of the image that each row is on, from `image` or, without, in order."""
    if rows and "image" not in rows[0]:
        if len(rows) != count:
            raise UsageError(f"{path}: {len(rows)} labels for {count} images; add a column image")
        return list(range(count))
    known = {name: place for place, name in enumerate(names)} if names else {}
    places = []
    for row in rows:
        text = row["image"]
        place = known.get(text, int(text) if text.isdecimal() and not names else -1)
        if not 0 <= place < count:
            what = "a path" if names else f"a number up to {count - 1}"
            raise UsageError(f"{path}: no image {text!r}; give {what}")
        places.append(place)
    place, times = Counter(places).most_common(1)[0] if places else (0, 0)
    if times > 1:
        twice = rows[places.index(place)]["image"]
        raise UsageError(f"{path}: image {twice} twice; give it once")
    return places
