"""Distributionally robust optimisation by hardness weighted sampling."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from .base import Method, Task
from .batch import Batch
from .drawing import draw_without_replacement


class HardnessWeighted(Method):
    """Every step draws B images without replacement from softmax(beta * stale losses).

    Fidon et al. 2022, "Distributionally Robust Deep Learning using Hardness Weighted Sampling",
    Algorithm 1. The stale loss of an image is the one of its last visit (or, with momentum, a
    moving mean). beta = 0 is uniform sampling, beta -> infinity trains on the worst case.

    The published sampler floors probabilities at 1e-4 / N; here they are mixed with that much
    of the uniform distribution, (p + 1e-4 / N) / (1 + 1e-4), which differs by less than 1e-4 in
    total variation.
    """

    FLOOR = 1e-4  # share of the uniform distribution (Fidon et al. 2022, their code)
    CLIP = (0.1, 10.0)  # bounds of importance weights (Fidon et al. 2022, their code)

    def __init__(
        self,
        task: Task,
        *,
        dro_beta: Annotated[
            float,
            dict(
                low=0,
                high=1e6,
                help="dro: robustness, per nat of loss; 0 is uniform sampling, infinity the "
                "worst case (Fidon et al. 2022)",
            ),
        ] = 1.0,
        dro_init: Annotated[
            float | None,
            dict(
                low=0,
                high=1e6,
                help="dro: loss in nats assumed of images not yet visited; default log(classes), "
                "that of a uniform guess",
            ),
        ] = None,
        dro_momentum: Annotated[
            float,
            dict(
                low=0,
                below=1,
                help="dro: weight of the old stale loss in its update (Fidon et al. 2022)",
            ),
        ] = 0.0,
        dro_importance: Annotated[
            bool,
            dict(
                help="dro: multiply losses by exp(beta * (new - stale loss)), clipped to "
                "[0.1, 10] (Fidon et al. 2022)",
            ),
        ] = False,
    ):
        super().__init__(task)
        self.beta, self.momentum, self.importance = dro_beta, dro_momentum, dro_importance
        initial = math.log(task.num_classes) if dro_init is None else dro_init
        # The noise breaks ties among images not yet visited, as published.
        noise = torch.randn(task.num_images, generator=self.rng, device=task.device)
        self.register_buffer("stale", initial * (1 + 0.001 * noise))

    def probabilities(self) -> Tensor:
        """Probability [N] of each image to be the first one drawn."""
        uniform = self.FLOOR / self.task.num_images
        return ((self.beta * self.stale).softmax(0) + uniform) / (1 + self.FLOOR)

    def draw(self, step: int) -> Tensor:
        return draw_without_replacement(self.probabilities(), self.task.batch_size, self.rng)[None]

    def reweigh(self, batch: Batch, losses: Tensor) -> Tensor | None:
        if not self.importance:
            return None
        change = (1 - self.momentum) * (losses - self.stale[batch.index])
        return (self.beta * change).exp().clamp(*self.CLIP)

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        self.stale[batch.index] = self.stale[batch.index].lerp(losses, 1 - self.momentum)
