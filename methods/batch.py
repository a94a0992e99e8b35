"""The record that travels through the training loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One row per training image; rows of different (mixed) batches may be joined.

    A mixed image belongs to its *owner*, the source that fills most of it.
    """

    images: Tensor  # [b, channels, height, width] float32, normalised
    targets: Tensor  # [b, classes] float32 soft labels; each row sums to one
    labels: Tensor  # [b] int64 class of the owner
    index: Tensor  # [b] int64 position of the owner in the training set

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        return Batch(*(column[rows] for column in vars(self).values()))

    def __add__(self, other: Batch) -> Batch:
        return Batch(*map(torch.cat, zip(vars(self).values(), vars(other).values())))

    def losses(self, logits: Tensor) -> Tensor:
        """Cross-entropy of each row's logits [b, classes] against its soft label: [b]."""
        return F.cross_entropy(logits, self.targets, reduction="none")
