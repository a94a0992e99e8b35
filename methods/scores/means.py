"""EL2N and AUM: means over an image's visits."""

from __future__ import annotations

import torch
from torch import Tensor

from budgetbench import el2n

from ..base import Task
from ..batch import Batch
from .recording import Recorder


class MeanOverVisits(Recorder):
    """The mean of a number that each visit of an image gives; NaN for an image without one."""

    total: Tensor
    visits: Tensor

    def __init__(self, task: Task, first_epochs: int):
        super().__init__(task, first_epochs)
        self.note("total")
        self.note("visits")

    def add(self, batch: Batch, values: Tensor) -> None:
        self.total.index_add_(0, batch.index, values)
        self.visits.index_add_(0, batch.index, torch.ones_like(values))

    def mean(self) -> Tensor:
        return self.total / self.visits


class EL2N(MeanOverVisits):
    """`el2n` in the first epochs (Paul et al. 2021).

    They take it from the network as it is at one early epoch, over un-augmented images.
    """

    def observe(self, batch: Batch, logits: Tensor, epoch: int) -> None:
        if epoch < self.first_epochs:
            self.add(batch, el2n(logits, batch.targets))

    def scores(self) -> dict[str, Tensor]:
        return {"el2n": self.mean()}


class AUM(MeanOverVisits):
    """Area under the margin: by how much an image's class is more probable than any other.

    Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking": the
    mean over the epochs. Low is hard. Margins are of probabilities, not of logits as theirs.
    """

    def observe(self, batch: Batch, logits: Tensor, epoch: int) -> None:
        probabilities = logits.float().softmax(1)
        own = batch.labels[:, None]
        others = probabilities.scatter(1, own, -torch.inf).amax(1)
        self.add(batch, probabilities.gather(1, own)[:, 0] - others)

    def scores(self) -> dict[str, Tensor]:
        return {"aum": self.mean()}
