"""The part that all augmentations share: random crop, flip and normalisation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, padding: int, flip: float, rng: np.random.Generator) -> Tensor:
    """Pad with zeros, crop back to size at a random place and mirror at random, per image.

    Every row of a crop is a run of bytes of the padded batch, so the whole crop is one gather
    of rows; mirrored images are read from a mirrored copy of it.

    Args:
        images: uint8 [b, c, h, w].
        padding: pixels added on each side before the crop.
        flip: probability that an image is mirrored left to right.
        rng: source of one crop place and one coin per image.

    Returns:
        uint8 [b, c, h, w].
    """
    b, c, h, w = images.shape
    mirrored = torch.from_numpy(rng.random(b) < flip).to(images.device, non_blocking=True)
    places = torch.from_numpy(rng.integers(0, 2 * padding + 1, (2, b)))
    top, left = places.to(images.device, non_blocking=True)

    padded = F.pad(images, (padding,) * 4)
    if flip:
        padded = torch.cat([padded, padded.flip(3)])
    tall, wide = padded.shape[2:]
    starts = padded.view(-1).as_strided((padded.numel() - w + 1, w), (1, 1))

    device = images.device
    image = torch.arange(b, device=device) + b * mirrored
    plane = image[:, None] * c + torch.arange(c, device=device)
    row = plane[:, :, None] * tall + (top[:, None] + torch.arange(h, device=device))[:, None, :]
    return starts.index_select(0, (row * wide + left[:, None, None]).view(-1)).view(b, c, h, w)


def normalise(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 [b, c, h, w] to float32 (value / 255 - mean) / deviation, per channel: both [c]."""
    scale = (1 / (255 * deviation)).view(-1, 1, 1)
    return images.float().mul_(scale).sub_((mean / deviation).view(-1, 1, 1))
