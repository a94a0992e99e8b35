"""torchvision's classification sets that come in fixed parts, by their names there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from errors import UsageError, say

from .cache import cached, locked
from .dataset import Dataset
from .loose import dataset_of, decode_parts

#: Arguments of the parts to train and to test on.
TRAIN, SPLIT = ({"train": True}, {"train": False}), ({"split": "train"}, {"split": "test"})
SETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "MNIST": TRAIN,
    "KMNIST": TRAIN,
    "QMNIST": TRAIN,
    "USPS": TRAIN,
    "EMNIST": ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
    "STL10": SPLIT,
    "Flowers102": SPLIT,
    "Food101": SPLIT,
    "DTD": SPLIT,
    "GTSRB": SPLIT,
    "FGVCAircraft": ({"split": "trainval"}, {"split": "test"}),
    "OxfordIIITPet": ({"split": "trainval"}, {"split": "test"}),
    "StanfordCars": SPLIT,
    "Country211": SPLIT,
    "PCAM": SPLIT,
    "RenderedSST2": SPLIT,
    "Imagenette": ({"split": "train"}, {"split": "val"}),
}
#: Of digits, letters and signs, which a mirror makes others of.
UNFLIPPED = ("MNIST", "KMNIST", "QMNIST", "USPS", "EMNIST", "GTSRB", "RenderedSST2")


def load(root: Path, *, name: str, image_size: int | None, **_) -> Dataset:
    """`name` of `SETS`, whose files lie in `root`/`name` as torchvision has them in its `root`.

    They are downloaded unless they are there. Labels, and the names of classes where torchvision
    knows them, are torchvision's.
    """
    if name not in SETS:
        raise UsageError(f"`dataset` torchvision:{name}: not one of {', '.join(SETS)}")
    folder = root / name
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a folder that can only be read has to be complete
            stack.enter_context(locked(folder, name))
        parts = [open_part(folder, name, which) for which in SETS[name]]
    arrays, sha256 = cached(
        folder,
        f"{name}-{image_size}",
        files_in(folder),
        lambda: decode_parts(parts, folder, image_size, f"torchvision:{name}"),
    )
    labels = arrays["labels"]
    known = getattr(parts[0], "classes", None) or range(int(labels.max()) + 1)
    flip = 0.0 if name in UNFLIPPED else 0.5
    return dataset_of(arrays["images"], labels, len(parts[0]), map(str, known), sha256, flip)


def files_in(folder: Path) -> list[Path]:
    """All files that images may be of, also in folders that are links."""
    paths = []
    for top, folders, names in os.walk(folder, followlinks=True):
        if Path(top) == folder:
            folders[:] = [name for name in folders if name != "cache"]
        paths += [Path(top, name) for name in names if not name.startswith(".")]
    return sorted(paths)


def open_part(folder: Path, name: str, which: dict[str, Any]) -> Any:
    """One of torchvision's parts, downloaded if it is not there."""
    import torchvision.datasets  # here, because importing it takes seconds

    make = getattr(torchvision.datasets, name)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return make(folder, download=False, **which)
    except (RuntimeError, OSError):  # as torchvision says that files are missing
        say(f"downloading {name} to {folder}")
    try:
        return make(folder, download=True, **which)
    except Exception as error:  # of many kinds: network, server, checksum, disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"`dataset` torchvision:{name}: not in {folder}, and the download failed ({reason}); "
            "put its files there"
        ) from error
