"""A handler for MONAI's trainers that lets a sampler learn the loss of each case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor

from .hardness_weighted import HardnessWeightedSampler
from .sampler import mean_per_index
from .subset import PSGDSampler
from .unreduced import unreduced


class SamplerHandler:
    """Updates a sampler after every forward pass of a `SupervisedTrainer`.

    The sampler is the `batch_sampler` of the training loader. Its state is saved by
    `CheckpointSaver(save_dict={..., "sampler": sampler})` and loaded by `CheckpointLoader`; it is
    of what was trained on, also in the middle of an epoch.

    Where transforms make several crops of a case, the losses of its crops are averaged.

    Args:
        sampler: of the training loader.
        loss: of a batch, one number; by default the trainer's own. It is computed once more, of one
            crop at a time, see `unreduced`. A `PSGDSampler` takes exp(-loss) for the probability of
            the right classes, so it has to be cross-entropy, or at least never negative.
        key: of the cases' indices in the batch, which is a dict.
    """

    def __init__(
        self,
        sampler: HardnessWeightedSampler | PSGDSampler,
        loss: Callable[[Any, Any], Tensor] | None = None,
        key: str = "index",
    ):
        self.sampler, self.loss, self.key = sampler, loss, key

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Any) -> None:
        output, batch = engine.state.output, engine.state.batch
        if self.key not in batch:
            raise ValueError(
                f"the batch has no {self.key!r}: give each case its place under that key"
            )
        loss = unreduced(self.loss or engine.loss_function)
        losses = loss(output[CommonKeys.PRED], output[CommonKeys.LABEL]).float().cpu()
        index = torch.as_tensor(batch[self.key]).reshape(-1).cpu()
        self.sampler.update_by_losses(*mean_per_index(index, losses))
