"""SeTa: passes over a window of loss levels that slides from easy to hard."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from .base import Task, realised
from .stale_losses import StaleOrBatchLosses

ROUNDS = 100  # of k-means, each of which looks at all images


class SeTa(StaleOrBatchLosses):
    """Each pass trains on some neighbouring groups of a random part of the images.

    Zhou et al. 2025, "Scale Efficient Training for Large Datasets". A pass takes a random
    (1 - r) * N images and groups them by stale loss, 3 before the first visit, with k-means; of the
    G groups, from low to high, it trains on W = round(G * w) neighbours, pass t (from 0) from group
    t mod (G - W + 1) on. The first pass, and those that begin after a fraction delta of the run,
    are of all groups. No loss is reweighed. With `batch_loss_score` as in Zhou et al. 2026.

    Departures: with fewer different losses than groups (as before the first visit) groups are equal
    parts of the images in the order of their losses. A window of less than a batch is widened to
    all groups.

    How many images are in the window is read back from the device once per pass.
    """

    importance = True
    counts = ("passes", "kept")

    def __init__(
        self,
        task: Task,
        *,
        seta_groups: Annotated[
            int,
            dict(low=1, high=1000, help="seta: groups of like losses (Zhou et al. 2025)"),
        ] = 10,
        seta_window: Annotated[
            float,
            dict(
                above=0,
                high=1,
                help="seta: fraction of the groups that a pass trains on (Zhou et al. 2025)",
            ),
        ] = 0.5,
        seta_delta: Annotated[
            float,
            dict(
                low=0,
                high=1,
                help="seta: fraction of the run after which passes are of all groups (Zhou et al. "
                "2025)",
            ),
        ] = 0.875,
        seta_ratio: Annotated[
            float,
            dict(
                low=0,
                below=1,
                help="seta: fraction of the images that each pass leaves out at random (Zhou et "
                "al. 2025)",
            ),
        ] = 0.1,
        **options: Any,
    ):
        super().__init__(task, **options)
        self.groups, self.delta = seta_groups, seta_delta
        self.window = max(1, round(seta_groups * seta_window))
        self.size = max(round((1 - seta_ratio) * task.num_images), task.batch_size)
        self.passes = self.kept = 0  # drawn so far, and images in them

    def draw(self, progress: float) -> Tensor:
        images = self.permutation(self.task.num_images)[: self.size]
        if self.passes > 0 and progress < self.delta:
            first = self.passes % (self.groups - self.window + 1)
            group = groups_by_loss(self.losses[images], self.groups, self.rng)
            inside = images[(first <= group) & (group < first + self.window)]
            images = inside if len(inside) >= self.task.batch_size else images
        self.passes += 1
        self.kept += len(images)
        return self.in_batches(images)

    def summary(self) -> dict[str, float]:
        return realised(self.kept, self.passes * self.task.num_images)


def groups_by_loss(losses: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Groups of like losses [n] by k-means, numbered from the lowest centre: int64 [n].

    It begins as k-means++ (Arthur & Vassilvitskii 2007): each centre is a loss, drawn in proportion
    to its squared distance from those before.
    """
    order = losses.argsort(stable=True)
    ordered = losses[order].double()
    if len(ordered.unique()) < count:
        ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)).to(order))
        return ranks * count // len(order)
    chances, drawn = torch.ones_like(ordered), []
    for point in torch.rand(count, dtype=torch.double, generator=rng, device=losses.device):
        sums = chances.cumsum(0)
        row = torch.searchsorted(sums, point * sums[-1:], right=True).clamp(max=len(order) - 1)
        drawn.append(ordered[row])
        squares = (ordered - ordered[row]).square()
        chances = torch.minimum(chances, squares) if len(drawn) > 1 else squares
    centres = torch.cat(drawn).sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    ends = torch.tensor([0, len(ordered)], device=losses.device)
    for _ in range(ROUNDS):
        # The groups of points on a line are cut half-way between centres.
        cuts = torch.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = torch.cat([ends[:1], cuts, ends[1:]])
        sizes = edges.diff()
        centres = torch.where(sizes > 0, sums[edges].diff() / sizes.clamp(min=1), centres)
    return torch.searchsorted((centres[1:] + centres[:-1]) / 2, losses.double(), right=True)
