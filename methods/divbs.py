"""DivBS: a diverse batch, chosen from many candidates, whose gradients represent theirs."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from .base import Score, Task
from .batch import Batch
from .pool import Pool


class DivBS(Pool):
    """Steps on B of m * B candidates, from full passes, that are diverse and represent all.

    Hong et al. 2024, "Diversified Batch Selection for Training Acceleration", with m = 10. g_i is
    the gradient of the last layer, (softmax - target) times the layer's input, in eval mode. The
    residual begins as the mean of all g_i; B times a candidate is drawn in proportion to
    |<g_i, residual>|, and what lies in the direction that its gradient adds to the span of those
    chosen is taken off the residual. As in the authors' code candidates are drawn, where the text
    takes the largest. Once nothing is left of the residual, the rest of the batch is uniform.

    Gradients are never formed: all of this can be said in their inner products, which are those of
    the errors times those of the inputs, and of which only the rows of chosen candidates are
    computed. Nothing waits for the device.
    """

    needs_features = True

    def __init__(
        self,
        task: Task,
        *,
        divbs_candidates: Annotated[
            int,
            dict(
                low=1,
                high=1000,
                help="divbs: candidates scored for each image trained on (Hong et al. 2024)",
            ),
        ] = 10,
        **options: Any,
    ):
        super().__init__(task, divbs_candidates, **options)

    def choose(self, batch: Batch, score: Score) -> Batch:
        logits, features = score.with_features(batch)
        errors = logits.softmax(1) - batch.targets
        return batch[diverse(errors, features.flatten(1), self.task.batch_size, self.rng)]


def diverse(errors: Tensor, features: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """k rows drawn by what is left of the mean gradient: int64 [k].

    Gradients are errors [n, C] times features [n, d]. The Gram-Schmidt process in inner products is
    the Cholesky decomposition: its columns are the parts of all gradients along each of the
    orthonormal directions, and the mean of a column is the residual's.
    """
    errors, features = errors.double(), features.double()
    n = len(errors)
    parts = errors.new_zeros(k, n)
    mean = errors.T @ features / n  # gradient
    left = ((errors @ mean) * features).sum(1)  # inner products with the residual
    waiting = errors.new_ones(n)
    squares = errors.square().sum(1) * features.square().sum(1)
    rounding = 1e-9  # of squared lengths and inner products, as fractions of what they began as
    least = rounding * squares.sqrt() * mean.norm()
    rows = torch.zeros(k, dtype=torch.int64, device=errors.device)
    points = torch.rand(k, dtype=errors.dtype, generator=rng, device=errors.device)
    for step in range(k):
        weights = left.abs() * waiting
        weights = torch.where((weights > least).any(), weights, waiting)
        sums = weights.cumsum(0)
        row = torch.searchsorted(sums, points[step : step + 1] * sums[-1], right=True)
        row = row.clamp(max=n - 1)
        rows[step] = row[0]
        waiting.index_fill_(0, row, 0)
        # index_select, because a row that is on the device would be waited for.
        error, feature = (each.index_select(0, row)[0] for each in (errors, features))
        part = (errors @ error) * (features @ feature)
        part = part - parts[:step].T @ parts[:step].index_select(1, row)[:, 0]
        square = part.index_select(0, row)
        independent = square > rounding * squares.index_select(0, row)
        part = torch.where(independent, part / square.where(independent, 1).sqrt(), 0)
        parts[step] = part
        left = left - part * part.mean()
    return rows
