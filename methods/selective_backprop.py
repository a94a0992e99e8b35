"""Selective backprop: a scoring pass decides which images are worth a step."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from .base import Method, Task
from .batch import Batch


class SelectiveBackprop(Method):
    """Keep a scored image with probability percentile(loss) ** beta; step on full batches.

    Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers". The
    percentile is the share of the last 1,024 scored losses, the batch's own included, that are
    strictly lower; until there are as many, everything is kept. Kept images wait in a queue and
    each B of them make a step. If percentiles are uniform, 1 / (beta + 1) of the images is kept,
    so beta = 1/b - 1 (the default) spends the budget in about as many passes as epochs.

    Whether a step is due depends on how many images were kept, so this method alone reads one
    number back from the device per scored batch.
    """

    HISTORY = 1024

    def __init__(
        self,
        task: Task,
        *,
        sb_beta: Annotated[
            float | None,
            dict(
                low=0,
                high=1e6,
                help="selective-backprop: exponent of the percentile; default 1/budget - 1, "
                "which keeps a share of `budget` (Jiang et al. 2019)",
            ),
        ] = None,
    ):
        super().__init__(task)
        self.beta = 1 / task.budget - 1 if sb_beta is None else sb_beta
        self.register_buffer("history", torch.full((self.HISTORY,), torch.inf, device=task.device))
        self.queue: Batch | None = None

    def choose(self, batch: Batch, model: nn.Module) -> Batch | None:
        kept = batch[self.kept(batch.losses(self.score(batch, model))).nonzero().squeeze(1)]
        queue = kept if self.queue is None else self.queue + kept
        size = self.task.batch_size
        if len(queue) < size:
            self.queue = queue
            return None
        self.queue = queue[size:]
        return queue[:size]

    def kept(self, losses: Tensor) -> Tensor:
        """Record the losses [b] of a scored batch and toss its coins: bool [b]."""
        self.history = torch.cat([self.history, losses])[-self.HISTORY :]
        coins = torch.rand(len(losses), generator=self.rng, device=losses.device)
        if self.images_scored < self.HISTORY:
            return coins < 1
        percentiles = (losses[:, None] > self.history).float().mean(1)
        return coins < percentiles**self.beta

    def get_extra_state(self) -> dict:
        # Cloned, because a slice would be saved with all of the storage behind it.
        queue = (
            None
            if self.queue is None
            else {name: rows.clone() for name, rows in vars(self.queue).items()}
        )
        return super().get_extra_state() | {"queue": queue}

    def set_extra_state(self, state: dict) -> None:
        super().set_extra_state(state)
        queue = state["queue"]
        if queue is not None:
            queue = Batch(**{name: rows.to(self.task.device) for name, rows in queue.items()})
        self.queue = queue
