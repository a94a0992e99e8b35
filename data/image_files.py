"""Decoding folders of image files into one array."""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from errors import UsageError

Result = TypeVar("Result")

TASK = 64  # images that a thread takes at once: one at a time costs more than small ones themselves
GREY = {"1", "L"}  # Pillow's modes of black and white, and of 8-bit grey
DEEP = ("I", "F")  # how Pillow's modes of more than 8 bits per channel begin


def decode_images(
    paths: Sequence[Path], scratch: Path, side: int | None = None, colour: bool = False
) -> np.ndarray:
    """Decode image files to uint8 [n, channels, height, width]; of one channel if all are grey.

    Args:
        paths: files of any format that Pillow reads.
        scratch: folder for an unnamed file with the result, which may not fit in memory; where it
            cannot be written the result is in memory.
        side: height and width in pixels to resize to; None if all have one size already.
        colour: three channels even if all are grey.

    Raises:
        UsageError: naming the file that is not an image, is truncated or differs in size.
    """
    headers = in_threads(lambda number: header(paths[number]), len(paths))
    grey = not colour and {mode for _, mode in headers} <= GREY
    if side is None:
        check_sizes(paths, [size for size, _ in headers])
    width, height = headers[0][0] if side is None else (side, side)
    images = blank((len(paths), 1 if grey else 3, height, width), scratch)

    def decode(number: int) -> None:
        image = decode_image(paths[number], "L" if grey else "RGB")
        images[number] = planes(image, (width, height))

    in_threads(decode, len(paths))
    return images


def in_threads(work: Callable[[int], Result], count: int) -> list[Result]:
    """`work` of 0 to `count` - 1, by as many threads as PyTorch may use (`num_threads`)."""

    def do(start: int) -> list[Result]:
        return [work(number) for number in range(start, min(start + TASK, count))]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return [result for part in pool.map(do, range(0, count, TASK)) for result in part]


def blank(shape: tuple[int, ...], scratch: Path) -> np.ndarray:
    """A uint8 array in a file that goes when it does; in memory if no file can be made."""
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            if hasattr(os, "posix_fallocate"):  # or a full disk would end the process as it is used
                os.posix_fallocate(file.fileno(), 0, max(1, math.prod(shape)))
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError:
        return np.empty(shape, np.uint8)


def header(path: Path) -> tuple[tuple[int, int], str]:
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise not_an_image(path) from error
    if mode.startswith(DEEP):
        raise UsageError(f"{path}: more than 8 bits per channel; convert the images to 8 bits")
    return size, mode


def decode_image(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as file:
            return file.convert(mode)
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise not_an_image(path) from error


def planes(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Pixels [channels, height, width] of a grey or RGB image, resized to (width, height)."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def not_an_image(path: Path) -> UsageError:
    return UsageError(f"{path}: truncated or not an image; replace the file or remove it")


def check_sizes(paths: Sequence[Path], sizes: list[tuple[int, int]]) -> None:
    usual = Counter(sizes).most_common(1)[0][0]
    for path, size in zip(paths, sizes):
        if size != usual:
            raise UsageError(
                f"{path}: {size[0]}x{size[1]} pixels where most are {usual[0]}x{usual[1]}; "
                f"resize all with `image_size`, for example `image_size` {min(usual)}"
            )
