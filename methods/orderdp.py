"""OrderDP: the highest losses within a random pool of images."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from .base import OptionError, Task, subset_size
from .stale_losses import StaleLosses


class OrderDP(StaleLosses):
    """Each budgeted epoch trains on the largest stale losses of a uniform pool of rho * N images.

    Jin et al. 2026, "OrderDP: A Theoretically Guaranteed Lossless Dynamic Data Pruning
    Framework". The pool is drawn without replacement; the share kappa of it with
    the largest losses, 3 before the first visit, is trained on, in random order and unweighted.
    kappa = b / rho, so that an epoch has floor(b * N) images.
    """

    importance = True

    def __init__(
        self,
        task: Task,
        *,
        orderdp_pool: Annotated[
            float | None,
            dict(
                above=0,
                high=1,
                help="orderdp: fraction of all images in the pool, at least `budget`; default "
                "1.5 * budget, at most 1 (Jin et al. 2026)",
            ),
        ] = None,
        **options: Any,
    ):
        super().__init__(task, **options)
        # Rounded, because 1.5 * 0.3 is a little less than 0.45.
        pool = min(1, round(1.5 * task.budget, 9)) if orderdp_pool is None else orderdp_pool
        if pool < task.budget:
            raise OptionError("orderdp_pool", f"smaller than `budget`; give at least {task.budget}")
        self.pool = subset_size(pool, task.num_images)

    def draw(self, progress: float) -> Tensor:
        pool = self.permutation(self.task.num_images)[: self.pool]
        # A stable sort, so that images of equal losses, such as 3, are taken at random.
        largest = self.losses[pool].argsort(descending=True, stable=True)[: self.task.subset_size]
        return self.in_batches(pool[largest[self.permutation(len(largest))]])
