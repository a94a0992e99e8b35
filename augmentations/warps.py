"""Shears, translations and rotations of many images, each by an amount of its own.

Images are uint8 [k, c, h, w], amounts float64 [k]. Pixels are the nearest ones; outside is black.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def resample(images: Tensor, across: list, down: list) -> Tensor:
    """Images whose pixel at (x, y) is the one nearest to (across, down) @ (x, y, 1).

    Args:
        images: uint8 [k, c, h, w].
        across, down: the three coefficients of x and y in the source, numbers or [k] each; in
            pixels from the centre of the image.
    """
    k, _, height, width = images.shape
    matrices = torch.zeros(k, 3, 2, dtype=torch.float64, device=images.device)
    for i, pair in enumerate(zip(across, down)):
        for j, coefficient in enumerate(pair):
            matrices[:, i, j] = coefficient
    options: dict[str, Any] = dict(dtype=torch.float32, device=images.device)
    here = torch.ones(height, width, 3, **options)
    here[..., 0] = torch.arange(width, **options) - (width - 1) / 2
    here[..., 1] = torch.arange(height, **options)[:, None] - (height - 1) / 2
    matrices = matrices.float()
    matrices[..., 0] /= width / 2
    matrices[..., 1] /= height / 2
    there = here.view(1, -1, 3).expand(k, -1, -1).bmm(matrices).view(k, height, width, 2)
    found = grid_sample(images.float(), there, "nearest", "zeros", align_corners=False)
    return found.to(torch.uint8)


def shear_x(images: Tensor, slopes: Tensor) -> Tensor:
    """About the upper edge."""
    return resample(images, [1, slopes, slopes * images.shape[2] / 2], [0, 1, 0])


def shear_y(images: Tensor, slopes: Tensor) -> Tensor:
    """About the left edge."""
    return resample(images, [1, 0, 0], [slopes, 1, slopes * images.shape[3] / 2])


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    return resample(images, [1, 0, -pixels.trunc()], [0, 1, 0])


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    return resample(images, [1, 0, 0], [0, 1, -pixels.trunc()])


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Counterclockwise about the centre."""
    cosine, sine = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    return resample(images, [cosine, -sine, 0], [sine, cosine, 0])
