"""A mixin for the Trainer of transformers that draws batches by a sampler."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, seed_worker

from .hardness_weighted import HardnessWeightedSampler
from .subset import PSGDSampler

FILE = "sampler.pt"  # in a checkpoint's folder
Base: Any = object
Sampler = HardnessWeightedSampler | PSGDSampler


class SamplerMixin(Base):
    """Trains on batches of a sampler, which learns the loss of each of their samples.

        class MyTrainer(SamplerMixin, Trainer):
            pass

        trainer = MyTrainer(model, args, train_dataset=dataset, sampler=sampler)

    The data set's items have their `index` beside the model's inputs; `TrainingArguments` needs
    `remove_unused_columns=False`, which else takes it away. The sampler's state lies in every
    checkpoint, and `train(resume_from_checkpoint=...)` goes on with the same draws, also in the
    middle of an epoch.

    Args:
        sampler: of batches of `per_device_train_batch_size`; with several processes it has their
            number and this one's rank.

    Raises:
        ValueError: for `remove_unused_columns=True`, another size of batches, accumulated
            gradients, in whose batches a sampler would learn too late, items without index, and
            a loss that `sample_losses` does not know.
    """

    def __init__(
        self, *arguments: Any, sampler: HardnessWeightedSampler | PSGDSampler, **options: Any
    ):
        super().__init__(*arguments, **options)
        if self.args.remove_unused_columns:
            raise ValueError("the index would be removed: give remove_unused_columns=False")
        if self.args.gradient_accumulation_steps > 1:
            raise ValueError("give gradient_accumulation_steps=1 and a larger batch size")
        if sampler.batch_size != self.args.per_device_train_batch_size:
            raise ValueError(
                f"the sampler's batches are of {sampler.batch_size}: give as many as "
                "per_device_train_batch_size"
            )
        is_own = type(self).sample_losses is not SamplerMixin.sample_losses
        if not is_own and (self.args.label_smoothing_factor or self.compute_loss_func):
            raise ValueError(
                "label_smoothing_factor and compute_loss_func are of whole batches: override "
                "sample_losses, which gives a loss for each sample"
            )
        # The sampler itself goes on where it was: no batches are to be skipped.
        self.args.ignore_data_skip = True
        self.sampler = sampler
        # As the Trainer itself knows models whose labels are the tokens that they are shown.
        model = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        self.next_token = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        self.add_callback(SaveSampler(sampler))

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        seed = partial(
            seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index
        )
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
            pin_memory=args.dataloader_pin_memory,
            worker_init_fn=seed,
        )

    def sample_losses(self, outputs: Any, inputs: dict[str, Any]) -> Tensor:
        """The loss of each sample, [b]: cross-entropy of `logits` [b, C] or [b, tokens, C].

        Tokens with label -100 do not count. A causal language model's logits are of the token after
        each. Override it for another loss.
        """
        logits, labels = outputs["logits"], inputs["labels"]
        if logits.shape[-1] == 1:
            raise ValueError(
                "one output is of no class, as in a regression: override sample_losses"
            )
        if self.next_token:
            logits, labels = logits[:, :-1], labels[:, 1:]
        losses = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        losses = losses.view(len(labels), -1)
        counted = (labels != -100).reshape(len(labels), -1).sum(1)
        return losses.sum(1) / counted.clamp(min=1)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **options: Any
    ) -> Any:
        """The mean of `sample_losses`; in training the sampler learns them."""
        inputs = dict(inputs)
        index = inputs.pop("index", None)
        if model.training and index is None:
            raise ValueError("the batch has no index: give each item of the data set its place")
        outputs = model(**inputs)
        losses = self.sample_losses(outputs, inputs)
        if model.training:
            self.sampler.update_by_losses(index, losses.detach())
        return (losses.mean(), outputs) if return_outputs else losses.mean()

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], *options: Any, **named: Any
    ) -> Any:
        """transformers' own, without the index, which no model takes."""
        inputs = {name: value for name, value in inputs.items() if name != "index"}
        return super().prediction_step(model, inputs, *options, **named)

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """transformers' own, after the sampler's state is loaded where training goes on."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        if folder:
            self.sampler.load_state_dict(torch.load(Path(folder) / FILE, weights_only=True))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)


class SaveSampler(TrainerCallback):
    """Saves a sampler in each checkpoint's folder."""

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.should_save:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            torch.save(self.sampler.state_dict(), folder / FILE)
