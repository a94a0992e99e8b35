"""Data sets of images and labels that the library `datasets` reads: of the Hub, or local copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from errors import UsageError

from .cache import cached
from .dataset import Dataset
from .loose import Pair, dataset_of, decode_parts

TESTED = ("test", "validation", "valid", "val")  # the first of these that there is


class Pairs:
    """A split as pairs of image and label."""

    def __init__(self, split: Any, image: str, label: str):
        self.split, self.image, self.label = split, image, label

    def __len__(self) -> int:
        return len(self.split)

    def __iter__(self) -> Iterator[Pair]:
        return ((row[self.image], row[self.label]) for row in self.split)


def load(root: Path, *, name: str, image_size: int | None, **_) -> Dataset:
    """`name` on the Hub, or a folder: one that `save_to_disk` wrote, or any that `datasets` reads.

    It is trained on the split `train` and tested on the first of `TESTED`. The columns are the one
    of images and the one of class labels.
    """
    try:
        import datasets
    except ImportError:
        raise UsageError(
            "`dataset` hf: the library datasets is not installed; pip install -r "
            "requirements-hf.txt"
        ) from None
    folder = next((path for path in (root / name, Path(name)) if path.is_dir()), None)
    try:
        if folder and (folder / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder or name), cache_dir=str(root / "hf"))
    except Exception as error:  # of many kinds: network, no such name, no data files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"`dataset` hf:{name}: cannot be read ({reason})") from error
    tested = next((split for split in TESTED if split in found), None)
    if "train" not in found or not tested:
        raise UsageError(
            f"`dataset` hf:{name}: splits {', '.join(found)}; it needs train, and {TESTED[0]} or "
            f"{TESTED[1]}"
        )
    features = found["train"].features
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise UsageError(
            f"`dataset` hf:{name}: columns {', '.join(features)}; it needs one of images and one "
            "of class labels"
        )
    image, label = images[0], "label" if "label" in labels else labels[0]
    parts: list[Any] = [Pairs(found[split], image, label) for split in ("train", tested)]
    prints = "-".join(found[split]._fingerprint for split in ("train", tested))
    arrays, sha256 = cached(
        root,
        f"hf-{image_size}-{prints}",
        [],
        lambda: decode_parts(parts, root, image_size, f"hf:{name}"),
    )
    names = features[label].names
    return dataset_of(arrays["images"], arrays["labels"], len(parts[0]), names, sha256)
