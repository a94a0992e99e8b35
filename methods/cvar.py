"""CVaR: the mean of the worst losses of each batch."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from budgetbench import cvar_weights

from .base import Selecting, Task
from .batch import Batch


class CVaR(Selecting):
    """Plain SGD's batches, of each of which only the worst fraction alpha of the losses counts.

    Levy et al. 2020, "Large-Scale Methods for Distributionally Robust Optimization", the
    mini-batch estimator of section 3: each step follows the gradient of its own batch's CVaR, see
    `cvar_weights`. It is a relative of `dro` that resamples nothing and keeps no losses. The CVaR
    of a batch is below that of all images on average, by less the larger alpha * B is.

    alpha is 0.5 by default, a mild level: what moves the network in a step are alpha * B images of
    a batch whose size is given, and the hardest few are often those of a wrong label.
    """

    importance = True

    def __init__(
        self,
        task: Task,
        *,
        cvar_alpha: Annotated[
            float,
            dict(
                above=0,
                high=1,
                help="cvar: fraction of each batch, its worst losses, that is trained on; 1 is SGD "
                "(Levy et al. 2020)",
            ),
        ] = 0.5,
        **options: Any,
    ):
        super().__init__(task, **options)
        self.alpha = cvar_alpha

    def reweigh(self, batch: Batch, losses: Tensor) -> Tensor:
        return cvar_weights(losses, self.alpha)
