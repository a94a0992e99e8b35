"""loss-topk, entropy-topk, margin-topk: of many candidates those that look hardest now."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from budgetbench import entropy, margin

from .base import Score, Task
from .batch import Batch
from .pool import Pool


class LossTopK(Pool):
    """loss-topk: steps on the B of m * B candidates, from full passes, of the highest losses.

    As in the libraries modyn and DeepCore (Guo et al. 2022), with m = 10. A mixed image's loss is
    that of its mixed target.
    """

    def __init__(
        self,
        task: Task,
        *,
        topk_candidates: Annotated[
            int,
            dict(
                low=1,
                high=1000,
                help="loss-topk, entropy-topk, margin-topk: candidates scored for each image "
                "trained on; 1 is SGD with scoring",
            ),
        ] = 10,
        **options: Any,
    ):
        super().__init__(task, topk_candidates, **options)

    def choose(self, batch: Batch, score: Score) -> Batch:
        hardness = self.hardness(batch, score(batch))
        return batch[hardness.topk(self.task.batch_size).indices]

    def hardness(self, batch: Batch, logits: Tensor) -> Tensor:
        """What candidates are ranked by, [b]."""
        return batch.losses(logits)


class EntropyTopK(LossTopK):
    """entropy-topk: as loss-topk, by the entropy of the network's probabilities."""

    def hardness(self, batch: Batch, logits: Tensor) -> Tensor:
        return entropy(logits)


class MarginTopK(LossTopK):
    """margin-topk: as loss-topk, by how little the largest probability exceeds the second."""

    def hardness(self, batch: Batch, logits: Tensor) -> Tensor:
        return -margin(logits)
