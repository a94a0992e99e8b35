"""One loss per sample of reduced losses, of PyTorch's and of nnU-Net's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from budgetbench import unreduced

VOLUME = (6, 5, 4)


def batch(samples: int = 3, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    outputs = torch.randn(samples, classes, *VOLUME, generator=rng, requires_grad=True)
    return outputs, torch.randint(classes, (samples, 1, *VOLUME), generator=rng)


def nnunet_loss(batch_dice: bool = False, ignore: int | None = None, levels: int = 0) -> nn.Module:
    losses = pytest.importorskip("nnunetv2.training.loss.compound_losses")
    dice = pytest.importorskip("nnunetv2.training.loss.dice").MemoryEfficientSoftDiceLoss
    settings = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = losses.DC_and_CE_loss(settings, {}, ignore_label=ignore, dice_class=dice)
    if not levels:
        return loss
    wrapper = pytest.importorskip("nnunetv2.training.loss.deep_supervision")
    return wrapper.DeepSupervisionWrapper(loss, [0.6, 0.4, 0.0][:levels])


MEANS = {
    "cross-entropy": lambda: nn.CrossEntropyLoss(),
    "nnU-Net": nnunet_loss,
}


@pytest.mark.parametrize("name", MEANS)
def test_the_mean_is_the_loss_of_the_batch(name: str) -> None:
    """And so is its gradient."""
    loss, (outputs, targets) = MEANS[name](), batch()
    targets = targets[:, 0] if name == "cross-entropy" else targets
    losses = unreduced(loss)(outputs, targets)
    assert losses.shape == (3,)
    assert losses.std() > 0
    (ours,) = torch.autograd.grad(losses.mean(), outputs)
    whole = loss(outputs, targets)
    torch.testing.assert_close(losses.mean(), whole)
    torch.testing.assert_close(ours, torch.autograd.grad(whole, outputs)[0])


@pytest.mark.parametrize("reduction", [nn.CrossEntropyLoss, nn.MultiMarginLoss])
def test_each_is_what_pytorch_gives_without_reduction(reduction: Any) -> None:
    outputs, targets = (
        torch.randn(4, 5, generator=torch.Generator().manual_seed(1)),
        torch.arange(4),
    )
    torch.testing.assert_close(
        unreduced(reduction())(outputs, targets), reduction(reduction="none")(outputs, targets)
    )


def test_lists_of_outputs_and_targets_are_cut_alike() -> None:
    """Deep supervision: one output and one target of each resolution, in whatever nest."""
    outputs, targets = batch()
    low = nn.functional.avg_pool3d(outputs, 2), targets[..., ::2, ::2, ::2][..., :3, :2, :2]
    loss = nnunet_loss(levels=2)
    losses = unreduced(loss)([outputs, low[0]], (targets, low[1]))
    torch.testing.assert_close(losses.mean(), loss([outputs, low[0]], [targets, low[1]]))
    deeper = unreduced(lambda given, wanted: loss(given["all"], wanted[0]))
    torch.testing.assert_close(deeper({"all": [outputs, low[0]]}, [[targets, low[1]]]), losses)


def test_dice_of_the_batch_is_another_loss_of_each_case() -> None:
    """As the docstring says: each number is the loss of a batch of that one."""
    outputs, targets = batch()
    loss = nnunet_loss(batch_dice=True)
    losses = unreduced(loss)(outputs, targets)
    alone = [loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(losses, torch.stack(alone))
    assert (losses.mean() - loss(outputs, targets)).abs() > 1e-4


def test_ignored_labels_weigh_a_sample_by_what_counts() -> None:
    outputs, targets = batch()
    targets[0, 0, 1:] = 3  # most of one sample
    loss = nnunet_loss(ignore=3)
    losses = unreduced(loss)(outputs, targets)
    torch.testing.assert_close(losses[1], loss(outputs[1:2], targets[1:2]))
    assert (losses.mean() - loss(outputs, targets)).abs() > 1e-4


def test_what_is_no_batch_is_refused() -> None:
    loss = unreduced(nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"of \[2, 3\] samples; give as many"):
        loss(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"of shape \[1\].*reduction='mean'|of shape \[1, 5\]"):
        unreduced(lambda outputs, _: outputs)(torch.zeros(2, 5), torch.zeros(2))
