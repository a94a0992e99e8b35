"""A callback for Lightning that lets a sampler learn, and saves it with Lightning's checkpoints."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from .hardness_weighted import HardnessWeightedSampler
from .subset import PSGDSampler


class SamplerCallback(Callback):
    """Updates a sampler after every training batch.

    The training step returns, beside `loss`, what the sampler's `update` takes: `index` [b] and
    `losses` [b] (of a `PSGDSampler`, the probabilities of the right classes). The sampler is the
    `batch_sampler` of the training loader. A training that goes on from a checkpoint, also one in
    the middle of an epoch, makes the same draws as if it had not been stopped.

    Args:
        sampler: of the training loader.

    Raises:
        MisconfigurationException: at the start of training, where Lightning has put a sampler of
            its own in the loader, as it does with several devices; and for a training step that
            returns no index and losses.
    """

    def __init__(self, sampler: HardnessWeightedSampler | PSGDSampler):
        self.sampler = sampler

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        if getattr(loader, "batch_sampler", None) is not self.sampler:
            raise MisconfigurationException(
                "the training loader does not draw by this sampler: give it as batch_sampler=, and "
                "Trainer(use_distributed_sampler=False)"
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not isinstance(outputs, dict) or not {"index", "losses"} <= outputs.keys():
            raise MisconfigurationException(
                "the training step has to return index [b] and losses [b] beside loss, in a dict"
            )
        self.sampler.update(outputs["index"], outputs["losses"])
        if batch_idx + 1 == trainer.num_training_batches:  # which `limit_train_batches` may cut
            self.sampler.end_pass()

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state_dict)
