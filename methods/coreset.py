"""random-subset and coreset: one subset of the training set, chosen before training starts."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from .base import Method, OptionError, Task
from .scores.file import HOW, SCORES, read_score


class RandomSubset(Method):
    """random-subset: full passes over one uniform subset of floor(b * N) images.

    The baseline "Random" of Arazo et al. 2021. Each pass is in a fresh order, its last
    incomplete batch is dropped, and passes continue across epochs.
    """

    subset: Tensor  # int64, the images of the run

    def __init__(self, task: Task):
        super().__init__(task)
        self.register_buffer("subset", self.select())

    def select(self) -> Tensor:
        """The images to train on: int64 [floor(b * N)]."""
        return self.permutation(self.task.num_images)[: self.task.subset_size]

    def draw(self, progress: float) -> Tensor:
        return self.in_batches(self.subset[self.permutation(len(self.subset))])


class Coreset(RandomSubset):
    """coreset: as random-subset, of the floor(b * N) images of the highest (or lowest) scores.

    Scores come from a file, see `methods/scores`: forgetting (Toneva et al. 2019), el2n and grand
    (Paul et al. 2021), or k-center (Sener & Savarese 2018), of which the highest are the first
    chosen. Which of images with equal scores are taken is random; those without one never are.
    """

    def __init__(
        self,
        task: Task,
        *,
        coreset_file: Annotated[
            str | None,
            dict(
                metavar="FILE",
                needed=f"a file of scores; make one with {HOW}",
                help="coreset: scores to choose images by, made by python -m engine.scores or, in "
                "the folder of a run, by `record`",
            ),
        ] = None,
        coreset_score: Annotated[
            str | None,
            dict(
                choices=SCORES,
                help="coreset: which of the file's scores; by default the only one in it",
            ),
        ] = None,
        coreset_keep: Annotated[
            str,
            dict(choices=("highest", "lowest"), help="coreset: highest or lowest scores"),
        ] = "highest",
        coreset_per_class: Annotated[
            bool,
            dict(help="coreset: from each class in proportion to its size, not from all together"),
        ] = False,
    ):
        self.scores, file = read_score(task, "coreset_file", coreset_file, coreset_score)
        self.sign = 1 if coreset_keep == "lowest" else -1
        self.per_class = coreset_per_class
        super().__init__(task)
        self.files, self.scoring_cost = {"coreset_file": file.sha256}, file.cost

    def select(self) -> Tensor:
        labels, size = self.task.labels, self.task.subset_size
        order = self.permutation(self.task.num_images).cpu().numpy()
        order = order[np.argsort(self.sign * self.scores[order], kind="stable")]  # NaN comes last
        order = order[~np.isnan(self.scores[order])]
        if self.per_class:
            quotas = proportional(np.bincount(labels, minlength=self.task.num_classes), size)
            order = order[np.argsort(labels[order], kind="stable")]
            ends = np.bincount(labels[order], minlength=len(quotas)).cumsum()
            groups = np.split(order, ends[:-1])
            order = np.concatenate([group[:k] for group, k in zip(groups, quotas)])
        if len(order) < size:
            where = " of each class in proportion" if self.per_class else ""
            raise OptionError(
                "coreset_file",
                f"too few images have a score to choose {size}{where}; lower `budget`, or make it "
                "from runs that train on all images",
            )
        return torch.from_numpy(order[:size]).to(self.task.device)


def proportional(counts: np.ndarray, size: int) -> np.ndarray:
    """Distribute `size` places in proportion to counts [C], by largest remainders: int64 [C]."""
    places, remainders = np.divmod(size * counts, counts.sum())
    more = np.argsort(-remainders, kind="stable")[: size - places.sum()]
    places[more] += 1
    return places
