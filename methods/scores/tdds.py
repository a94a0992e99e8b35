"""TDDS: how much the changes of an image's probabilities vary, late epochs above all."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Task
from ..batch import Batch
from .recording import Recorder

DECAY = 0.9  # beta: a window that ends d epochs before the last weighs beta * (1 - beta)^(d + 1)
#: Percentage of images that a core-set leaves out -> epochs T and window J (their Table 6).
SPANS = {30: (90, 10), 50: (70, 10), 70: (60, 20), 80: (20, 10), 90: (10, 5)}


class TDDS(Recorder):
    """Zhang et al. 2024, "Spanning Training Progress: Temporal Dual-Depth Scoring".

    KD_j = sum over classes c of |p_(j+1),c (log p_(j+1),c - log p_j,c)| says how much an image's
    probabilities changed from its first visit in one epoch to its first in the next. A window of J
    of them gives the norm of KD minus its mean in the window; the score is the sum of these norms
    with weights 0.9 * 0.1^(T - J - k) for the window from epoch k on, so that the last windows
    count. High is kept. T and J depend on how much is left out: `tdds-70` is for core-sets without
    70% of the images. Of a shorter run T is its epochs; a window that does not fit gives no score.
    """

    least_epochs = 6  # of the shortest window

    changes: Tensor  # [epochs - 1, N], KD; NaN where an image was not visited
    logs: Tensor  # [N, C], log probabilities at that visit; NaN before the first
    noted: Tensor  # [N], epoch of that visit; -1 before the first

    def __init__(self, task: Task, first_epochs: int):
        super().__init__(task, first_epochs)
        epochs = min(task.epochs, max(epochs for epochs, _ in SPANS.values()))
        self.note("changes", epochs - 1, task.num_images, fill=torch.nan)
        self.note("logs", task.num_images, task.num_classes, fill=torch.nan)
        self.note("noted", fill=-1.0)

    def observe(self, batch: Batch, logits: Tensor, epoch: int) -> None:
        if epoch > len(self.changes):
            return
        logs, before = logits.float().log_softmax(1), self.logs[batch.index]
        first = self.noted[batch.index] < epoch
        if epoch:
            change = (logs.exp() * (logs - before)).abs().sum(1)
            known = self.changes[epoch - 1, batch.index]
            self.changes[epoch - 1, batch.index] = change.where(first, known)
        self.logs[batch.index] = logs.where(first[:, None], before)
        self.noted[batch.index] = epoch

    def scores(self) -> dict[str, Tensor]:
        spans = {left_out: (min(t, len(self.changes) + 1), j) for left_out, (t, j) in SPANS.items()}
        return {f"tdds-{p}": self.score(t, j) for p, (t, j) in spans.items() if j < t}

    def score(self, epochs: int, window: int) -> Tensor:
        """The weighted sum of the windows' norms, [N]; of an image without changes, NaN."""
        total = torch.zeros_like(self.changes[0])
        for start in range(epochs - window):
            changes = self.changes[start : start + window]
            norm = (changes - changes.nanmean(0)).square().nansum(0).sqrt()
            total += DECAY * (1 - DECAY) ** (epochs - window - start) * norm
        return total.where(~self.changes[: epochs - 1].isnan().all(0), torch.nan)
