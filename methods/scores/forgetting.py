"""Forgetting: how often an image was forgotten."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Task
from ..batch import Batch
from .recording import Recorder


class Forgetting(Recorder):
    """Visits at which an image is wrong that was right at its visit before.

    Toneva et al. 2019, "An Empirical Study of Example Forgetting". An image that was visited and
    never right counts as the most forgotten, infinitely often in the paper; here, that means over
    several runs stay finite, as often as the most visited image was visited, which no count of
    forgetting reaches.
    """

    visits: Tensor
    right: Tensor  # 1 where the last visit was
    learnt: Tensor  # 1 where any visit was right
    forgotten: Tensor

    def __init__(self, task: Task, first_epochs: int):
        super().__init__(task, first_epochs)
        for name in ("visits", "right", "learnt", "forgotten"):
            self.note(name)

    def observe(self, batch: Batch, logits: Tensor, epoch: int) -> None:
        right = (logits.argmax(1) == batch.labels).float()
        self.visits.index_add_(0, batch.index, torch.ones_like(right))
        self.forgotten.index_add_(0, batch.index, self.right[batch.index] * (1 - right))
        # An image that is in the batch twice was right if it was so both times.
        self.right.scatter_reduce_(0, batch.index, right, "amin", include_self=False)
        self.learnt.scatter_reduce_(0, batch.index, right, "amax")

    def scores(self) -> dict[str, Tensor]:
        forgotten = self.forgotten.where(self.learnt > 0, self.visits.max())
        return {"forgetting": forgotten.where(self.visits > 0, torch.nan)}
