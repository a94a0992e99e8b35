"""Methods that choose each batch among many candidates."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Selecting, Task
from .passes import Passes


class Pool(Selecting):
    """Draws m * B candidates for each step from full passes, of which `choose` keeps B.

    Args:
        task: of the run.
        candidates: m, for each image trained on.
    """

    importance = True

    def __init__(self, task: Task, candidates: int, **options: Any):
        super().__init__(task, **options)
        self.num_candidates = candidates * task.batch_size
        self.passes = Passes(task.num_images, self.rng)

    def draw(self, progress: float) -> Tensor:
        return self.passes.take(self.num_candidates)[None]
