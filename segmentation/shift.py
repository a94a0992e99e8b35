"""Images as of another scanner: the simulated minority of the study."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import zoom

FIELD = 0.4  # largest logarithm of the bias field
NOISE = 0.1  # standard deviation, of the image's own
FACTOR = 2  # by which the resolution of one axis is lower


def shifted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give an image a bias field, a lower resolution in one axis, and noise.

    Args:
        image: [z, y, x] of intensities.
        rng: source of the field, the axis and the noise.

    Returns:
        The image as it might have been taken, float32 of the same shape.
    """
    image = image.astype(np.float32)
    axis = int(rng.integers(3))
    factors = [1 / FACTOR if a == axis else 1.0 for a in range(3)]
    coarse = zoom(image, factors, order=1)
    image = zoom(coarse, np.array(image.shape) / coarse.shape, order=1)
    return image * np.exp(bias_field(image.shape, rng)) + rng.normal(
        0, NOISE * image.std(), image.shape
    ).astype(np.float32)


def bias_field(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A random polynomial of degree 2, at most FIELD from zero in the image: float32 [z, y, x]."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    terms = np.stack([z, y, x, z * y, y * x, z * x, z * z, y * y, x * x])
    field = np.tensordot(rng.normal(size=len(terms)), terms, 1)
    return (FIELD * field / np.abs(field).max()).astype(np.float32)
