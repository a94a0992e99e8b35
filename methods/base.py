"""The interface of a method. The base class is the baseline: plain SGD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .batch import Batch


@dataclass(frozen=True)
class Task:
    """Facts of the run that a method may know."""

    dataset: str  # its name
    labels: np.ndarray  # int64 [N], class of each training image
    num_classes: int  # C
    batch_size: int  # B, images per optimizer step
    budget: float  # b in (0, 1], fraction of a full pass spent per epoch
    epochs: int  # E, budgeted epochs
    device: torch.device  # where state and draws live
    seed: int  # of the method's own random draws
    data_sha256: str | None = None  # `Dataset.sha256`

    @property
    def num_images(self) -> int:
        """N, the size of the training set."""
        return len(self.labels)

    @cached_property
    def subset_size(self) -> int:
        """floor(b * N), images that one budgeted epoch may draw."""
        return subset_size(self.budget, self.num_images)

    @cached_property
    def steps_per_epoch(self) -> int:
        """S = floor(subset_size / B)."""
        return self.subset_size // self.batch_size

    @cached_property
    def steps(self) -> int:
        """T = E * S, the optimizer steps of plain SGD."""
        return self.epochs * self.steps_per_epoch


def subset_size(budget: float, num_images: int) -> int:
    """Return floor(budget * N), of the decimal number as written, not of its binary neighbour."""
    return int(Decimal(repr(budget)) * num_images)


class OptionError(ValueError):
    """An option's value that a method cannot work with; the reason, one line, has the remedy."""

    def __init__(self, option: str, reason: str):
        super().__init__(f"{option}: {reason}")
        self.option, self.reason = option, reason


class Score(Protocol):
    """What the network makes of candidates as it is now, in eval mode and without gradient.

    Each call counts as a forward pass of its images.
    """

    def __call__(self, batch: Batch) -> Tensor:
        """Logits [b, C]."""

    def with_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [b, C] and what the last layer made them of [b, d]."""


class Method(nn.Module):
    """Where to spend the budget. This base is plain SGD; override only what differs.

    The loop asks four questions, in this order, and owns everything else (budget, learning
    rate, augmentation, devices, logging, checkpoints):

        draw      which images come next?            whenever the last block is used up
        choose    which of these are worth a step?   once per candidate batch
        reweigh   how much does each loss count?     once per step, after its forward pass
        observe   what did the step show?            once per step, after its update

    State with one entry per image goes in buffers on the task's device, full size from the
    start, so that `state_dict()` is a complete checkpoint. All randomness comes from
    `self.rng`. No step may copy to the host or wait for the device; `draw` may, for a number.

    A method's options are the keyword arguments of its constructor, each annotated as
    `Annotated[type, dict(help=..., low=..., high=...)]`: the command line is made from them. Of
    texts, `choices` are all that is allowed, and `needed` says how to get one that has to be given.
    `before` is what versions without the option did, where that is not the default. A base class's
    options are taken by `**options` and passed on.
    """

    plain: Method  # plain SGD for a uniform start, see `Selecting`
    importance = False  # whether images are favoured by what the network makes of them
    num_candidates = 0  # images that `choose` has scored at once; none here
    needs_features = False  # whether it asks for `Score.with_features`
    counts: tuple[str, ...] = ()  # attributes, whole numbers, that a checkpoint has
    uniform_steps = 0  # first steps of the run that are plain SGD's, see `Selecting`
    #: Of each option that names a file, the SHA-256 of what was read: a run is identified by this.
    files: Mapping[str, str | None] = MappingProxyType({})
    #: Of the runs behind these files, in forward passes of one image; None where they do not say.
    scoring_cost: int | None = 0
    scoring_seconds: float | None = 0.0  # of the same

    def __init__(self, task: Task):
        super().__init__()
        self.task = task
        self.rng = torch.Generator(task.device).manual_seed(task.seed)

    def draw(self, progress: float) -> Tensor:
        """Indices of the next candidate batches, in order: int64 [k, b], any k >= 1.

        `progress` in [0, 1) is the fraction of the run's budget that is spent. The k batches must
        not depend on what the first of them will teach. b is B or a multiple of it. Here: one
        full pass in a fresh order.
        """
        return self.in_batches(self.permutation(self.task.num_images))

    def choose(self, batch: Batch, score: Score) -> Batch | None:
        """The batch to step on (exactly B rows), or None to be handed more candidates.

        `score` gives the logits [b, C] of candidates, and counts what that costs.
        """
        return batch

    def reweigh(self, batch: Batch, losses: Tensor) -> Tensor | None:
        """A weight [B] for each of the losses [B], constant in the gradient; None means one."""
        return None

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        """Learn from the step just made: its batch, logits [B, C] and losses [B]."""

    def summary(self) -> dict[str, float]:
        """Numbers that config.json gives at the end of the run, of how the method went.

        `realised_fraction` in [0, 1] is for methods that may do less than their options say: of
        the images they saw those kept, or of the steps those that they selected for.
        """
        return {}

    def permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.rng, device=self.task.device)

    def in_batches(self, index: Tensor) -> Tensor:
        """Cut indices [n] in whole batches [n // B, B]; a last incomplete one is dropped."""
        size = self.task.batch_size
        return index[: len(index) // size * size].view(-1, size)

    def get_extra_state(self) -> dict:
        return {"rng": self.rng.get_state(), **{name: getattr(self, name) for name in self.counts}}

    def set_extra_state(self, state: dict) -> None:
        self.rng.set_state(state["rng"].cpu())
        for name in self.counts:
            setattr(self, name, state[name])


def realised(part: int, whole: int) -> dict[str, float]:
    """What `Method.summary` says of a part, such as of the images seen those kept."""
    return {"realised_fraction": part / whole} if whole else {}


UniformEpochs = Annotated[
    int | None,
    dict(
        low=0,
        before=0,
        help="methods that select: budgeted epochs at the start that make plain SGD's steps, "
        "from which the method only learns; default 0, for selective-backprop one pass over the "
        "training set, at most a tenth of the run (Jiang et al. 2019)",
    ),
]


class Selecting(Method):
    """A method that selects images or weighs their losses, optionally after a uniform start.

    The first `uniform_steps` steps are plain SGD's: the loop has their batches drawn by `plain`,
    hands all of them on, unweighted and unscored, and has the method observe them. `plain` makes
    the very draws that SGD makes with this seed. The method's own draws come of another seed then:
    its first pass would else repeat the one that it has just seen.
    """

    def __init__(self, task: Task, *, uniform_epochs: UniformEpochs = 0):
        super().__init__(task)
        if uniform_epochs is None:
            self.uniform_steps = min(task.num_images // task.batch_size, task.steps // 10)
        elif uniform_epochs > task.epochs:
            raise OptionError(
                "uniform_epochs", f"the run ends after {task.epochs} epochs; give at most that many"
            )
        else:
            self.uniform_steps = uniform_epochs * task.steps_per_epoch
        if self.uniform_steps:
            self.plain = Method(task)
            self.rng.manual_seed(task.seed + 1)
