"""unif-SGD, p-SGD and c-SGD: a fresh subset of the training set every epoch."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from budgetbench import CSGDSampler, PSGDSampler

from .base import Method, Selecting, Task
from .batch import Batch


class UnifSGD(Method):
    """unif-SGD: a fresh uniform subset of floor(b * N) images every epoch (Arazo et al. 2021)."""

    def draw(self, progress: float) -> Tensor:
        return self.in_batches(self.permutation(self.task.num_images)[: self.task.subset_size])


class PSGD(Selecting, UnifSGD):
    """p-SGD: the `PSGDSampler` at work.

    While nothing is learnt all images are alike: the first subset is then unif-SGD's.
    """

    importance = True

    SAMPLER = PSGDSampler

    def __init__(
        self,
        task: Task,
        *,
        smoothing: Annotated[
            float,
            dict(
                low=0,
                high=1e6,
                help="p-SGD, c-SGD: multiple of the mean importance added to every image's; "
                "0 turns it off (Chang et al. 2017)",
            ),
        ] = 1.0,
        last_visit: Annotated[
            bool,
            dict(
                help="p-SGD, c-SGD: use only an image's last visit, not the mean over its visits, "
                "as an ablation (Arazo et al. 2021)"
            ),
        ] = False,
        **options: Any,
    ):
        super().__init__(task, **options)
        self.sampler = self.SAMPLER(
            task.num_images,
            task.batch_size,
            subset_size=task.subset_size,
            smoothing=smoothing,
            averaging=not last_visit,
            device=task.device,
            generator=self.rng,
        )

    def draw(self, progress: float) -> Tensor:
        return super().draw(progress) if progress == 0 else self.sampler.draw()

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        probability = logits.float().softmax(1).gather(1, batch.labels[:, None]).squeeze(1)
        self.sampler.record(batch.index, probability)


class CSGD(PSGD):
    """c-SGD: the `CSGDSampler` at work."""

    SAMPLER = CSGDSampler
