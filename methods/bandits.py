"""Epsilon-greedy and UCB: images as the arms of a bandit whose reward is their loss."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from .base import Selecting, Task
from .batch import Batch


class Bandit(Selecting):
    """Each budgeted epoch trains on the floor(b * N) images of the highest bounds.

    Raju et al. 2021, "Accelerating Deep Learning with Dynamic Data Pruning". The value of an image
    is a running mean of its losses, s <- (1 - alpha) * s + alpha * loss. It begins with the first
    loss, and images without a visit come first, where the rule leaves the beginning open: from 0,
    one visit would put an image above all those without. Of equal values random ones are taken.
    """

    importance = True

    values: Tensor  # float32 [N], s; infinite before the first visit

    def __init__(
        self,
        task: Task,
        *,
        bandit_alpha: Annotated[
            float,
            dict(
                above=0,
                high=1,
                help="epsilon-greedy, ucb: weight of the new loss in an image's running mean "
                "(Raju et al. 2021)",
            ),
        ] = 0.1,
        **options: Any,
    ):
        super().__init__(task, **options)
        self.alpha = bandit_alpha
        unknown = torch.full((task.num_images,), torch.inf, device=task.device)
        self.register_buffer("values", unknown)

    def bounds(self) -> Tensor:
        """What images are ranked by, [N]."""
        return self.values

    def ranked(self) -> Tensor:
        """All images, from the highest bound down."""
        order = self.permutation(self.task.num_images)
        return order[self.bounds()[order].argsort(descending=True, stable=True)]

    def shuffled(self, index: Tensor) -> Tensor:
        return index[self.permutation(len(index))]

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        old, new = self.values[batch.index], losses.float()
        self.values[batch.index] = torch.where(old.isinf(), new, old.lerp(new, self.alpha))


class EpsilonGreedy(Bandit):
    """epsilon-greedy: a fraction epsilon of each epoch is uniform over the images of lower value.

    Raju et al. 2021, see `Bandit`.
    """

    def __init__(
        self,
        task: Task,
        *,
        bandit_epsilon: Annotated[
            float,
            dict(
                low=0,
                high=1,
                help="epsilon-greedy: fraction of each epoch's images drawn uniformly (Raju et al. "
                "2021)",
            ),
        ] = 0.1,
        **options: Any,
    ):
        super().__init__(task, **options)
        self.explored = round(bandit_epsilon * task.subset_size)

    def draw(self, progress: float) -> Tensor:
        size = self.task.subset_size
        best, others = self.ranked().tensor_split([size - self.explored])
        drawn = torch.cat([best, self.shuffled(others)[: self.explored]])
        return self.in_batches(self.shuffled(drawn))


class UCB(Bandit):
    """ucb: images by s + c * sqrt(log(visits of all) / visits of the image).

    Raju et al. 2021, see `Bandit`. No code of theirs is known; the bound is that of UCB1 (Auer et
    al. 2002), which explores by itself, without a uniform share.
    """

    visits: Tensor  # float32 [N]

    def __init__(
        self,
        task: Task,
        *,
        ucb_c: Annotated[
            float,
            dict(
                low=0,
                high=1e6,
                help="ucb: weight of how seldom an image was visited, in nats of loss (Raju et al. "
                "2021)",
            ),
        ] = 1.0,
        **options: Any,
    ):
        super().__init__(task, **options)
        self.c = ucb_c
        self.register_buffer("visits", torch.zeros(task.num_images, device=task.device))

    def bounds(self) -> Tensor:
        total = self.visits.sum().clamp(min=1)
        # An image without a visit has an infinite value anyway.
        return self.values + self.c * (total.log() / self.visits.clamp(min=1)).sqrt()

    def draw(self, progress: float) -> Tensor:
        return self.in_batches(self.shuffled(self.ranked()[: self.task.subset_size]))

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        super().observe(batch, logits, losses)
        self.visits.index_add_(0, batch.index, torch.ones_like(losses, dtype=torch.float32))
