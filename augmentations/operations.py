"""The operations of RandAugment and TrivialAugment, each on many images at amounts of their own.

Operations and signs are those of torchvision.transforms.v2, which both of its policies share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .warps import rotate, shear_x, shear_y, translate_x, translate_y

BINS = 31  # magnitudes 0..30


class Operation(NamedTuple):
    """`apply(images, amounts)`: uint8 [k, c, h, w] and float64 [k] to changed images."""

    apply: Callable[[Tensor, Tensor], Tensor]
    signed: bool = False  # whether the amount's sign is random


@cache
def operations() -> dict[str, Operation]:
    """Return all operations by name, in torchvision's order."""
    # Imported here because it takes over a second, which other augmentations need not pay; those
    # that need it call this as they are made, so that it is no part of the training.
    from torchvision.transforms.v2 import functional as F

    return {
        "Identity": Operation(lambda images, _: images),
        "ShearX": Operation(shear_x, signed=True),
        "ShearY": Operation(shear_y, signed=True),
        "TranslateX": Operation(translate_x, signed=True),
        "TranslateY": Operation(translate_y, signed=True),
        "Rotate": Operation(rotate, signed=True),
        "Brightness": Operation(brightness, signed=True),
        "Color": Operation(colour, signed=True),
        "Contrast": Operation(contrast, signed=True),
        "Sharpness": Operation(sharpness, signed=True),
        "Posterize": Operation(posterize),
        "Solarize": Operation(solarize),
        "AutoContrast": Operation(lambda images, _: F.autocontrast(images)),
        "Equalize": Operation(lambda images, _: F.equalize(images)),
    }


def amounts_up_to(
    *, slope: float, across: float, down: float, degrees: float, colour: float, bits: int
) -> dict[str, Tensor]:
    """Amounts [31] of each operation by magnitude, from nothing to the most.

    Args:
        slope: of both shears.
        across, down: of the two translations [pixels].
        degrees: of the rotation.
        colour: of Brightness, Color, Contrast and Sharpness, relative.
        bits: that Posterize loses.
    """
    most = dict(ShearX=slope, ShearY=slope, TranslateX=across, TranslateY=down, Rotate=degrees)
    most |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), colour)
    amounts = {name: torch.linspace(0, most.get(name, 0), BINS) for name in operations()}
    kept = (8 - torch.linspace(0, bits, BINS)).round()
    return amounts | dict(Posterize=kept, Solarize=torch.linspace(1, 0, BINS))


def apply_each(
    images: Tensor,
    numbers: np.ndarray,
    levels: np.ndarray | int,
    negative: np.ndarray,
    ranges: dict[str, Tensor],
) -> Tensor:
    """Apply to each image one operation, to those that drew the same one together.

    Args:
        images: uint8 [n, c, h, w].
        numbers: positions in `operations()`, [n].
        levels: magnitudes in 0..30, [n] or one for all.
        negative: bool [n], whether the amount changes its sign where the operation has signs.
        ranges: the amounts [31] of each operation.

    Returns:
        uint8 [n, c, h, w].
    """
    known = operations()
    signed = np.array([operation.signed for operation in known.values()])
    amounts = torch.stack([ranges[name] for name in known]).double().numpy()[numbers, levels]
    amounts[negative & signed[numbers]] *= -1
    # Sorted by operation, so that groups are slices and results are put back all at once: a
    # gather and a scatter per group would cost as much as the operations.
    order = numbers.argsort(kind="stable")
    rows = torch.from_numpy(np.stack([order, order.argsort()]))
    there, back = rows.to(images.device, non_blocking=True)
    sizes = np.bincount(numbers, minlength=len(known)).tolist()
    amounts = torch.from_numpy(amounts[order]).to(images.device, non_blocking=True).split(sizes)
    groups = images.index_select(0, there).split(sizes)
    changed = [
        operation.apply(group, amount)
        for operation, group, amount in zip(known.values(), groups, amounts)
        if len(group)
    ]
    return torch.cat(changed).index_select(0, back)


# --- Colour ---


def per_image(amounts: Tensor) -> Tensor:
    return amounts.float().view(-1, 1, 1, 1)


def away(images: Tensor, degenerate: Tensor | float, amounts: Tensor) -> Tensor:
    """Move images away from degenerate ones, or towards them by a negative amount down to -1."""
    images, amounts = images.float(), per_image(amounts)
    moved = (images * (1 + amounts)).sub_(degenerate * amounts)
    return moved.clamp_(0, 255).to(torch.uint8)


def grey(images: Tensor) -> Tensor:
    """Luma (ITU-R 601) [k, 1, h, w] of images with three channels; of one, themselves."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().split(1, dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor_()


def brightness(images: Tensor, amounts: Tensor) -> Tensor:
    return away(images, 0.0, amounts)


def colour(images: Tensor, amounts: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else away(images, grey(images), amounts)


def contrast(images: Tensor, amounts: Tensor) -> Tensor:
    return away(images, grey(images).mean((1, 2, 3), keepdim=True), amounts)


def sharpness(images: Tensor, amounts: Tensor) -> Tensor:
    """Away from a blur of 3x3 pixels, of which the middle one counts five times; not at edges."""
    sharp = images.float()
    inner = sharp[:, :, 1:-1, 1:-1]
    # Three rows, then three columns: exact sums of whole numbers, faster than a convolution.
    sums = sharp[:, :, :-2] + sharp[:, :, 1:-1] + sharp[:, :, 2:]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:]
    blurred = sums.add_(inner, alpha=4).div_(13).round_()
    inner += (inner - blurred).mul_(per_image(amounts))
    return sharp.clamp_(0, 255).to(torch.uint8)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits."""
    lost = 8 - bits.to(torch.uint8).view(-1, 1, 1, 1)
    return (images >> lost) << lost


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert values from the threshold on, which is a fraction of 255."""
    # As whole numbers, which are compared several times as fast.
    first = (255 * per_image(thresholds)).ceil().to(torch.uint8)
    return torch.where(images >= first, 255 - images, images)
