"""Dyn-Unc and DUAL: how the probability of an image's class moves from epoch to epoch."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..base import Task
from ..batch import Batch
from .recording import Recorder

WINDOW = 10  # J, epochs looked at together, in both papers


class Trajectory(Recorder):
    """The probability p of each image's class at its last visit in each epoch: [epochs, N]."""

    least_epochs = WINDOW
    most_epochs: ClassVar[int | None] = None  # that count, from the first; None is all

    probability: Tensor  # NaN where an image had no visit

    def __init__(self, task: Task, first_epochs: int):
        super().__init__(task, first_epochs)
        epochs = min(task.epochs, self.most_epochs or task.epochs)
        self.note("probability", epochs, task.num_images, fill=torch.nan)

    def observe(self, batch: Batch, logits: Tensor, epoch: int) -> None:
        if epoch < len(self.probability):
            own = logits.float().softmax(1).gather(1, batch.labels[:, None])[:, 0]
            self.probability[epoch, batch.index] = own

    def over_windows(self, by_mean: bool) -> Tensor:
        """Mean over all windows of the standard deviation in each, [N]; NaN where there is none.

        Args:
            by_mean: times one minus the mean in the window.

        Of an image with a single visit in a window, the window does not count.
        """
        total = torch.zeros_like(self.probability[0])
        windows = torch.zeros_like(total)
        for start in range(len(self.probability) - WINDOW + 1):
            window = self.probability[start : start + WINDOW]
            visits = (~window.isnan()).sum(0)
            mean = window.nansum(0) / visits
            deviation = ((window - mean).square().nansum(0) / (visits - 1)).sqrt()
            value = deviation * (1 - mean) if by_mean else deviation
            total += torch.where(visits > 1, value, 0)
            windows += visits > 1
        return total / windows


class DynUnc(Trajectory):
    """Mean over windows of 10 epochs of the standard deviation of p within each; high is kept.

    He et al. 2024, "Large-scale Dataset Pruning with Dynamic Uncertainty".
    """

    def scores(self) -> dict[str, Tensor]:
        return {"dyn-unc": self.over_windows(by_mean=False)}


class Dual(Trajectory):
    """Mean over windows of 10 of the first 30 epochs of std * (1 - mean) of p; high is kept.

    Cho et al. 2025, "Lightweight Dataset Pruning without Full Training via Example Difficulty and
    Prediction Uncertainty". With it comes `dual-mean`, the mean of p over these epochs, by which
    its beta sampling goes.
    """

    most_epochs = 30

    def scores(self) -> dict[str, Tensor]:
        return {
            "dual": self.over_windows(by_mean=True),
            "dual-mean": self.probability.nanmean(0),
        }
