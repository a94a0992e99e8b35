"""unif-SGD, p-SGD and c-SGD: a fresh subset of the training set every epoch."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from .base import Method, Task
from .batch import Batch
from .drawing import draw_without_replacement


class UnifSGD(Method):
    """unif-SGD: a fresh uniform subset of floor(b * N) images every epoch (Arazo et al. 2021)."""

    def draw(self, step: int) -> Tensor:
        return self.in_batches(self.permutation(self.task.num_images)[: self.task.subset_size])


class PSGD(UnifSGD):
    """p-SGD: favour images that the network has tended to get wrong.

    The importance of an image is the mean, over its visits, of 1 - p(its class), measured in
    the training forward pass itself; one not yet visited has the highest importance of those
    visited (Chang et al. 2017, as used by Arazo et al. 2021). Every epoch draws floor(b * N)
    images without replacement, proportionally to importance + smoothing * mean(importance).
    """

    def __init__(
        self,
        task: Task,
        *,
        smoothing: Annotated[
            float,
            dict(
                low=0,
                high=1e6,
                help="p-SGD, c-SGD: multiple of the mean importance added to every image's; "
                "0 turns it off (Chang et al. 2017)",
            ),
        ] = 1.0,
        warmup_epochs: Annotated[
            int,
            dict(
                low=0,
                help="p-SGD, c-SGD: budgeted epochs drawn uniformly first (Arazo et al. 2021)",
            ),
        ] = 0,
    ):
        super().__init__(task)
        self.smoothing, self.warmup_epochs = smoothing, warmup_epochs
        self.register_buffer("total", torch.zeros(task.num_images, device=task.device))
        self.register_buffer("visits", torch.zeros(task.num_images, device=task.device))

    def draw(self, step: int) -> Tensor:
        if step < self.warmup_epochs * self.task.steps_per_epoch:
            return super().draw(step)
        drawn = draw_without_replacement(self.weights(), self.task.subset_size, self.rng)
        return self.in_batches(drawn[self.permutation(len(drawn))])

    def weights(self) -> Tensor:
        """What the draw is proportional to: [N]."""
        importance = self.importance(self.total / self.visits.clamp(min=1))
        visited = self.visits > 0
        highest = importance.where(visited, -torch.inf).max()
        # While nothing is visited all are equal; a tensor condition, to stay on the device.
        highest = highest.where(visited.any(), 1.0)
        importance = importance.where(visited, highest)
        return importance + self.smoothing * importance.mean()

    def importance(self, error: Tensor) -> Tensor:
        """Importance [N] from the running means [N] of 1 - p(class)."""
        return error

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        probability = logits.float().softmax(1).gather(1, batch.labels[:, None]).squeeze(1)
        self.total.index_add_(0, batch.index, 1 - probability)
        self.visits.index_add_(0, batch.index, torch.ones_like(probability))


class CSGD(PSGD):
    """c-SGD: favour images whose running mean error a leaves the network undecided.

    As p-SGD with importance a * (1 - a) (Chang et al. 2017). An unvisited image takes the
    highest such importance; the published code takes the highest a instead, whose a * (1 - a)
    is near zero.
    """

    def importance(self, error: Tensor) -> Tensor:
        return error * (1 - error)
