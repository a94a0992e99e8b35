"""random-subset and coreset: one subset of the training set, chosen before training starts."""

from __future__ import annotations

import operator
import time
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from .base import Method, OptionError, Task
from .batch import Batch
from .scores.file import HOW, HOW_FEATURES, LOW_IS_HARD, SCORES, ScoreFile, read_file
from .selection import SELECTION, Candidates


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
    """coreset: as random-subset, of floor(b * N) images that an earlier run's scores choose.

    Scores come from a file, see `methods/scores`; how they choose is one of `methods/selection`.
    Images without a score are never taken. Where the choice gives weights (craig, grad-match), an
    image's loss is multiplied by its own, of mean 1; a mixed image has its owner's.
    """

    weights: Tensor  # float32 [N], of mean 1 over the core-set

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
        coreset_select: Annotated[
            str,
            dict(
                choices=tuple(SELECTION),
                help="coreset: which images: those of the top, bottom or middle scores, stratified "
                "(all levels but the hardest, Zheng et al. 2023), beta (Cho et al. 2025), d2 "
                "(Maharana et al. 2024), craig (Mirzasoleiman et al. 2020), facility-location or "
                "grad-match (Killamsetty et al. 2021); the last four need a file with features",
            ),
        ] = "top",
        coreset_drop: Annotated[
            float | None,
            dict(
                low=0,
                below=1,
                help="coreset: fraction of all images, hardest first, that stratified and d2 drop, "
                "less where too few would be left; default of stratified 0.3 for budgets up to "
                "0.1, 0.2 up to 0.2, else 0.1; of d2 0.4",
            ),
        ] = None,
        coreset_per_class: Annotated[
            bool,
            dict(
                help="coreset: from each class in proportion to its size, not from all together; "
                "craig, facility-location and grad-match always do so"
            ),
        ] = False,
    ):
        file = read_file(task, "coreset_file", coreset_file)
        rule = SELECTION[coreset_select]
        self.rule, self.per_class = rule, coreset_per_class or rule.always_per_class
        check(coreset_select, file, coreset_score, coreset_drop)
        if not rule.by_score:  # any: it says which images there are
            coreset_score = next(iter(file.values))
        name, scores = file.score("coreset_file", coreset_score)
        if rule.by_means and (name in LOW_IS_HARD or np.nanmin(scores, initial=0) < 0):
            raise OptionError(
                "coreset_select",
                f"goes by scores that are high for hard images and never negative, as dual, which "
                f"{name} is not; give another `coreset_score`",
            )
        self.candidates = Candidates(
            scores if rule.by_score else np.zeros_like(scores),
            name in LOW_IS_HARD,
            np.random.default_rng(task.seed),
            task.budget,
            coreset_drop,
            file.values.get("dual-mean") if rule.by_means else None,
            file.features if rule.by_features else None,
            file.errors if rule.by_features else None,
        )
        start = time.perf_counter()
        super().__init__(task)
        del self.candidates  # of which the run needs nothing
        self.seconds = time.perf_counter() - start
        self.files = {"coreset_file": file.sha256}
        self.scoring_cost, self.scoring_seconds = file.cost, file.seconds

    def select(self) -> Tensor:
        labels, size = self.task.labels, self.task.subset_size
        drawn = self.permutation(self.task.num_images)
        if drawn.device.type != "cpu":  # as a CPU draws it, so that one seed means one choice
            rng = torch.Generator().manual_seed(self.task.seed)
            drawn = torch.randperm(len(drawn), generator=rng)
        order = drawn.numpy()
        known = ~np.isnan(self.candidates.scores)
        if self.candidates.means is not None:
            known &= ~np.isnan(self.candidates.means)
        order = order[known[order]]
        groups, sizes = [order], [size]
        if self.per_class:
            order = order[np.argsort(labels[order], kind="stable")]
            counts = np.bincount(labels, minlength=self.task.num_classes)
            sizes = proportional(counts, size).tolist()
            groups = np.split(order, np.bincount(labels[order], minlength=len(sizes)).cumsum()[:-1])
        if any(map(operator.lt, map(len, groups), sizes)):
            where = " of each class in proportion" if self.per_class else ""
            raise OptionError(
                "coreset_file",
                f"too few images have a score to choose {size}{where}; lower `budget`, or make it "
                "from runs that train on all images",
            )
        weights = np.ones(self.task.num_images)
        subset = []
        for group, places in zip(groups, sizes):
            if places:
                rows, weight = self.rule.choose(self.candidates[group], places)
                subset.append(group[rows])
                weights[subset[-1]] = 1 if weight is None else weight
        chosen = np.concatenate(subset)
        weights[chosen] /= weights[chosen].mean()
        self.weighted = bool((weights != 1).any())
        self.register_buffer("weights", torch.tensor(weights).float().to(self.task.device))
        return torch.from_numpy(chosen).to(self.task.device)

    def reweigh(self, batch: Batch, losses: Tensor) -> Tensor | None:
        return self.weights[batch.index] if self.weighted else None

    def summary(self) -> dict[str, float]:
        return {"selection_seconds": self.seconds}


def check(select: str, file: ScoreFile, score: str | None, drop: float | None) -> None:
    """Refuse what a rule of selection has no use for, and a file that lacks what it needs."""
    rule = SELECTION[select]
    if drop is not None and not rule.drops:
        takers = " and ".join(name for name, each in SELECTION.items() if each.drops)
        raise OptionError(
            "coreset_drop",
            f"is of `coreset_select` {takers}, and {select} drops no image for being hard; leave "
            "it out",
        )
    if score is not None and not rule.by_score:
        raise OptionError(
            "coreset_score",
            f"has no effect with `coreset_select` {select}, which goes by features; leave it out",
        )
    if rule.by_features and file.features is None:
        raise OptionError(
            "coreset_file",
            f"has no features, by which `coreset_select` {select} chooses; make it with "
            f"{HOW_FEATURES}",
        )
    if rule.by_means and "dual-mean" not in file.values:
        raise OptionError(
            "coreset_file",
            f"has no dual-mean, by which `coreset_select` {select} chooses; make it with that "
            "score too, of runs that `record` dual",
        )


def proportional(counts: np.ndarray, size: int) -> np.ndarray:
    """Distribute `size` places in proportion to counts [C], by largest remainders: int64 [C]."""
    places, remainders = np.divmod(size * counts, counts.sum())
    more = np.argsort(-remainders, kind="stable")[: size - places.sum()]
    places[more] += 1
    return places
