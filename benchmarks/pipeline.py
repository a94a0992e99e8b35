"""Images per second of the augmented-batch path, beside a DataLoader with PIL transforms."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from augmentations import AUGMENTATIONS
from data import DATASETS, Dataset
from engine.loader import Loader
from engine.values import number

BATCH_SIZE = 128
BUDGET = 0.5  # share of the training set in a block that is drawn ahead
WORKERS = 2
#: Augmentation, batches known ahead (None: a whole block, as for unif-SGD; 1: as for dro), the
#: DataLoader's transforms that it is compared with and the least ratio aimed at.
PATHS = [
    ("standard", None, "standard", 20),
    ("mixup", None, "standard", None),
    ("ricap", None, "standard", None),
    ("cutmix", None, "standard", None),
    ("cutout", None, "standard", None),
    ("randaugment", 1, "randaugment", 2.5),
    ("randaugment", None, "randaugment", 6),
    ("trivialaugment", 1, "trivialaugment", None),
    ("trivialaugment", None, "trivialaugment", None),
]
#: What the DataLoader's transforms do beside crop, flip and normalisation.
POLICIES = {
    "standard": [],
    "randaugment": [transforms.RandAugment(2, 4)],
    "trivialaugment": [transforms.TrivialAugmentWide()],
}


class PILImages(torch.utils.data.Dataset):
    """One image and label at a time, as torchvision's data sets give them."""

    def __init__(self, dataset: Dataset, transform: Callable):
        self.images = np.ascontiguousarray(dataset.train_images.transpose(0, 2, 3, 1))
        self.labels, self.transform = dataset.train_labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def warm_loader(dataset: Dataset, augmentation: str) -> Iterator:
    """Endless batches of a DataLoader whose workers stay alive between epochs."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            *POLICIES[augmentation],
            transforms.ToTensor(),
            transforms.Normalize(dataset.mean, dataset.std),
        ]
    )
    loader = DataLoader(
        PILImages(dataset, transform),
        BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    while True:
        yield from loader


def loader_rate(batches: Iterator, seconds: float) -> float:
    """Images per second over at least so long."""
    queued = 2 * WORKERS  # batches that the workers make in advance, then they wait
    for _ in range(2 * queued):
        next(batches)
    start, images = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        images += len(next(batches)[1])
    rate = images / (time.perf_counter() - start)
    # Let the workers fill their queues now, not while the next path is measured.
    time.sleep(2 * queued * BATCH_SIZE / rate)
    return rate


def stream_rate(stream: Loader, ahead: int | None, seconds: float) -> float:
    """Images per second over at least so long, in whole blocks drawn beforehand."""
    n = len(stream.labels)
    count = int(BUDGET * n) // BATCH_SIZE
    epoch = torch.randperm(n)[: count * BATCH_SIZE].view(count, BATCH_SIZE)
    start, images = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        for block in epoch.split(ahead or count):
            stream.refill(block)
            while not stream.exhausted:
                images += len(stream.next())
    return images / (time.perf_counter() - start)


def load(folder: Path) -> tuple[Dataset, str]:
    """CIFAR-10 where it lies in `folder`, else random images of its shape; and what it is."""
    if (folder / "cifar-10-batches-py").is_dir():
        return DATASETS["cifar10"].load(folder), "CIFAR-10"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, len(images))
    classes = tuple(map(str, range(10)))
    dataset = Dataset(images, labels, images[:1], labels[:1], classes, (0.5,) * 3, (0.25,) * 3)
    return dataset, f"random images of CIFAR-10's shape, as it is not in {folder}"


def machine() -> str:
    """The processor, threads, versions and other work that times depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return (
        f"{os.cpu_count()} cores of {name} ({torch.backends.cpu.get_cpu_capability()}), "
        f"{torch.get_num_threads()} threads; Python {platform.python_version()}, PyTorch "
        f"{torch.__version__}, torchvision {torchvision.__version__}, NumPy {np.__version__}, "
        f"Pillow {PIL.__version__}; load average before {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("datasets"), metavar="DIR")
    positive = number(int, low=1)
    parser.add_argument("--rounds", type=positive, default=9, help="of one turn for each path")
    parser.add_argument("--seconds", type=number(float, low=0), default=0.5, help="of a turn")
    parser.add_argument("--num-threads", type=positive, default=2, help="of the project's paths")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    dataset, source = load(arguments.data_dir)
    print(f"{machine()}\ndata: {source}; batches of {BATCH_SIZE}", flush=True)

    loaders = {kind: warm_loader(dataset, kind) for kind in POLICIES}
    streams = {
        name: Loader(dataset, augmentation(), torch.device("cpu"), seed=1)
        for name, augmentation in AUGMENTATIONS.items()
    }
    loader_rates = {kind: [] for kind in loaders}
    rates = [[] for _ in PATHS]
    for name, ahead, *_ in PATHS:
        stream_rate(streams[name], ahead, 0)  # not counted: first calls import and allocate
    for _ in range(arguments.rounds):
        for kind, batches in loaders.items():
            loader_rates[kind].append(loader_rate(batches, arguments.seconds))
        for measured, (name, ahead, *_) in zip(rates, PATHS):
            measured.append(stream_rate(streams[name], ahead, arguments.seconds))

    print(f"\nimages/s, medians of {arguments.rounds} rounds; ratios of each round, (least-most)\n")
    print("| augmentation | known ahead | images/s | DataLoader | images/s | ratio | aim |")
    print("|---|---|--:|---|--:|--:|--:|")
    for measured, (name, ahead, kind, aim) in zip(rates, PATHS):
        ratios = np.divide(measured, loader_rates[kind])
        print(
            f"| {name} | {'one batch' if ahead else 'a block'} "
            f"| {np.median(measured):,.0f} | {kind} | {np.median(loader_rates[kind]):,.0f} "
            f"| {np.median(ratios):.1f} ({ratios.min():.1f}-{ratios.max():.1f}) "
            f"| {aim or ''} |"
        )


if __name__ == "__main__":
    main()
