"""Scores recorded while a run trains, by whatever method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..base import Method, Task
from ..batch import Batch
from .file import ScoreFile, digest


class Recorder(nn.Module):
    """Per-image statistics recorded during training, for one score or several that share them.

    They are buffers on the task's device, and all that a checkpoint has of them. What is noted is
    of augmented images, in train mode; a mixed image counts for its owner. The target is the one
    that was trained on.

    Args:
        task: of the run.
        first_epochs: budgeted epochs that count, of scores for which the user says it.
    """

    least_epochs: ClassVar[int] = 1  # of a run that is long enough for it

    def __init__(self, task: Task, first_epochs: int):
        super().__init__()
        self.task, self.first_epochs = task, first_epochs

    def note(self, name: str, *shape: int, fill: float = 0.0) -> None:
        """Make a buffer of such a shape, by default of one float32 per image."""
        shape = shape or (self.task.num_images,)
        self.register_buffer(name, torch.full(shape, fill, device=self.task.device))

    def observe(self, batch: Batch, logits: Tensor, epoch: int) -> None:
        """Learn from a step of a budgeted epoch, counted from 0."""
        raise NotImplementedError

    def scores(self) -> dict[str, Tensor]:
        """Float32 [N] of each score; NaN where an image has none."""
        raise NotImplementedError


class Recording(nn.Module):
    """A method, and notes on what each training forward pass showed of each image.

    It draws, chooses and weighs as the method does, so the run computes the same.

    Args:
        method: serves the run.
        recorders: one for each kind of notes, by name.
    """

    def __init__(self, method: Method, recorders: Mapping[str, Recorder]):
        super().__init__()
        self.method, self.recorders = method, nn.ModuleDict(recorders)
        self.each = tuple(recorders.values())
        self.step = 0

    def __getattr__(self, name: str) -> Any:
        """Whatever is not the recording's own is the method's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("method"), name)

    @property
    def num_bytes(self) -> int:
        """Memory of the notes."""
        return sum(buffer.nbytes for buffer in self.recorders.buffers())

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        self.method.observe(batch, logits, losses)
        epoch = self.step // self.task.steps_per_epoch
        for recorder in self.each:
            recorder.observe(batch, logits, epoch)
        self.step += 1

    def values(self) -> dict[str, Tensor]:
        """float32 [N] of each score recorded."""
        values: dict[str, Tensor] = {}
        for recorder in self.each:
            values |= recorder.scores()
        return values

    def file(self, source: dict) -> ScoreFile:
        """Return the recorded scores as a file that names its source."""
        values = {name: value.float().cpu().numpy() for name, value in self.values().items()}
        task = self.task
        return ScoreFile(
            task.dataset,
            digest(task.labels),
            values,
            [source],
            task.data_sha256,
            labels=task.labels,
        )

    def get_extra_state(self) -> dict:
        return {"step": self.step}

    def set_extra_state(self, state: dict) -> None:
        self.step = state["step"]
