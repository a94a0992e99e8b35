"""DivBS: of many candidates a batch whose gradients span that of all of them."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from .base import Score, Task
from .batch import Batch
from .pool import Pool


class DivBS(Pool):
    """Steps on B of m * B candidates, from full passes, that are diverse and stand for all.

    Hong et al. 2024, "Diversified Batch Selection for Training Acceleration", with m = 10. g_i is
    the gradient of the last layer, (softmax - target) times the layer's input, in eval mode. The
    residual begins as the mean of all g_i; B times a candidate is drawn in proportion to
    |<g_i, residual>|, and what lies in the direction that its gradient adds to the span of those
    chosen is taken off the residual. As in the authors' code candidates are drawn, where the text
    takes the largest. Once nothing is left of the residual, the rest of the batch is uniform.

    Gradients are never formed: all of this can be said in their inner products [m * B, m * B],
    which are those of the errors times those of the inputs. Nothing waits for the device.
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
        products = inner_products(logits.softmax(1) - batch.targets, features)
        return batch[diverse(products, self.task.batch_size, self.rng)]


def inner_products(errors: Tensor, features: Tensor) -> Tensor:
    """Inner products [n, n] of the gradients errors [n, C] times features [n, d]."""
    errors, features = errors.double(), features.flatten(1).double()
    return (errors @ errors.T) * (features @ features.T)


def diverse(products: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """k rows drawn by what is left of the mean gradient, of inner products [n, n]: int64 [k].

    The Gram-Schmidt process in inner products is the Cholesky decomposition: its columns are the
    parts of all gradients along each of the orthonormal directions, and the mean of a column is
    the residual's.
    """
    n = len(products)
    parts = products.new_zeros(k, n)
    left = products.mean(0)  # inner products with the residual
    waiting = products.new_ones(n)
    smallest = 1e-9 * products.diagonal().max()  # squared length that is rounding
    rows = torch.zeros(k, dtype=torch.int64, device=products.device)
    points = torch.rand(k, dtype=products.dtype, generator=rng, device=products.device)
    for step in range(k):
        weights = left.abs() * waiting
        weights = torch.where((weights > smallest).any(), weights, waiting)
        sums = weights.cumsum(0)
        row = torch.searchsorted(sums, points[step : step + 1] * sums[-1], right=True)
        row = row.clamp(max=n - 1)
        rows[step] = row[0]
        waiting.index_fill_(0, row, 0)
        # index_select, because a row that is on the device would be waited for.
        part = products.index_select(0, row)[0]
        part = part - parts[:step].T @ parts[:step].index_select(1, row)[:, 0]
        square = part.index_select(0, row)
        part = torch.where(square > smallest, part / square.clamp(min=smallest).sqrt(), 0)
        parts[step] = part
        left = left - part * part.mean()
    return rows
