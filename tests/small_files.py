"""Small data sets of noise, written in the formats of the real ones; the same for a seed."""

from __future__ import annotations

import csv
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
CIFAR10_CLASSES += ("dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
FASHION_CLASSES += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR100_CLASSES = [f"kind_{number:02}" for number in range(100)]
MINI_IMAGENET_CLASSES = [f"n{number:08}" for number in range(100)]
MINI_IMAGENET_SPLIT = {"train.csv": range(64), "val.csv": range(64, 80), "test.csv": range(80, 100)}


class Written(NamedTuple):
    """What was written, as a loader should give it back."""

    train_images: np.ndarray  # uint8 [n, channels, height, width]
    train_labels: np.ndarray  # int64 [n]
    test_images: np.ndarray  # uint8 [m, channels, height, width]
    test_labels: np.ndarray  # int64 [m]
    classes: tuple[str, ...]
    files: list[Path]


class PythonTwoPickler(pickle._Pickler):
    """Writes text as the byte strings of Python 2, which made the pickles of the real CIFAR."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_byte_string(self, text: str | bytes) -> None:
        encoded = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(encoded)) + encoded)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_byte_string


def noise(
    seed: int, counts: Sequence[int], classes: int, shape: tuple[int, int, int]
) -> list[np.ndarray]:
    """Images and labels of each part in turn; every class appears if there are enough images."""
    random = np.random.default_rng(seed)
    arrays = []
    for count in counts:
        arrays.append(random.integers(0, 256, (count, *shape), dtype=np.uint8))
        arrays.append(random.permutation(np.arange(count) % classes))
    return arrays


def write_pickle(path: Path, content: dict) -> None:
    """A pickle as Python 2 and its NumPy wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        PythonTwoPickler(file, protocol=2).dump(content)
    path.write_bytes(
        path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    )


def write_cifar10(root: Path, *, seed: int = 0, train: int = 200, test: int = 40) -> Written:
    """`cifar-10-batches-py/` in `root`; `train` is cut into the five batches."""
    folder = root / "cifar-10-batches-py"
    arrays = noise(seed, (train, test), 10, (3, 32, 32))
    batches = {
        f"data_batch_{number + 1}": (images, labels)
        for number, (images, labels) in enumerate(
            zip(np.array_split(arrays[0], 5), np.array_split(arrays[1], 5))
        )
    } | {"test_batch": (arrays[2], arrays[3])}
    for name, (images, labels) in batches.items():
        content = {
            "batch_label": name.replace("_", " "),
            "labels": labels.tolist(),
            "data": images.reshape(len(images), -1),
            "filenames": [f"{number}.png" for number in range(len(images))],
        }
        write_pickle(folder / name, content)
    meta = {
        "num_cases_per_batch": train // 5,
        "label_names": list(CIFAR10_CLASSES),
        "num_vis": 3072,
    }
    write_pickle(folder / "batches.meta", meta)
    files = [folder / name for name in (*batches, "batches.meta")]
    return Written(*arrays, CIFAR10_CLASSES, files)


def write_cifar100(root: Path, *, seed: int = 0, train: int = 200, test: int = 100) -> Written:
    """`cifar-100-python/` in `root`."""
    folder = root / "cifar-100-python"
    arrays = noise(seed, (train, test), 100, (3, 32, 32))
    for name, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        content = {
            "filenames": [f"{number}.png" for number in range(len(images))],
            "batch_label": name,
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels // 5).tolist(),
            "data": images.reshape(len(images), -1),
        }
        write_pickle(folder / name, content)
    coarse = [f"group_{number:02}" for number in range(20)]
    meta = {"fine_label_names": CIFAR100_CLASSES, "coarse_label_names": coarse}
    write_pickle(folder / "meta", meta)
    files = [folder / name for name in ("train", "test", "meta")]
    return Written(*arrays, tuple(CIFAR100_CLASSES), files)


def write_svhn(root: Path, *, seed: int = 0, train: int = 120, test: int = 30) -> Written:
    """`train_32x32.mat` and `test_32x32.mat` in `root`, where the digit zero is called ten."""
    arrays = noise(seed, (train, test), 10, (3, 32, 32))
    files = [root / "train_32x32.mat", root / "test_32x32.mat"]
    root.mkdir(parents=True, exist_ok=True)
    for file, images, labels in zip(files, arrays[::2], arrays[1::2]):
        called = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        content = {"X": images.transpose(2, 3, 1, 0), "y": called}
        savemat(file, content, do_compression=True)
    return Written(*arrays, tuple("0123456789"), files)


def write_fashion_mnist(root: Path, *, seed: int = 0, train: int = 120, test: int = 30) -> Written:
    """Four idx files in `root`/FashionMNIST/raw."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = noise(seed, (train, test), 10, (1, 28, 28))
    files = []
    for prefix, images, labels in (("train", *arrays[:2]), ("t10k", *arrays[2:])):
        count = len(images)
        files += [folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"]
        files[-2].write_bytes(struct.pack(">4i", 0x803, count, 28, 28) + images.tobytes())
        files[-1].write_bytes(struct.pack(">2i", 0x801, count) + labels.astype(np.uint8).tobytes())
    return Written(*arrays, FASHION_CLASSES, files)


def write_mini_imagenet(root: Path, *, seed: int = 0, per_class: int = 3) -> list[tuple[str, str]]:
    """`mini-imagenet/` in `root`; (filename, label) of every image, in the order of the tables.

    Each image is one colour that tells its number, in two digits of base 30, to
    `mini_imagenet_number`: JPEG keeps them, as they are eight apart.
    """
    folder = root / "mini-imagenet"
    (folder / "images").mkdir(parents=True)
    blue = int(np.random.default_rng(seed).integers(256))
    rows = []
    for table, numbers in MINI_IMAGENET_SPLIT.items():
        first = len(rows)
        for label in (MINI_IMAGENET_CLASSES[number] for number in numbers):
            for image in range(per_class):
                high, low = divmod(len(rows), 30)
                name = f"{label}{image:08}.jpg"
                colour = (8 * high + 4, 8 * low + 4, blue)
                Image.new("RGB", (84, 84), colour).save(folder / "images" / name, quality=95)
                rows.append((name, label))
        with open(folder / table, "w", newline="") as file:
            csv.writer(file).writerows([("filename", "label"), *rows[first:]])
    return rows


def mini_imagenet_number(images: np.ndarray) -> np.ndarray:
    """Which images of `write_mini_imagenet` these are: uint8 [n, 3, 84, 84] to [n]."""
    high, low, _ = (np.asarray(images).mean((2, 3)) // 8).astype(int).T
    return 30 * high + low


def write_folder(
    root: Path,
    *,
    seed: int = 0,
    classes: Sequence[str] = ("ant", "bee", "cow"),
    train: int = 24,
    test: int = 6,
    size: tuple[int, int] = (16, 16),
    mode: str = "RGB",
    evaluated: str = "test",
) -> Written:
    """`train/CLASS/*.png` and `test/CLASS/*.png` (or `evaluated`/) in `root`.

    The arrays are in the order of a loader: class by class, then by file name.
    """
    channels = len(Image.new(mode, (1, 1)).getbands())
    arrays = noise(seed, (train, test), len(classes), (channels, *size))
    files = []
    for number, part in enumerate(("train", evaluated)):
        labels = np.sort(arrays[2 * number + 1], kind="stable")
        arrays[2 * number + 1] = labels
        for position, (image, label) in enumerate(zip(arrays[2 * number], labels)):
            path = root / part / classes[label] / f"{position:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0] if mode == "L" else image.transpose(1, 2, 0)).save(path)
            files.append(path)
    return Written(*arrays, tuple(classes), files)


#: data set: what writes a small one of its kind
WRITERS = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "fashion-mnist": write_fashion_mnist,
    "mini-imagenet": write_mini_imagenet,
    "folder": write_folder,
}
