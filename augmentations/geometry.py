"""The part that all augmentations share: random crop, flip and normalisation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class CropAndFlip:
    """Pads with zeros, crops back to size at a random place and mirrors at random, per image.

    Which images to mirror is drawn on the host, which thus knows how many they are: these go last,
    and mirroring them is a slice, which needs no host synchronisation. Each crop is then a window
    of the padded batch, and one gather reads them all, in the order of the images again.

    Args:
        padding: pixels added on each side before the crop.
        flip: probability that an image is mirrored left to right.
    """

    def __init__(self, padding: int, flip: float):
        self.padding, self.flip = padding, flip
        self.canvas: Tensor | None = None  # kept, because to make zeros takes a tenth of all this

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Change uint8 images [b, c, h, w]; `rng` draws a crop place and a flip for each."""
        b, c, h, w = images.shape
        padding = self.padding
        tall, wide = h + 2 * padding, w + 2 * padding
        mirrored = rng.random(b) < self.flip
        top, left = rng.integers(0, 2 * padding + 1, size=(2, b))
        order = mirrored.argsort()
        start = order.argsort() * (c * tall * wide) + top * wide + left
        # One copy to the device, as a copy takes about as long there as a kernel.
        there = torch.from_numpy(np.stack([order, start])).to(images.device, non_blocking=True)
        order, start = there

        images = images.index_select(0, order)
        plain = b - np.count_nonzero(mirrored)
        if self.canvas is None or self.canvas.shape != (b, c, tall, wide):
            self.canvas = images.new_zeros(b, c, tall, wide)
        inner = self.canvas[:, :, padding : padding + h, padding : padding + w]
        inner[:plain] = images[:plain]
        inner[plain:] = images[plain:].flip(3)
        # A window may start at any pixel that leaves room for its last one.
        last = ((c - 1) * tall + h - 1) * wide + w - 1
        starts = self.canvas.numel() - last
        windows = self.canvas.as_strided((starts, c, h, w), (1, tall * wide, wide, 1))
        return windows.index_select(0, start)


def random_resized_boxes(
    sizes: np.ndarray, rng: np.random.Generator, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)
) -> np.ndarray:
    """Draw a box in each image: as training on ImageNet crops (Szegedy et al. 2015).

    The law is that of torchvision's RandomResizedCrop: ten tries at a fraction of the area and,
    on a logarithmic scale, a ratio of width to height; the first box that fits counts, or else the
    largest in the centre whose ratio is allowed. Boxes are of whole pixels.

    Args:
        sizes: height and width [b, 2] of the images.
        rng: draws the same numbers whatever the sizes.
        area, ratio: bounds of both.

    Returns:
        int64 [b, 4]: top, left, height, width.
    """
    tries, place = rng.random((2, 10, len(sizes))), rng.random((2, len(sizes)))
    height, width = sizes.T.astype(np.int64)
    areas = height * width * (area[0] + tries[0] * (area[1] - area[0]))
    ratios = np.exp(np.log(ratio[0]) + tries[1] * np.log(ratio[1] / ratio[0]))
    wide = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    tall = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first, columns = fits.argmax(0), np.arange(len(sizes))
    wide, tall, found = wide[first, columns], tall[first, columns], fits[first, columns]
    top = (place[0] * (height - tall + 1)).astype(np.int64)
    left = (place[1] * (width - wide + 1)).astype(np.int64)

    widest = np.minimum(width, np.rint(height * ratio[1])).astype(np.int64)
    tallest = np.minimum(height, np.rint(width / ratio[0])).astype(np.int64)
    centre = np.stack([(height - tallest) // 2, (width - widest) // 2, tallest, widest], 1)
    return np.where(found[:, None], np.stack([top, left, tall, wide], 1), centre)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [b, c, h, w] to float32 (value / 255 - mean) / std, per channel: both [c]."""
    return rescale(images, *scale_and_shift(mean, std))


def scale_and_shift(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Arguments of `rescale` that normalise, from mean and std per channel: both [c, 1, 1]."""
    return (1 / (255 * std)).view(-1, 1, 1), (mean / std).view(-1, 1, 1)


def rescale(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """uint8 [b, c, h, w] to float32 value * scale - shift."""
    return images.float().mul_(scale).sub_(shift)
