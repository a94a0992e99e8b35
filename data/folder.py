"""Any data set laid out as train/CLASS/IMAGE and test/CLASS/IMAGE (or val/CLASS/IMAGE)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from errors import UsageError

from .cache import cached
from .dataset import Dataset, channel_statistics, content_digest
from .image_files import decode_images
from .packed import PackedRows, packed
from .rows import Rows


def load(root: Path, *, image_size: int | None, cache: str = "uint8", **_) -> Dataset:
    """Classes are the folders' names, in order.

    Args:
        root: of the data set.
        image_size: height and width to resize images to, or, of packed ones, of their crops.
        cache: `uint8` for decoded images, which must have one size or be resized; `jpeg` for
            packed files.
    """
    evaluated = "val" if (root / "val").is_dir() and not (root / "test").is_dir() else "test"
    for part in ("train", evaluated):
        if not (root / part).is_dir():
            raise UsageError(
                f"`data_dir` {root}: no folder {part}/ there; it must hold train/ and test/ "
                "(or val/), each with one folder of images per class"
            )
    classes = class_names(root / "train")
    strangers = sorted(set(class_names(root / evaluated)) ^ set(classes))
    if strangers:
        where, other = ("train", evaluated) if strangers[0] in classes else (evaluated, "train")
        raise UsageError(
            f"{root / where / strangers[0]}: this class is not in {other}/; "
            "add its images there or remove the folder"
        )
    parts = {part: list_images(root / part, classes) for part in ("train", evaluated)}
    files = [file for paths, _ in parts.values() for file in paths]
    labels = {"train_labels": parts["train"][1], "test_labels": parts[evaluated][1]}
    count = len(parts["train"][0])
    train_images: np.ndarray | Rows
    test_images: np.ndarray | Rows
    if cache == "jpeg" and image_size:
        pack = packed(root, "folder", files)
        rows = PackedRows(pack, np.arange(len(files)), image_size)
        train_images, test_images = rows[:count], rows[count:]
        (mean, std), sha256, padding = train_images.statistics(), pack.sha256, 0
    else:
        arrays, sha256 = cached(
            root,
            f"folder-{image_size}",
            files,
            lambda: {"images": decode_images(files, root, image_size)},
        )
        train_images, test_images = np.split(arrays["images"], [count])
        (mean, std), padding = channel_statistics(train_images), Dataset.padding
    return Dataset(
        train_images=train_images,
        test_images=test_images,
        train_labels=labels["train_labels"],
        test_labels=labels["test_labels"],
        classes=tuple(classes),
        mean=mean,
        std=std,
        padding=padding,
        sha256=content_digest({"images": np.array([sha256]), **labels}),
        names=lambda part: names_in(root, "train" if part == "train" else evaluated, parts),
    )


def names_in(root: Path, folder: str, parts: dict[str, tuple[list[Path], np.ndarray]]) -> list[str]:
    return [path.relative_to(root / folder).as_posix() for path in parts[folder][0]]


def class_names(folder: Path) -> list[str]:
    names = []
    for path in entries(folder):
        if path.is_dir():
            names.append(path.name)
        elif not path.exists():
            raise not_a_file(path)
    if not names:
        raise UsageError(f"{folder}: no class folders in it; make one folder of images per class")
    return names


def list_images(folder: Path, classes: list[str]) -> tuple[list[Path], np.ndarray]:
    paths, labels = [], []
    for label, name in enumerate(classes):
        mine = files_below(folder / name)
        if not mine:
            raise UsageError(f"{folder / name}: no images in this class; add some or remove it")
        paths += mine
        labels += [label] * len(mine)
    return paths, np.array(labels, dtype=np.int64)


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and those in it, in order; a UsageError for what would be skipped."""
    files = []
    for path in entries(folder):
        if path.is_file():
            files.append(path)
        elif path.is_dir() and not path.is_symlink():
            files += files_below(path)
        else:
            raise not_a_file(path)
    return files


def entries(folder: Path) -> list[Path]:
    """Return the content of a folder, in order, but for what is hidden."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be read ({error.strerror}); make it readable or remove it"
        ) from error


def not_a_file(path: Path) -> UsageError:
    what = "not a file"
    if path.is_dir():
        what = "a link to a folder inside of a class, which is not followed"
    elif not path.exists():
        what = "a link to nothing"
    return UsageError(f"{path}: {what}; put images in its place or remove it")
