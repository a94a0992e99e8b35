"""Distributionally robust optimisation by hardness weighted sampling."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from budgetbench import HardnessWeightedSampler

from .base import Selecting, Task
from .batch import Batch


class HardnessWeighted(Selecting):
    """Every step draws B images without replacement from softmax(beta * stale losses).

    The `HardnessWeightedSampler` at work (Fidon et al. 2022).
    """

    importance = True

    def __init__(
        self,
        task: Task,
        *,
        dro_beta: Annotated[
            float,
            dict(
                low=0,
                high=1e6,
                help="dro: robustness, per nat of loss; 0 is uniform sampling, large values the "
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
        **options: Any,
    ):
        super().__init__(task, **options)
        self.weighs = dro_importance
        self.sampler = HardnessWeightedSampler(
            task.num_images,
            task.batch_size,
            beta=dro_beta,
            initial_loss=math.log(task.num_classes) if dro_init is None else dro_init,
            momentum=dro_momentum,
            device=task.device,
            generator=self.rng,
        )

    def draw(self, progress: float) -> Tensor:
        return self.sampler.draw()[None]

    def reweigh(self, batch: Batch, losses: Tensor) -> Tensor | None:
        return self.sampler.weigh(batch.index, losses) if self.weighs else None

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        with np.errstate(invalid="ignore"):  # infinite losses, of a training that diverged
            self.sampler.record(batch.index, losses)
