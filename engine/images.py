"""Images of a run: all on the training device, or in a file and gathered ahead of use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from augmentations.geometry import random_resized_boxes, rescale, scale_and_shift
from data import Dataset, PackedRows, Rows

CROP = 4  # keeps the draws of crops apart from those of the loader, the method and dropout: 0 to 3
TASK = 16  # images that a thread decodes at once
Decoding = tuple[Tensor, list[Future[None]]]  # images, and what is still to be waited for
Work = tuple[np.ndarray, np.ndarray]  # rows [b] and boxes [b, 4] of them
AHEAD = 4  # gathered batches (or groups of them) that wait for the device


class ResidentImages:
    """uint8 images [n, c, h, w], all of them on the device."""

    def __init__(self, images: np.ndarray | Rows, device: torch.device):
        array = np.asarray(images)
        # Memory that may be written to is shared: by the forks of a sweep, of one data set.
        own = array if array.flags.writeable else array.copy()
        self.images = torch.from_numpy(own).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def prefetch(self, batches: Sequence[Tensor], first: int, size: int) -> None:
        """Take note of the indices that `next` will be asked for, in order.

        Args:
            batches: indices of each group of batches.
            first: number of the first batch in the run.
            size: images of a batch.
        """

    def next(self, index: Tensor) -> Tensor:
        """Return the images [b, c, h, w] of `index` [b], the next one that was noted."""
        return self.images.index_select(0, index)

    def between(self, start: int, stop: int) -> Tensor:
        return self.images[start:stop]


class MappedImages:
    """uint8 images [n, c, h, w] in a file, of which a thread reads what comes next.

    The same images as `ResidentImages`, for data that do not fit on the device. Where the draws
    are known one batch at a time (`dro`), reading cannot run ahead.
    """

    def __init__(self, images: np.ndarray | Rows, device: torch.device):
        self.images, self.device = Rows.of(images), device
        set_up = None
        if device.type == "cuda":  # pinned memory belongs to the thread's present GPU
            index = torch.cuda.current_device() if device.index is None else device.index
            set_up = partial(torch.cuda.set_device, index)
        self.thread = ThreadPoolExecutor(1, initializer=set_up)
        self.expected: Iterator[np.ndarray] = iter(())
        self.waiting: deque[Future[Tensor]] = deque()

    def __len__(self) -> int:
        return len(self.images)

    def prefetch(self, batches: Sequence[Tensor], first: int, size: int) -> None:
        self.expected = iter([batch.cpu().numpy() for batch in batches])
        self.waiting.clear()
        for _ in range(AHEAD):
            self.gather_another()

    def next(self, index: Tensor) -> Tensor:
        images = self.waiting.popleft().result()
        self.gather_another()
        return images.to(self.device, non_blocking=True)

    def between(self, start: int, stop: int) -> Tensor:
        return self.gather(np.arange(start, stop)).to(self.device, non_blocking=True)

    def gather_another(self) -> None:
        index = next(self.expected, None)
        if index is not None:
            self.waiting.append(self.thread.submit(self.gather, index))

    def gather(self, index: np.ndarray) -> Tensor:
        """Return the images of `index` [b], in memory that the device can copy from by itself."""
        pinned = self.device.type == "cuda"
        shape = len(index), *self.images.shape[1:]
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self.images.take(index, images.numpy())
        return images


class PackedImages:
    """Images of packed files, which threads decode as they are needed, on a GPU ahead of use.

    In training a random-resized crop of each, drawn by the run's seed and the batch's number alone,
    so that neither threads nor a resumption change what is seen.

    On a CPU nothing is gained by decoding ahead, and much lost: the threads of PyTorch's own
    operations wait for each other busily, and for every core that decodes.
    """

    def __init__(self, images: PackedRows, device: torch.device, seed: int):
        self.images, self.device, self.seed = images, device, seed
        self.ahead = AHEAD if device.type == "cuda" else 0
        self.pool = ThreadPoolExecutor(torch.get_num_threads())
        self.expected: Iterator[Work] = iter(())
        self.waiting: deque[Decoding] = deque()
        self.next_part: tuple[tuple[int, int], Decoding] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def prefetch(self, batches: Sequence[Tensor], first: int, size: int) -> None:
        self.expected = self.work(batches, first, size)
        self.waiting.clear()
        for _ in range(self.ahead):
            self.decode_another()

    def work(self, groups: Sequence[Tensor], first: int, size: int) -> Iterator[Work]:
        """Return rows and boxes of each group of batches; of batches of that size, from `first`."""
        for group in groups:
            rows = group.cpu().numpy()
            boxes = []
            for start in range(0, len(rows), size):
                rng = np.random.default_rng([self.seed, CROP, first])
                sizes = self.images.sizes(rows[start : start + size])
                boxes.append(random_resized_boxes(sizes, rng))
                first += 1
            yield rows, np.concatenate(boxes)

    def decode_another(self) -> None:
        work = next(self.expected, None)
        if work is not None:
            self.waiting.append(self.decode(*work))

    def next(self, index: Tensor) -> Tensor:
        self.decode_another()
        images = finished(self.waiting.popleft())
        return images.to(self.device, non_blocking=True)

    def between(self, start: int, stop: int) -> Tensor:
        """Return the centres of images, and let those after them be decoded meanwhile."""
        part, decoding = self.next_part or ((0, 0), None)
        if decoding is None or part != (start, stop):
            decoding = self.decode(np.arange(start, stop), None)
        following = stop, min(2 * stop - start, len(self))
        self.next_part = None
        if self.ahead and following[0] < following[1]:
            self.next_part = following, self.decode(np.arange(*following), None)
        return finished(decoding).to(self.device, non_blocking=True)

    def decode(self, rows: np.ndarray, boxes: np.ndarray | None) -> Decoding:
        """Begin to decode rows [b] of the images: boxes [b, 4] of them, or their centres."""
        pinned = self.device.type == "cuda"
        shape = len(rows), *self.images.shape[1:]
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        out = images.numpy()

        def some(start: int) -> None:
            for place in range(start, min(start + TASK, len(rows))):
                if boxes is None:
                    self.images.centre(rows[place], out[place])
                else:
                    self.images.decode(rows[place], boxes[place], out[place])

        return images, [self.pool.submit(some, start) for start in range(0, len(rows), TASK)]


def finished(decoding: Decoding) -> Tensor:
    """Wait until images are decoded; return them."""
    images, tasks = decoding
    for task in tasks:
        task.result()
    return images


class Normalise:
    """Standardises uint8 images [b, c, h, w] by a data set's mean and std per channel: float32."""

    def __init__(self, dataset: Dataset, device: torch.device):
        statistics = (torch.tensor(each, device=device) for each in (dataset.mean, dataset.std))
        self.scale, self.shift = scale_and_shift(*statistics)

    def __call__(self, images: Tensor) -> Tensor:
        return rescale(images, self.scale, self.shift)


def place(
    images: np.ndarray | Rows, device: torch.device, limit: float | None, seed: int = 0
) -> ResidentImages | MappedImages | PackedImages:
    """Put images on the device if they have no more than `limit` GiB, by default half of its.

    Packed files are decoded as they are needed, in training cropped by `seed`.
    """
    if isinstance(images, PackedRows):
        return PackedImages(images, device, seed)
    most = memory(device) / 2 if limit is None else limit * 2**30
    kind = ResidentImages if images.nbytes <= most else MappedImages
    return kind(images, device)


def memory(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
