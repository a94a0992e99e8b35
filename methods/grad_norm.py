"""Importance sampling by an upper bound of gradient norms, while it reduces variance enough."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from budgetbench import el2n

from .base import Score, Task, realised
from .batch import Batch
from .pool import Pool

MOMENTUM = 0.9  # a_tau, weight of the past in the moving average of tau
BLOCK = 10  # steps drawn on one decision: as many as that average looks back on


def gradient_norms(logits: Tensor, targets: Tensor) -> Tensor:
    """Norms [b] of the gradients of cross-entropies in their logits [b, C]: |softmax - target|.

    Times a constant they bound the gradients in all parameters from above (Katharopoulos &
    Fleuret 2018, eq. 20).
    """
    norms = el2n(logits, targets)
    return norms.clamp(min=torch.finfo(norms.dtype).tiny)  # all zero would have no proportions


class GradNorm(Pool):
    """B of n = m * B scored candidates, drawn with replacement by their gradient norms.

    Katharopoulos & Fleuret 2018, "Not All Samples Are Created Equal: Deep Learning with Importance
    Sampling", Algorithm 1. Probabilities p are proportional to `gradient_norms`, of the mixed
    target where images are mixed; a loss weighs 1 / (n * p), so that the expected gradient is the
    mean over the candidates. This is done only while tau exceeds a threshold, else steps are
    those of plain SGD. tau = (1 - |p - 1/n|^2 / |p|^2)^(-1/2) (eq. 26), which is the root mean
    square of the norms over their mean, in a moving average that starts at 0.

    The default threshold is the paper's break-even (n + 3 * B) / (3 * B) = 1 + m / 3, where
    scoring is paid for by what larger batches of the same variance would cost, 2 for m = 3. In
    its experiments the paper goes as low as 1.5.

    Departures: candidates come from full passes, not from independent draws. Whether tau is above
    the threshold is looked at every BLOCK = 10 steps, not at each, because to look is to wait for
    the device. While off, tau is that of the training forward pass (train mode), which costs
    nothing; scoring is in eval mode.
    """

    counts = ("steps", "steps_by_norms")

    tau: Tensor  # float32, running estimate of what scoring gains

    def __init__(
        self,
        task: Task,
        *,
        gradnorm_candidates: Annotated[
            int,
            dict(
                low=2,
                high=1000,
                help="grad-norm: candidates scored for each image trained on, while tau is high "
                "(Katharopoulos & Fleuret 2018)",
            ),
        ] = 3,
        gradnorm_tau: Annotated[
            float | None,
            dict(
                low=0,
                high=1e6,
                help="grad-norm: candidates are scored while tau is above this; default "
                "1 + candidates/3, the break-even point (Katharopoulos & Fleuret 2018); 0 scores "
                "from step 11 on",
            ),
        ] = None,
        **options: Any,
    ):
        super().__init__(task, gradnorm_candidates, **options)
        self.threshold = 1 + gradnorm_candidates / 3 if gradnorm_tau is None else gradnorm_tau
        self.register_buffer("tau", torch.zeros((), device=task.device))
        self.weights: Tensor | None = None  # of the batch last chosen; None if not by its norms
        self.steps = self.steps_by_norms = 0  # after the uniform start; those drawn by norms

    def draw(self, progress: float) -> Tensor:
        size = self.num_candidates if self.tau > self.threshold else self.task.batch_size
        return self.passes.take(BLOCK * size).view(BLOCK, size)

    def choose(self, batch: Batch, score: Score) -> Batch:
        self.weights = None
        self.steps += 1
        if len(batch) == self.task.batch_size:
            return batch
        self.steps_by_norms += 1
        norms = gradient_norms(score(batch), batch.targets)
        self.follow(norms)
        rows = self.draw_by(norms)
        self.weights = norms.mean() / norms[rows]
        return batch[rows]

    def draw_by(self, norms: Tensor) -> Tensor:
        """Rows [B] of the norms [n], with replacement, in proportion to them."""
        sums = norms.double().cumsum(0)
        size = self.task.batch_size
        points = torch.rand(size, dtype=sums.dtype, generator=self.rng, device=sums.device)
        rows = torch.searchsorted(sums, points * sums[-1], right=True)
        return rows.clamp(max=len(norms) - 1)

    def follow(self, norms: Tensor) -> None:
        """Bring the average of tau up to date."""
        self.tau.lerp_((norms / norms.mean()).square().mean().sqrt(), 1 - MOMENTUM)

    def reweigh(self, batch: Batch, losses: Tensor) -> Tensor | None:
        return self.weights

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        if self.weights is None:
            self.follow(gradient_norms(logits, batch.targets))

    def summary(self) -> dict[str, float]:
        return realised(self.steps_by_norms, self.steps)
