"""Methods that use each image's last known loss."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from .base import OptionError, Selecting, Task
from .batch import Batch

ALPHA = 0.7  # of `batch_loss_score`, by default


class StaleLosses(Selecting):
    """Keeps the loss of each image's last visit."""

    UNKNOWN: ClassVar[float] = 3.0  # the loss of an image without a visit

    losses: Tensor  # float32 [N]

    def __init__(self, task: Task, **options: Any):
        super().__init__(task, **options)
        unknown = torch.full((task.num_images,), self.UNKNOWN, device=task.device)
        self.register_buffer("losses", unknown)

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        self.losses[batch.index] = losses.float()


class StaleOrBatchLosses(StaleLosses):
    """Keeps stale losses or, as an option, a running mean of the batches' losses in their place.

    Zhou et al. 2026, "Batch Loss Score": s <- alpha * s + (1 - alpha) * mean loss of the image's
    batch, from 0. It needs no loss per image, so it also serves where only a batch's is known.
    """

    def __init__(
        self,
        task: Task,
        *,
        batch_loss_score: Annotated[
            bool,
            dict(
                help="infobatch, seta: use a running mean of the losses of an image's batches, "
                "not its own last loss (Zhou et al. 2026)"
            ),
        ] = False,
        batch_loss_alpha: Annotated[
            float,
            dict(
                low=0,
                below=1,
                help="infobatch, seta: weight of the past in that mean (Zhou et al. 2026)",
            ),
        ] = ALPHA,
        **options: Any,
    ):
        super().__init__(task, **options)
        if not batch_loss_score and batch_loss_alpha != ALPHA:
            raise OptionError(
                "batch_loss_alpha", "has no effect without `batch_loss_score`; give both or neither"
            )
        self.of_batches, self.alpha = batch_loss_score, batch_loss_alpha
        if self.of_batches:
            self.losses.mul_(0)  # of an unknown loss that is NaN, NaN

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        if self.of_batches:
            before = self.losses[batch.index].nan_to_num(0.0)
            losses = torch.lerp(losses.float().mean(), before, self.alpha)
        super().observe(batch, logits, losses)
