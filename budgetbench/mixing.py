"""mixup, RICAP and CutMix on a batch, for any training loop.

Each has two functions. `mixup`, `ricap` and `cutmix` are for users: images and targets in, a
`MixedBatch` out. `mixup_images`, `ricap_images` and `cutmix_images` say of what rows each image is
made, for a loop that mixes whatever else it knows of the images by itself.

Random numbers come from a NumPy generator on the host: a batch takes only a few, and a device has
the same draws as a CPU and is never waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class MixedBatch(NamedTuple):
    """A batch of mixed images, and what to train and credit them with.

    >>> batch = mixup(torch.rand(4, 3, 8, 8), torch.eye(4))
    >>> batch._fields
    ('images', 'targets', 'owners')
    """

    images: Tensor  # [b, channels, height, width] float32
    targets: Tensor  # [b, classes] float32 soft labels; each row sums to one
    owners: Tensor  # [b] int64 rows of the source that fills most of each image


class Mixed(NamedTuple):
    """Images made of K rows of a batch each, and what they are made of; by default of their own."""

    images: Tensor  # [b, channels, height, width] float32
    sources: Tensor | None = None  # [K, b] int64 rows of the batch that image j is made of
    fractions: Sequence[float] = (1.0,)  # K weights that sum to one, the same for every image

    def owners(self) -> Tensor:
        """Rows [b] of the sources with the largest fraction, to which each image belongs."""
        if self.sources is None:
            return torch.arange(len(self.images), device=self.images.device)
        return self.sources[self.fractions.index(max(self.fractions))]

    def blend(self, targets: Tensor) -> Tensor:
        """Soft labels [b, classes] of the mixed images, from those [b, classes] of the batch."""
        if self.sources is None:
            return targets
        # index_select, because indexing with [] costs several times as much.
        blended = torch.zeros_like(targets)
        for source, fraction in zip(self.sources, self.fractions):
            blended += fraction * targets.index_select(0, source)
        return blended


def mixup(
    images: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.3,
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """lambda * x + (1 - lambda) * x[permuted], one lambda ~ Beta(alpha, alpha) (Zhang et al. 2018).

    Args:
        images: [b, channels, height, width] floats.
        targets: [b, classes] floats, one-hot or soft.
        alpha: both parameters of the Beta distribution, above 0.
        generator: source of all randomness, on the CPU; by default PyTorch's global one.

    Raises:
        ValueError: for targets that are not one row per image.

    >>> images, targets = torch.rand(8, 3, 32, 32), torch.eye(10)[:8]
    >>> mixed = mixup(images, targets, generator=torch.Generator().manual_seed(0))
    >>> mixed.images.shape, mixed.targets.shape
    (torch.Size([8, 3, 32, 32]), torch.Size([8, 10]))
    """
    return mix(mixup_images, images, targets, alpha, generator)


def ricap(
    images: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.3,
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """Four permutations of the batch, each cropped to one quadrant (Takahashi et al. 2019).

    Arguments and errors as for `mixup`.

    >>> images, targets = torch.rand(8, 3, 32, 32), torch.eye(10)[:8]
    >>> ricap(images, targets, generator=torch.Generator().manual_seed(0)).images.shape
    torch.Size([8, 3, 32, 32])
    """
    return mix(ricap_images, images, targets, alpha, generator)


def cutmix(
    images: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """A box of x[permuted] in x, at one place for the batch (Yun et al. 2019).

    Arguments and errors as for `mixup`.

    >>> images, targets = torch.rand(8, 3, 32, 32), torch.eye(10)[:8]
    >>> cutmix(images, targets, generator=torch.Generator().manual_seed(0)).images.shape
    torch.Size([8, 3, 32, 32])
    """
    return mix(cutmix_images, images, targets, alpha, generator)


def mix(
    mix_images: Callable[[Tensor, float, np.random.Generator], Mixed],
    images: Tensor,
    targets: Tensor,
    alpha: float,
    generator: torch.Generator | None,
) -> MixedBatch:
    """Mix images and targets by one of the functions below."""
    if targets.ndim != 2 or len(targets) != len(images):
        raise ValueError(
            f"targets {list(targets.shape)}: give [{len(images)}, classes], one-hot or soft, for "
            "example torch.nn.functional.one_hot(labels, classes).float()"
        )
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    mixed = mix_images(images, alpha, np.random.default_rng(seed))
    return MixedBatch(mixed.images, mixed.blend(targets), mixed.owners())


def mixup_images(images: Tensor, alpha: float, rng: np.random.Generator) -> Mixed:
    """Blend each image with another one of the batch, all by one lambda ~ Beta(alpha, alpha)."""
    fraction = rng.beta(alpha, alpha)
    rows = np.arange(len(images))
    sources = torch.from_numpy(np.stack([rows, rng.permutation(rows)]))
    sources = sources.to(images.device, non_blocking=True)
    mixed = images[sources[1]].lerp_(images, fraction)
    return Mixed(mixed, sources, [fraction, 1 - fraction])


def ricap_images(images: Tensor, alpha: float, rng: np.random.Generator) -> Mixed:
    """Patch four permutations of the batch into new images, each cropped to one quadrant.

    The quadrants meet at (round(W * beta1), round(H * beta2)), beta ~ Beta(alpha, alpha), and each
    is cut at a random place; corner and places are drawn once per batch. Fractions are those of
    the area.
    """
    b, _, height, width = images.shape
    split_x, split_y = (round(side * rng.beta(alpha, alpha)) for side in (width, height))
    columns = [(0, split_x), (split_x, width)]
    rows = [(0, split_y), (split_y, height)]
    sources = torch.from_numpy(np.stack([rng.permutation(b) for _ in range(4)]))
    sources = sources.to(images.device, non_blocking=True)

    patched, fractions = torch.empty_like(images), []
    quadrants = [(row, column) for row in rows for column in columns]
    for source, ((top, bottom), (left, right)) in zip(sources, quadrants):
        h, w = bottom - top, right - left
        y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
        crop = images[:, :, y : y + h, x : x + w]
        patched[:, :, top:bottom, left:right] = crop.index_select(0, source)
        fractions.append(h * w / (height * width))
    return Mixed(patched, sources, fractions)


def cutmix_images(images: Tensor, alpha: float, rng: np.random.Generator) -> Mixed:
    """Paste one box of a permutation of the batch at the same place in all images.

    The box is the image's shape scaled by sqrt(1 - lambda), lambda ~ Beta(alpha, alpha), about a
    pixel drawn uniformly; what sticks out is cut off, and fractions are those of the area that
    remains. One lambda and one box per batch.
    """
    b, _, height, width = images.shape
    scale = math.sqrt(1 - rng.beta(alpha, alpha))
    (top, bottom), (left, right) = (box_along(side, scale, rng) for side in (height, width))
    sources = torch.from_numpy(np.stack([np.arange(b), rng.permutation(b)]))
    sources = sources.to(images.device, non_blocking=True)
    mixed = images.clone()
    box = images[:, :, top:bottom, left:right]
    mixed[:, :, top:bottom, left:right] = box.index_select(0, sources[1])
    fraction = (bottom - top) * (right - left) / (height * width)
    return Mixed(mixed, sources, [1 - fraction, fraction])


def box_along(side: int, scale: float, rng: np.random.Generator) -> tuple[int, int]:
    """First pixel of a random box and the one behind its last, along a side of so many pixels."""
    centre, half = int(rng.integers(side)), int(side * scale / 2)
    return max(centre - half, 0), min(centre + half, side)
