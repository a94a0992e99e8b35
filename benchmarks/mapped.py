"""Images per second of batches whose images stay in their file, beside images in memory."""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from augmentations import AUGMENTATIONS
from data import Dataset
from engine.images import MappedImages
from engine.loader import Loader
from engine.values import number

from .pipeline import BATCH_SIZE, machine

SHAPE = (3, 32, 32)
TIMES = 4  # the limit, is the size of the images
BATCHES = 400  # of a turn
#: Name, the limit in GiB (None: resident), batches known ahead, whether the file is out of memory.
PATHS = [
    ("in memory, a block known ahead", None, BATCHES, False),
    ("in the file, a block known ahead", 0, BATCHES, False),
    ("in the file, one batch known ahead", 0, 1, False),
    ("in the file on disk alone, a block known ahead", 0, BATCHES, True),
]


def write_images(path: Path, count: int) -> np.ndarray:
    """A file of `count` random images, memory-mapped."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *SHAPE))
    for start in range(0, count, 10_000):
        part = images[start : start + 10_000]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    images.flush()  # to the disk, as pages that are not there are not dropped
    return np.load(path, mmap_mode="r")


def forget(path: Path, images: np.memmap) -> None:
    """Let the operating system drop what it keeps of a file in memory."""
    images._mmap.madvise(mmap.MADV_DONTNEED)  # pages in use are not dropped
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stream_rate(stream: Loader, ahead: int) -> float:
    """Images per second of BATCHES batches of images drawn from all of the data."""
    index = torch.randint(len(stream.labels), (BATCHES, BATCH_SIZE))
    start = time.perf_counter()
    for block in index.split(ahead):
        stream.refill(block)
        while not stream.exhausted:
            stream.next()
    return BATCHES * BATCH_SIZE / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mapped", description=__doc__)
    positive = number(float, above=0)
    parser.add_argument("--limit", type=positive, default=0.5, metavar="GIB", help="on memory")
    parser.add_argument("--rounds", type=number(int, low=1), default=5, help="of all paths")
    parser.add_argument("--folder", type=Path, help="where the file is written; default: TMPDIR")
    parser.add_argument("--num-threads", type=number(int, low=1), default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    count = int(TIMES * arguments.limit * 2**30 / np.prod(SHAPE))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "images.npy"
        images = write_images(path, count)
        print(f"{machine()}\ndata: {count:,} random images, {TIMES} times {arguments.limit} GiB")
        labels, classes = np.arange(count) % 10, tuple(map(str, range(10)))
        dataset = Dataset(images, labels, images, labels, classes, (0.5,) * 3, (0.25,) * 3)
        standard, cpu = AUGMENTATIONS["standard"](), torch.device("cpu")
        resident = Loader(dataset, standard, cpu, 1, float("inf"))
        mapped = Loader(dataset, standard, cpu, 1, arguments.limit)
        assert isinstance(mapped.images, MappedImages)
        rates = [[] for _ in PATHS]
        for _ in range(arguments.rounds + 1):
            for measured, (_, limit, ahead, cold) in zip(rates, PATHS):
                if cold:
                    forget(path, images)
                measured.append(stream_rate(resident if limit is None else mapped, ahead))
    print(f"\nimages/s, medians of {arguments.rounds} rounds after a first; ratios of each round\n")
    print("| images | images/s | ratio |\n|---|--:|--:|")
    for measured, (name, *_) in zip(rates, PATHS):
        ratio = np.median(np.divide(measured, rates[0])[1:])
        print(f"| {name} | {np.median(measured[1:]):,.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
