"""One backward from ten forward: the batch whose mean loss is that of many candidates."""

from __future__ import annotations

from typing import Annotated, Any

from budgetbench import nearest_mean_subset

from .base import Score, Task
from .batch import Batch
from .pool import Pool


class OBFTF(Pool):
    """The B of m * B candidates from full passes whose mean loss is nearest to that of all.

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
        **options: Any,
    ):
        super().__init__(task, obftf_candidates, **options)

    def choose(self, batch: Batch, score: Score) -> Batch:
        return batch[nearest_mean_subset(batch.losses(score(batch)), self.task.batch_size)]
