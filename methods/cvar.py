"""CVaR: the mean of the worst losses of each batch."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from .base import Selecting, Task
from .batch import Batch
from .sampler import per_image


def cvar_weights(losses: Tensor, alpha: float) -> Tensor:
    """Weights with which the mean of a batch's losses is their conditional value at risk.

    CVaR at level alpha is the mean of the worst share alpha of the losses: the greatest
    sum of q * loss over all distributions q on the batch with q <= 1 / (alpha * b) (Levy et al.
    2020, section 2). So the floor(alpha * b) highest losses weigh 1 / alpha, the next one what is
    left to a sum of b, the others nothing; of equal losses, those that come first weigh more.

    Args:
        losses: [b], or [b, ...] per pixel or voxel, which are averaged.
        alpha: share of the batch that counts, in (0, 1]; 1 is the plain mean.

    Returns:
        [b] float32 that sum to b, to multiply losses with; constant in the gradient.

    Raises:
        ValueError: for an alpha that is no such share, and for a single number as losses.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha {alpha}: give a share above 0, at most 1")
    order = per_image(losses.detach()).argsort(descending=True, stable=True)
    places = torch.arange(len(order), device=order.device)
    weights = (alpha * len(order) - places).clamp(0, 1) / alpha
    return torch.empty_like(weights).scatter_(0, order, weights)


class CVaR(Selecting):
    """Plain SGD's batches, of each of which only the worst share alpha of the losses counts.

    Levy et al. 2020, "Large-Scale Methods for Distributionally Robust Optimization", the
    mini-batch estimator of section 3: each step follows the gradient of its own batch's CVaR, see
    `cvar_weights`. It is a relative of `dro` that resamples nothing and keeps no losses. The CVaR
    of a batch is below that of all images on average, by less the larger alpha * B is.

    alpha is 0.5 by default, a mild level: what moves the network in a step are alpha * B images of
    a batch whose size is given, and the hardest few are often those of a wrong label.
    """

    def __init__(
        self,
        task: Task,
        *,
        cvar_alpha: Annotated[
            float,
            dict(
                above=0,
                high=1,
                help="cvar: share of each batch, its worst losses, that is trained on; 1 is SGD "
                "(Levy et al. 2020)",
            ),
        ] = 0.5,
        **options: object,
    ):
        super().__init__(task, **options)
        self.alpha = cvar_alpha

    def reweigh(self, batch: Batch, losses: Tensor) -> Tensor:
        return cvar_weights(losses, self.alpha)
