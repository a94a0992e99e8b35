"""InfoBatch: passes that leave out some of the easy images and weigh the others of them more."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from .base import Task, realised
from .batch import Batch
from .stale_losses import StaleOrBatchLosses

LEAST_KEPT = 0.1  # probability to keep an image of a low loss, whatever the ratio (their code)


class InfoBatch(StaleOrBatchLosses):
    """Each pass drops images with a stale loss below the mean with probability r.

    Qin et al. 2024, "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning",
    section 2. An image's stale loss is the one of its last visit. The losses of images below the
    mean that are kept weigh 1 / (1 - r), so that the expected gradient of a pass is that of all
    images. r is at most 0.9, as in its code: no loss weighs more than 10. Passes that begin after a
    fraction delta of the run are full ones. With `batch_loss_score` as in Zhou et al. 2026.

    Departures: images are dropped by independent Bernoulli draws, as in the paper, where its code
    draws an exact number of them. One without a loss yet is always kept and not part of the mean;
    the code gives it a loss of 3. The last incomplete batch of a pass is dropped, as everywhere
    here. A pass that is under way at delta is finished as it is, so a run of few passes has less
    than 1 - delta of full ones at its end. If less than a batch would be kept, the pass is full.

    How many images are kept is read back from the device once per pass.
    """

    importance = True
    counts = ("offered", "kept")

    UNKNOWN: ClassVar[float] = math.nan

    mean: Tensor  # of the losses when the present pass was drawn

    def __init__(
        self,
        task: Task,
        *,
        infobatch_ratio: Annotated[
            float,
            dict(
                low=0,
                below=1,
                help="infobatch: probability that a pass leaves out an image of a loss below the "
                "mean; above 0.9 it counts as 0.9 (Qin et al. 2024)",
            ),
        ] = 0.5,
        infobatch_delta: Annotated[
            float,
            dict(
                low=0,
                high=1,
                help="infobatch: fraction of the run after which passes are full ones (Qin et al. "
                "2024)",
            ),
        ] = 0.875,
        **options: Any,
    ):
        super().__init__(task, **options)
        self.ratio, self.delta = min(infobatch_ratio, 1 - LEAST_KEPT), infobatch_delta
        self.offered = self.kept = 0  # images of all passes drawn so far
        # What a stale loss has to be below for the present pass; below NaN there is nothing.
        self.register_buffer("mean", torch.tensor(torch.nan, device=task.device))

    def draw(self, progress: float) -> Tensor:
        order = self.permutation(self.task.num_images)
        mean = self.losses.nanmean() if progress < self.delta else torch.nan
        uniform = torch.rand(len(order), generator=self.rng, device=order.device)
        kept = order[(uniform >= self.ratio) | ~(self.losses[order] < mean)]
        if len(kept) < self.task.batch_size:
            kept, mean = order, torch.nan
        self.mean.fill_(mean)
        self.offered += len(order)
        self.kept += len(kept)
        return self.in_batches(kept)

    def reweigh(self, batch: Batch, losses: Tensor) -> Tensor:
        # A pass has an image once, whose stale loss is thus still the one it was drawn by.
        return torch.where(self.losses[batch.index] < self.mean, 1 / (1 - self.ratio), 1.0)

    def summary(self) -> dict[str, float]:
        return realised(self.kept, self.offered)
