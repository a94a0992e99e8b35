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

from augmentations.geometry import rescale, scale_and_shift
from data import Dataset, Rows

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

    def prefetch(self, batches: Sequence[Tensor]) -> None:
        """Take note of the indices that `next` will be asked for, in order."""

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

    def prefetch(self, batches: Sequence[Tensor]) -> None:
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


class Normalise:
    """Standardises uint8 images [b, c, h, w] by a data set's mean and std per channel: float32."""

    def __init__(self, dataset: Dataset, device: torch.device):
        statistics = (torch.tensor(each, device=device) for each in (dataset.mean, dataset.std))
        self.scale, self.shift = scale_and_shift(*statistics)

    def __call__(self, images: Tensor) -> Tensor:
        return rescale(images, self.scale, self.shift)


def place(
    images: np.ndarray | Rows, device: torch.device, limit: float | None
) -> ResidentImages | MappedImages:
    """Put images on the device if they have no more than `limit` GiB, by default half of its."""
    most = memory(device) / 2 if limit is None else limit * 2**30
    kind = ResidentImages if images.nbytes <= most else MappedImages
    return kind(images, device)


def memory(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
