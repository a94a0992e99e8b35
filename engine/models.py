"""Networks for small images."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UsageError

from . import own
from .config import RESNETS


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, Figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)), inplace=True)
        if self.stride > 1:
            # Every second pixel of every second row. A 1x1 convolution with stride 2 is the same
            # function, but its backward pass is killed by SIGSEGV on some AVX-512 processors
            # (PyTorch 2.14, channels-last, fewer than 16 channels). Faster than x[:, :, ::2, ::2].
            x = F.avg_pool2d(x, 1, self.stride)
        return F.relu(self.norm2(self.conv2(hidden)).add_(self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    """A residual network in the form for 32x32 images: 3x3 stem of stride 1, no max-pool.

    Args:
        depths: blocks in each stage; the first keeps the resolution, the others halve it.
        width: channels of the first stage; each stage doubles them.
        channels: of the input images.
        classes: number of logits.
    """

    def __init__(self, depths: tuple[int, ...], width: int, channels: int, classes: int):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for stage, depth in enumerate(depths):
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Block(inputs, width * 2**stage, stride))
                inputs = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x)), inplace=True))
        return self.classifier(x.mean((2, 3), dtype=torch.float32))  # also under autocast


def create_model(name: str, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """A network by name: one of RESNETS, or any of timm's.

    Args:
        name: of the network, one of RESNETS, of timm's or of a function of a user's own.
        channels: of the images: 1 (grey) or 3.
        classes: number of logits.
        size: height and width of the images in pixels.

    Raises:
        UsageError: for a name that neither knows, or a network that cannot take such images.
    """
    if name in RESNETS:
        depths, width = RESNETS[name]
        return ResNet(depths, width, channels, classes)
    if own.is_own(name):
        return checked_model(name, channels, classes, size)
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*RESNETS, *timm.list_models()], 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"`model` {name}: neither one of {', '.join(RESNETS)} nor in timm{meant}")
    options: dict[str, Any] = dict(in_chans=channels, num_classes=classes)
    try:
        try:
            model = timm.create_model(name, img_size=size, **options)
        except TypeError:  # convolutional networks take no image size
            model = timm.create_model(name, **options)
        model = with_small_stem(model)
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, *size))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"`model` {name}: does not take {size[1]}x{size[0]} images ({reason}); "
            f"use another, such as {next(iter(RESNETS))}"
        ) from error
    return model.train()


def checked_model(name: str, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """A user's own network, once it has classified an image; a UsageError where it cannot."""
    try:
        model = own.load("model", name)(channels, classes, size)
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(1, channels, *size)).shape)
    except ValueError as error:
        raise UsageError(f"`model` {error}") from None
    except Exception as error:  # whatever a user's code raises
        reason = str(error).splitlines()[0]
        raise UsageError(f"`model` {name}: fails on an image ({reason}); mend it") from error
    if shape != (1, classes):
        raise UsageError(f"`model` {name}: gives {list(shape)} of an image, not [1, {classes}]")
    return model.train()


def classifier_of(model: nn.Module) -> nn.Module | tuple[nn.Module, ...]:
    """Return the last layer of a network made by `create_model`, from features to logits.

    Some of timm's have two of them, side by side. A user's own network without `get_classifier` has
    its last linear layer taken for it, and may have none.
    """
    if isinstance(model, ResNet):
        return model.classifier
    get_classifier: Any = getattr(model, "get_classifier", None)  # all of timm's have it
    if get_classifier is not None:
        return get_classifier()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else ()


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list that holds the input of a layer's latest call, as long as this lasts."""
    given: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given[:] = inputs[:1]

    hook = layer.register_forward_pre_hook(note)
    try:
        yield given
    finally:
        hook.remove()


def keep_classifier_in_float32(model: nn.Module) -> None:
    """Let the last layer of a network compute in float32 where autocast is on around it.

    Logits of 8 or 11 bits would make equal losses of unequal ones, and with them percentiles and
    top-k. The layer's `forward` is replaced, because a hook cannot end autocast and start it again
    in a way that `torch.compile` follows.
    """

    def in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(features: Tensor) -> Tensor:
            with torch.autocast(features.device.type, enabled=False):
                return forward(features.float())

        return run

    layers = classifier_of(model)
    for layer in layers if isinstance(layers, tuple) else (layers,):
        layer.forward = in_float32(layer.forward)


def with_small_stem(model: nn.Module) -> nn.Module:
    """Give one of timm's ResNets a 3x3 stem of stride 1 and no max-pool; leave others alone."""
    from timm.models.resnet import ResNet as TimmResNet

    if isinstance(model, TimmResNet) and isinstance(model.conv1, nn.Conv2d):
        old = model.conv1
        stem = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.register_module("conv1", stem)
        model.register_module("maxpool", nn.Identity())
    return model
