"""One backward from ten forward: the batch whose mean loss is that of many candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from .base import Selecting, Task
from .batch import Batch
from .passes import Passes
from .sampler import per_image


def nearest_mean_subset(losses: Tensor, k: int) -> Tensor:
    """k of n losses whose mean is near to the mean of all, from their whole range.

    First those at evenly spaced ranks, the middles of k equal parts of the sorted losses. Then
    of all k * (n - k) exchanges of one of these for one of the others, the one that brings the
    mean nearest to that of all is made, if it brings it nearer. Nothing of this waits for the
    device.

    Args:
        losses: [n], or [n, ...] per pixel or voxel, which are averaged.
        k: how many to keep, 1 to n.

    Returns:
        [k] int64 rows, none twice, from the lowest loss to the highest but for the exchanged one.

    Raises:
        ValueError: for a k out of these bounds, and for a single number as losses.
    """
    losses = per_image(losses.detach()).double()
    n = len(losses)
    if not 1 <= k <= n:
        raise ValueError(f"k {k}: give 1 to {n}, the number of losses")
    order = losses.argsort()
    if k == n:
        return order
    places = (2 * torch.arange(k, device=order.device) + 1) * n // (2 * k)
    is_kept = torch.zeros(n, device=order.device).index_fill_(0, places, 1)
    # A stable sort, because picking rows by a mask would wait for the device.
    kept, others = order[is_kept.argsort(descending=True, stable=True)].split([k, n - k])
    excess = losses - losses.mean()
    gap = excess[kept].sum()
    # For each that is kept, only the two others on both sides of the loss that would close the gap.
    above = torch.searchsorted(excess[others], excess[kept] - gap)
    nearest = others[torch.cat([above - 1, above]).clamp(0, n - k - 1)]
    left = (gap - excess[kept].repeat(2) + excess[nearest]).abs()  # the gap after each exchange
    best = left.argmin(0, keepdim=True)
    exchanged = kept.index_copy(0, best % k, nearest[best])
    return torch.where(left[best] < gap.abs(), exchanged, kept)


class OBFTF(Selecting):
    """Of m * B candidates from full passes, the B whose mean loss is nearest to that of all.

    Dong et al. 2021, "One Backward from Ten Forward, Subsampling for Large-Scale Deep Learning":
    the subset is to stand for all candidates, and counts alike. The exact choice is an integer
    program, which the paper only approximates, and so does `nearest_mean_subset`, in its own way
    and without leaving the device. In the paper losses come from inference that is made anyway;
    here every candidate is scored for the purpose, and that is counted.
    """

    def __init__(
        self,
        task: Task,
        *,
        obftf_candidates: Annotated[
            int,
            dict(
                low=1,
                high=1000,
                help="obftf: candidates scored for each image trained on; 1 is SGD with scoring "
                "(Dong et al. 2021)",
            ),
        ] = 10,
        **options: object,
    ):
        super().__init__(task, **options)
        self.num_candidates = obftf_candidates * task.batch_size
        self.passes = Passes(task.num_images, self.rng)

    def draw(self, progress: float) -> Tensor:
        return self.passes.take(self.num_candidates)[None]

    def choose(self, batch: Batch, score: Callable[[Batch], Tensor]) -> Batch:
        return batch[nearest_mean_subset(batch.losses(score(batch)), self.task.batch_size)]
