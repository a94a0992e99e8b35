"""Scores recorded while a run trains, by whatever method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from budgetbench import el2n

from ..base import Method
from ..batch import Batch
from .file import ScoreFile, digest

RECORDED = ("forgetting", "el2n")


class Recording(nn.Module):
    """A method, and notes on what each training forward pass showed of each image.

    It draws, chooses and weighs as the method does, so the run computes the same. What is recorded
    is of augmented images, in train mode; a mixed image counts for its owner.

    `forgetting` counts the visits at which an image is wrong that was right at its visit before
    (Toneva et al. 2019, "An Empirical Study of Example Forgetting"). An image that was visited and
    never right counts as the most forgotten, infinitely often in the paper; here, that means over
    several runs stay finite, as often as the most visited image was visited, which no count of
    forgetting reaches.

    `el2n` is the mean over an image's visits in the first epochs (Paul et al. 2021, who take it
    from the network as it is at one early epoch, over un-augmented images). The target is the one
    that was trained on.

    An image without a visit has no score, NaN. State: 4 to 24 bytes per image.

    Args:
        method: serves the run.
        scores: which of RECORDED.
        el2n_epochs: budgeted epochs, of S steps each, over which EL2N is recorded.
    """

    def __init__(self, method: Method, scores: Sequence[str], el2n_epochs: int):
        super().__init__()
        self.method, self.scores = method, tuple(scores)
        self.step, self.el2n_steps = 0, el2n_epochs * self.task.steps_per_epoch
        buffers: dict[str, tuple[str, ...]] = dict(
            forgetting=("visits", "right", "learnt", "forgotten")
        )
        buffers |= dict(el2n=("el2n_sum", "el2n_visits"))
        for name in (name for score in self.scores for name in buffers[score]):
            zeros = torch.zeros(self.task.num_images, device=self.task.device)
            self.register_buffer(name, zeros)

    def __getattr__(self, name: str) -> Any:
        """Whatever is not the recording's own is the method's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("method"), name)

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        self.method.observe(batch, logits, losses)
        if "forgetting" in self.scores:
            self.record_forgetting(batch, logits)
        if "el2n" in self.scores and self.step < self.el2n_steps:
            self.el2n_sum.index_add_(0, batch.index, el2n(logits, batch.targets))
            self.el2n_visits.index_add_(0, batch.index, torch.ones_like(losses))
        self.step += 1

    def record_forgetting(self, batch: Batch, logits: Tensor) -> None:
        right = (logits.argmax(1) == batch.labels).float()
        self.visits.index_add_(0, batch.index, torch.ones_like(right))
        self.forgotten.index_add_(0, batch.index, self.right[batch.index] * (1 - right))
        # An image that is in the batch twice was right if it was so both times.
        self.right.scatter_reduce_(0, batch.index, right, "amin", include_self=False)
        self.learnt.scatter_reduce_(0, batch.index, right, "amax")

    def values(self) -> dict[str, Tensor]:
        """float32 [N] of each score recorded."""
        values = {}
        if "forgetting" in self.scores:
            forgotten = self.forgotten.where(self.learnt > 0, self.visits.max())
            values["forgetting"] = forgotten.where(self.visits > 0, torch.nan)
        if "el2n" in self.scores:
            values["el2n"] = self.el2n_sum / self.el2n_visits  # 0 / 0 is NaN
        return values

    def file(self, source: dict) -> ScoreFile:
        """Return the recorded scores as a file that names its source."""
        values = {name: value.cpu().numpy() for name, value in self.values().items()}
        task = self.task
        return ScoreFile(task.dataset, digest(task.labels), values, [source], task.data_sha256)

    def get_extra_state(self) -> dict:
        return {"step": self.step}

    def set_extra_state(self, state: dict) -> None:
        self.step = state["step"]
