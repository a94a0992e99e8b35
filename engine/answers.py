"""What methods and augmentations answer, checked: a mistake is a line that names it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from augmentations import Augmentation
from augmentations.base import Mixed
from errors import UsageError
from methods import Batch, Task


def check_block(block: Any, task: Task) -> Tensor:
    """Return what `draw` gave, if it is batches of the task's images."""
    size = task.batch_size
    if (
        not isinstance(block, Tensor)
        or block.dtype != torch.int64
        or block.ndim != 2
        or not block.numel()
        or block.shape[1] % size
    ):
        raise UsageError(
            f"`method`: draw gave {in_words(block)}; give int64 [k, b], of k batches at least one, "
            f"and b {size} or a multiple of it"
        )
    if block.device.type == "cpu":  # on others the host would wait for the device
        low, high = block.aminmax()
        if low < 0 or high >= task.num_images:
            raise UsageError(
                f"`method`: draw gave indices from {low} to {high}; images are 0 to "
                f"{task.num_images - 1}"
            )
    return block


def check_batch(batch: Any, task: Task) -> Batch | None:
    """Return what `choose` gave, if it is a batch of the task's size, or None."""
    if batch is None or (isinstance(batch, Batch) and len(batch) == task.batch_size):
        return batch
    found = f"a Batch of {len(batch)}" if isinstance(batch, Batch) else in_words(batch)
    raise UsageError(
        f"`method`: choose gave {found}; give a Batch of {task.batch_size}, as batch[rows], or None"
    )


def check_weights(weights: Any, losses: Tensor) -> Tensor | None:
    """Return what `reweigh` gave, if it is a number for each loss, or None."""
    if weights is None or (isinstance(weights, Tensor) and weights.shape == losses.shape):
        return weights
    raise UsageError(
        f"`method`: reweigh gave {in_words(weights)}; give a tensor {list(losses.shape)}, or None"
    )


def check_mixed(mixed: Any, images: Tensor, augmentation: Augmentation) -> Mixed:
    """Return what `mix` gave, if it is as many images of the same size."""
    if isinstance(mixed, Mixed) and mixed.images.shape == images.shape:
        return mixed
    name = type(augmentation).__name__
    found = in_words(mixed.images) if isinstance(mixed, Mixed) else in_words(mixed)
    raise UsageError(
        f"`augmentation`: mix of {name} gave {found}; give an augmentations.base.Mixed of images "
        f"{list(images.shape)}"
    )


def in_words(answer: Any) -> str:
    if isinstance(answer, Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
    return f"a {type(answer).__name__}"
