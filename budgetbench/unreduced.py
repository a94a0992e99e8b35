"""One loss per sample of any loss that is reduced to one number per batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def unreduced(loss: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A loss per batch as one per sample: it is computed of each sample as a batch of its own.

    The counterpart of `UnreducedLossFunction` of Fidon et al. 2022 (their code) for any loss. It
    costs as many calls of the loss as the batch has samples, and no further forward pass of the
    network. The mean of what it gives is the loss of the batch where that is a mean over samples,
    as of cross-entropy, of Dice computed per sample, and of weighted sums of them. It is not, and
    each number is the loss of a batch of this one sample instead, where

    - Dice is computed over the batch as a whole (nnU-Net's `batch_dice`, MONAI's `batch`),
    - labels are ignored or classes weighted, because a mean over what counts then weighs a sample
      by how much of it counts,
    - the network's outputs themselves depend on the batch, as the loss does not see.

    Args:
        loss: of outputs and targets, one number. A `Module`'s buffers and options are its own.

    Returns:
        A function of outputs and targets, which gives [b] that can be backpropagated. Outputs and
        targets are tensors [b, ...] or lists, tuples and dicts of such, nested as they please: for
        example one of each resolution, under deep supervision.

    Raises:
        ValueError: (that function) for tensors of different numbers of samples, and for a loss that
            is not one number.

    >>> loss = unreduced(torch.nn.CrossEntropyLoss())
    >>> loss(torch.zeros(3, 10), torch.tensor([1, 2, 3]))
    tensor([2.3026, 2.3026, 2.3026])
    """

    def per_sample(outputs: Any, targets: Any) -> Tensor:
        sizes = {len(tensor) for part in (outputs, targets) for tensor in tensors(part)}
        if len(sizes) != 1:
            raise ValueError(f"outputs and targets are of {sorted(sizes)} samples; give as many")
        (size,) = sizes
        if not size:
            raise ValueError("outputs and targets are of no sample")
        losses = [loss(row(outputs, i), row(targets, i)) for i in range(size)]
        if any(value.numel() != 1 for value in losses):
            raise ValueError(
                f"the loss of a batch is of shape {list(losses[0].shape)}; give one that is one "
                "number, such as with reduction='mean'"
            )
        return torch.stack([value.reshape(()) for value in losses])

    return per_sample


def tensors(part: Any) -> list[Tensor]:
    """All tensors of nested lists, tuples and dicts."""
    if isinstance(part, Tensor):
        return [part]
    values = part.values() if isinstance(part, dict) else part
    return [tensor for value in values for tensor in tensors(value)]


def row(part: Any, i: int) -> Any:
    """The same nest of the tensors' rows i, each a batch of one: [1, ...]."""
    if isinstance(part, Tensor):
        return part[i : i + 1]
    if isinstance(part, dict):
        return {name: row(value, i) for name, value in part.items()}
    rows = [row(value, i) for value in part]
    return type(part)(*rows) if hasattr(part, "_fields") else type(part)(rows)  # named tuples
