"""Images per second of packed JPEG files beside torchvision's ImageFolder and DataLoader.

Both give random-resized crops that are mirrored at random, in batches of uint8. FOLDER holds JPEG
files, which are repeated by symbolic links to as many entries as asked for, at the size that
--upscale gives them, and both read that.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .ours import machine

ROOT = Path(__file__).resolve().parent.parent
BATCH = 128


def prepare(source: Path, root: Path, images: int, side: int, entries: int) -> None:
    """Write some images of that size, and links to them, as train/ and test/ of two classes."""
    found = sorted(source.rglob("*.jpg"))[:images]
    if not found:
        raise SystemExit(f"{source}: no .jpg below it")
    originals = root / "originals"
    originals.mkdir()

    def write(number: int) -> None:
        with Image.open(found[number]) as image:
            large = image.convert("RGB").resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
            large.save(originals / f"{number}.jpg", quality=90)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(len(found))))
    for part, count in (("train", entries), ("test", 2)):
        for label in range(2):
            (root / part / str(label)).mkdir(parents=True)
        for entry in range(count):
            link = root / part / str(entry % 2) / f"{entry:07}.jpg"
            link.symlink_to(originals / f"{entry % len(found)}.jpg")


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def torchvision_loader(root: Path, side: int, batches: int, workers: int) -> None:
    from torchvision import datasets
    from torchvision.transforms import v2

    transform = v2.Compose(
        [v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    )
    images = datasets.ImageFolder(root / "train", transform)
    order = np.random.default_rng(0).permutation(len(images))[: batches * BATCH]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(images, order.tolist()), BATCH, num_workers=workers
    )
    measure("torchvision", (batch for batch, _ in loader), batches)


def our_loader(root: Path, side: int, batches: int, workers: int) -> None:
    from augmentations.geometry import CropAndFlip
    from data import DATASETS
    from engine.images import PackedImages

    torch.set_num_threads(max(1, workers))
    dataset = DATASETS["folder"].load(root, data_seed=0, image_size=side, cache="jpeg")
    images = PackedImages(dataset.train_images, torch.device("cpu"), seed=0)
    flip = CropAndFlip(0, 0.5)
    rng = np.random.default_rng(0)
    order = torch.from_numpy(rng.permutation(len(images))[: batches * BATCH])
    index = order.view(batches, BATCH)
    images.prefetch(list(index), 0, BATCH)
    measure("packed", (flip(images.next(batch), rng) for batch in index), batches)


def measure(name: str, batches, count: int) -> None:
    """Print the images per second of processor time and of the clock, and the peak of memory."""
    before, began, seen = cpu_seconds(), time.perf_counter(), 0
    for batch in batches:
        assert batch.dtype == torch.uint8
        seen += len(batch)
    wall = time.perf_counter() - began
    del batches
    cpu = cpu_seconds() - before
    peak = sum(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(name, seen / cpu, seen / wall, peak / 1024, flush=True)


LOADERS = {"torchvision": torchvision_loader, "packed": our_loader}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packed_jpeg", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of JPEG files")
    parser.add_argument("--images", type=int, default=2000, help="different ones [default: 2000]")
    parser.add_argument("--entries", type=int, default=200_000, help="[default: 200000]")
    parser.add_argument("--upscale", type=int, default=500, help="pixels across [default: 500]")
    parser.add_argument("--side", type=int, default=224, help="of the crops [default: 224]")
    parser.add_argument("--batches", type=int, default=20, help="a turn [default: 20]")
    parser.add_argument("--turns", type=int, default=3, help="[default: 3]")
    parser.add_argument("--workers", type=int, default=2, help="or threads [default: 2]")
    parser.add_argument("--loader", choices=LOADERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.loader:
        LOADERS[options.loader](options.folder, options.side, options.batches, options.workers)
        return 0
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        prepare(options.folder, root, options.images, options.upscale, options.entries)
        found = {name: [] for name in LOADERS}
        options_of_turn = ["--side", options.side, "--batches", options.batches]
        options_of_turn += ["--workers", options.workers]
        for turn in range(options.turns + 1):  # the first makes the pack
            for name in LOADERS:
                command = [sys.executable, "-m", "benchmarks.packed_jpeg", root, "--loader", name]
                words = [*map(str, [*command, *options_of_turn])]
                done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                if turn:
                    found[name].append([float(word) for word in done.stdout.split()[1:]])
    print(f"{'':14}{'images per core-second':>30}{'wall-clock':>15}{'peak MiB':>12}")
    for name, rows in found.items():
        core, clock, peak = (statistics.median(each) for each in zip(*rows))
        print(f"{name:14}{core:30.0f}{clock:15.0f}{peak:12.0f}")
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(found["packed"], found["torchvision"])]
    print(f"packed to torchvision, per core: {statistics.median(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
