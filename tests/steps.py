"""Steps of the training loop, one at a time or many, and what was seen of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple
from unittest.mock import patch

from torch import Tensor

from engine.log import Log
from engine.loop import train
from engine.trainer import Trainer
from methods import Batch

NEVER = 10**9  # epochs between evaluations, but for the one at the end of a run


class Step(NamedTuple):
    batch: Batch
    losses: Tensor  # [B]


class Rows(Log):
    """Keeps the rows of the curve."""

    def __init__(self):
        self.rows: list[Mapping[str, float]] = []

    def end_epoch(self, row: Mapping[str, float]) -> None:
        self.rows.append(row)


def make_steps(
    trainer: Trainer,
    count: int | None = None,
    *,
    look: Callable[[Batch], object] | None = None,
    log: Log | None = None,
    eval_every: int = NEVER,
) -> list[Step]:
    """Make steps, by default all that are left.

    Args:
        trainer: of the run.
        count: of the steps.
        look: gets each batch when it has been chosen, before the step on it.
        log: of the loop.
        eval_every: of the loop.
    """
    method, steps = trainer.method, []
    draw_next, choose, observe = trainer.loader.next, method.choose, method.observe

    def chosen(batch: Batch | None) -> Batch | None:
        if batch is not None and look:
            look(batch)
        return batch

    def note(batch: Batch, logits: Tensor, losses: Tensor) -> None:
        steps.append(Step(batch, losses))
        observe(batch, logits, losses)

    with (
        patch.object(
            trainer.loader,
            "next",
            lambda: chosen(draw_next()) if trainer.starts_uniformly else draw_next(),
        ),
        patch.object(method, "choose", lambda batch, score: chosen(choose(batch, score))),
        patch.object(method, "observe", note),
    ):
        train(trainer, log or Log(), eval_every, count)
    return steps
