"""IES: passes without the images whose losses have small second differences."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from .base import Score, Selecting, Task, realised
from .batch import Batch

KEPT = 5  # losses of an image, which have three second differences


class IES(Selecting):
    """Leaves an image out of a pass while its loss neither bends nor jumps.

    Yuan et al. 2025, "Instance-dependent Early Stopping". An image is left out while the mean of
    its last three |l_t - 2 * l_(t-1) + l_(t-2)| is below a threshold. Images left out are scored at
    the end of each pass (forward, in eval mode), so that they can come back.

    Departures: images are scored as they are augmented. They are left out in whole batches, since
    they are scored so; those that would be over stay in. A pass of less than a batch is full.

    How many images are left out is read back from the device once per pass.
    """

    importance = True
    counts = ("to_train", "offered", "kept")

    history: Tensor  # float32 [N, 5], an image's losses, the last one last; NaN before its first

    def __init__(
        self,
        task: Task,
        *,
        ies_threshold: Annotated[
            float | None,
            dict(
                low=0,
                high=1e6,
                help="ies: images are left out while the mean absolute second difference of their "
                "last losses is below this, in nats; default 0.001, with 100 classes or more 0.002 "
                "(Yuan et al. 2025)",
            ),
        ] = None,
        **options: Any,
    ):
        super().__init__(task, **options)
        default = 2e-3 if task.num_classes >= 100 else 1e-3
        self.threshold = default if ies_threshold is None else ies_threshold
        self.num_candidates = task.batch_size
        unknown = torch.full((task.num_images, KEPT), torch.nan, device=task.device)
        self.register_buffer("history", unknown)
        self.to_train = 0  # batches left of the pass, before those to score
        self.offered = self.kept = 0  # images of all passes drawn so far

    def draw(self, progress: float) -> Tensor:
        order = self.permutation(self.task.num_images)
        bends = self.history.diff(n=2).abs().mean(1)[order]
        settled, moving = order[bends < self.threshold], order[~(bends < self.threshold)]
        scored = self.in_batches(settled)
        kept = torch.cat([moving, settled[scored.numel() :]])
        kept = kept[self.permutation(len(kept))]
        if len(kept) < self.task.batch_size:
            kept, scored = order, scored[:0]
        self.offered += len(order)
        self.kept += len(kept)
        trained = self.in_batches(kept)
        self.to_train = len(trained)
        return torch.cat([trained, scored])

    def choose(self, batch: Batch, score: Score) -> Batch | None:
        if self.to_train:
            self.to_train -= 1
            return batch
        self.note(batch, batch.losses(score(batch)))
        return None

    def note(self, batch: Batch, losses: Tensor) -> None:
        """Append losses [b] to the images' histories."""
        earlier = self.history[batch.index, 1:]
        self.history[batch.index] = torch.cat([earlier, losses.float()[:, None]], 1)

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        self.note(batch, losses)

    def summary(self) -> dict[str, float]:
        return realised(self.kept, self.offered)
