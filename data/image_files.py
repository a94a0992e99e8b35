"""Decoding folders of image files into one array."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from errors import UsageError

GREY = {"1", "L"}  # Pillow's modes of black and white, and of 8-bit grey


def decode_images(paths: Sequence[Path], side: int | None = None) -> np.ndarray:
    """Decode image files to uint8 [n, channels, height, width]; grey only if all are.

    Args:
        paths: files of any format that Pillow reads.
        side: height and width in pixels to resize to; None if all have one size already.

    Raises:
        UsageError: naming the file that is not an image, is truncated or differs in size.
    """
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(header, paths))
        grey = {mode for _, mode in headers} <= GREY
        if side is None:
            check_sizes(paths, [size for size, _ in headers])
        decode = partial(decode_image, mode="L" if grey else "RGB", side=side)
        images = np.stack(list(pool.map(decode, paths)))
    return images[:, None] if grey else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def header(path: Path) -> tuple[tuple[int, int], str]:
    try:
        with Image.open(path) as image:
            return image.size, image.mode
    except (UnidentifiedImageError, OSError) as error:
        raise not_an_image(path) from error


def decode_image(path: Path, mode: str, side: int | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            image = image.convert(mode)
    except (OSError, SyntaxError) as error:  # Pillow raises the latter on a damaged PNG
        raise not_an_image(path) from error
    if side is not None and image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image)


def not_an_image(path: Path) -> UsageError:
    return UsageError(f"{path}: truncated or not an image; replace the file or remove it")


def check_sizes(paths: Sequence[Path], sizes: list[tuple[int, int]]) -> None:
    usual = Counter(sizes).most_common(1)[0][0]
    for path, size in zip(paths, sizes):
        if size != usual:
            raise UsageError(
                f"{path}: {size[0]}x{size[1]} pixels where most are {usual[0]}x{usual[1]}; "
                f"resize all with --image-size, for example --image-size {min(usual)}"
            )
