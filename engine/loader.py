"""Augmented batches on the training device, of the indices that a method drew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augmentations import Augmentation
from augmentations.geometry import CropAndFlip
from data import Dataset
from methods import Batch

from .answers import check_mixed
from .images import Normalise, place

# Part of a generator's seed, so that cropping and mixing draw independently of each other.
TRANSFORM, MIX = 0, 1


class JoinedGenerators:
    """NumPy generators of several batches as one, for draws whose last axis is their images."""

    def __init__(self, generators: Sequence[np.random.Generator]):
        self.generators = generators

    def random(self, size: int | Sequence[int]) -> np.ndarray:
        return self.join("random", size)

    def integers(self, *bounds: int, size: int | Sequence[int]) -> np.ndarray:
        return self.join("integers", size, *bounds)

    def join(self, name: str, size: int | Sequence[int], *arguments: int) -> np.ndarray:
        *others, images = np.atleast_1d(size)
        shape = *others, images // len(self.generators)
        parts = [getattr(each, name)(*arguments, size=shape) for each in self.generators]
        return np.concatenate(parts, -1)


class Loader:
    """The candidate batches of a run, in the order drawn.

    The training set is uint8, on the device where it fits: that takes a quarter of float32's
    memory, and no batch has to be copied from the host.

    Every batch has random generators of its own, seeded by the run's seed and the batch's number,
    so a run can resume at any batch, and two runs of one seed augment their n-th batches alike,
    whatever each of them draws at once: differences between methods are not those of crops.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: Augmentation,
        device: torch.device,
        seed: int,
        resident_limit: float | None = None,
    ):
        self.images = place(dataset.train_images, device, resident_limit, seed)
        self.labels = torch.tensor(dataset.train_labels, device=device)
        self.one_hot = torch.eye(len(dataset.classes), device=device)
        self.normalise = Normalise(dataset, device)
        self.crop_and_flip = CropAndFlip(dataset.padding, dataset.flip)
        self.augmentation, self.seed = augmentation, seed
        self.number = 0  # batches handed out so far
        self.position = 0  # of the next batch in the block
        self.block = torch.empty(0, 0, dtype=torch.int64, device=device)
        self.transformed: Tensor | None = None  # the batches at `position` and some after it

    @property
    def exhausted(self) -> bool:
        return self.position == len(self.block)

    def refill(self, block: Tensor) -> None:
        """Queue the batches of indices [k, b] that a method has drawn."""
        self.block, self.position = block, 0
        self.prefetch()

    def prefetch(self) -> None:
        """Let the images of the rest of the block be read ahead, in the groups they are used in."""
        if self.exhausted:  # as where a run goes on at the end of an epoch
            return
        ahead = self.augmentation.ahead
        start = self.position - self.position % ahead
        groups = [group.reshape(-1) for group in self.block[start:].split(ahead)]
        first = self.number - (self.position - start)
        self.images.prefetch(groups, first, self.block.shape[1])

    def next(self) -> Batch:
        """Return the next batch, augmented, normalised and mixed."""
        index = self.block[self.position]
        images = self.normalise(self.transform_ahead())
        rng = np.random.default_rng([self.seed, MIX, self.number])
        mixed = check_mixed(self.augmentation.mix(images, rng), images, self.augmentation)
        self.position += 1
        self.number += 1

        # index_select, here and elsewhere, because indexing with [] costs several times as much.
        labels = self.labels.index_select(0, index)
        targets = self.one_hot.index_select(0, labels)
        if mixed.sources is None:
            return Batch(mixed.images, targets, labels, index)
        owners = mixed.owners()
        return Batch(
            mixed.images,
            mixed.blend(targets),
            labels.index_select(0, owners),
            index.index_select(0, owners),
        )

    def transform_ahead(self) -> Tensor:
        """Return the uint8 images of the next batch, transformed and cropped.

        Small batches are transformed several at once, because each call of PyTorch costs as much
        as the work on a few images.
        """
        ahead, size = self.augmentation.ahead, self.block.shape[1]
        offset = self.position % ahead
        if offset == 0 or self.transformed is None:
            start = self.position - offset
            index = self.block[start : start + ahead].reshape(-1)
            first = self.number - offset
            numbers = range(first, first + len(index) // size)
            rng: Any = JoinedGenerators(  # has all of a Generator that transforms draw by
                [np.random.default_rng([self.seed, TRANSFORM, n]) for n in numbers]
            )
            images = self.augmentation.transform(self.images.next(index), rng)
            self.transformed = self.crop_and_flip(images, rng)
        return self.transformed[offset * size : (offset + 1) * size]

    def state_dict(self) -> dict:
        return {"number": self.number, "position": self.position, "block": self.block}

    def load_state_dict(self, state: dict) -> None:
        self.number, self.position = state["number"], state["position"]
        self.block = state["block"].to(self.labels.device)
        inside = (self.block >= 0) & (self.block < len(self.labels))
        if not 0 <= self.position <= len(self.block) or not inside.all():
            raise ValueError("the batches are not of these images")
        self.prefetch()
        self.transformed = None  # made again, from the same seeds
