"""Selective backprop: a scoring pass decides which images are worth a step."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from budgetbench import SelectiveBackpropSelector

from .base import Score, Selecting, Task, UniformEpochs, realised
from .batch import Batch


class SelectiveBackprop(Selecting):
    """The `SelectiveBackpropSelector` at work (Jiang et al. 2019).

    beta = 1/b - 1 (the default) spends the budget in about as many passes as epochs. As in the
    authors' code, a first pass trains on every image; here that is at most a tenth of the run, and
    its training losses begin the history. Where three passes filled no batch, because nearly all
    losses are equal (exactly zero, once the network separates the classes), the next one is not
    selected.
    """

    importance = True
    counts = ("offered", "kept")

    def __init__(
        self,
        task: Task,
        *,
        sb_beta: Annotated[
            float | None,
            dict(
                low=0,
                high=1e6,
                help="selective-backprop: exponent of the percentile; default 1/budget - 1, "
                "which keeps a fraction of `budget` (Jiang et al. 2019)",
            ),
        ] = None,
        uniform_epochs: UniformEpochs = None,
    ):
        super().__init__(task, uniform_epochs=uniform_epochs)
        self.num_candidates = task.batch_size
        self.selector = SelectiveBackpropSelector(
            task.batch_size,
            beta=1 / task.budget - 1 if sb_beta is None else sb_beta,
            patience=3 * task.num_images,  # one can be in vain by chance
            device=task.device,
            generator=self.rng,
        )
        self.offered = self.kept = 0  # images scored, and of these kept

    def choose(self, batch: Batch, score: Score) -> Batch | None:
        waiting = self.selector.waiting
        self.selector.keep(batch.losses(score(batch)), *vars(batch).values())
        self.offered += len(batch)
        self.kept += self.selector.waiting - waiting
        ready = self.selector.take()
        return None if ready is None else Batch(*ready)

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        # From then on the history is of the images scored, of which not all are trained on.
        if self.selector.scored < self.uniform_steps * self.task.batch_size:
            self.selector.learn(losses.float())

    def summary(self) -> dict[str, float]:
        return realised(self.kept, self.offered)
