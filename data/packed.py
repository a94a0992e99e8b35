"""Image files as they are, in one packed file, decoded whenever they are needed.

For data that do not fit in memory once decoded: 1.28 million images of 224 pixels take 190 GB.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from errors import Failed, UsageError, say

from .cache import fingerprint, locked
from .dataset import channel_statistics
from .image_files import GREY, header, in_threads
from .rows import Rows

FOOTER = struct.Struct("<8sQQI")  # magic, place and length of the index, its CRC-32
MAGIC = b"budgetp2"
JPEG = b"\xff\xd8"  # how such a file begins
MODES = ("L", "RGB")  # those that need no conversion of colours
SCALES = (8, 4, 2)  # at whose inverse a JPEG file can be decoded
SAMPLE = 2000  # images, evenly spaced, of which the mean and std are taken
SHORTER = 256 / 224  # shorter side of an image in evaluation, in sides of its centre crop


@dataclass(frozen=True, eq=False)
class ImagePack:
    """An open pack of n files."""

    path: Path
    file: int  # descriptor, from which any thread may read at any place; closed with the pack
    offsets: np.ndarray  # int64 [n + 1], of the files' bytes
    sizes: np.ndarray  # int32 [n, 2], height and width
    checksums: np.ndarray  # uint32 [n], CRC-32
    modes: np.ndarray  # <U4 [n], Pillow's of JPEG files, and empty of others
    grey: bool  # whether all are
    names: list[str]
    sha256: str  # of all names and bytes

    def read(self, row: int) -> bytes:
        """Return a file's bytes."""
        start, stop = self.offsets[row : row + 2]
        content = os.pread(self.file, stop - start, start)
        if zlib.crc32(content) != self.checksums[row]:
            raise Failed(f"{self.path}: damaged; remove it, and the same command makes it again")
        return content


class PackedRows(Rows):
    """Images of a pack, which look like uint8 [n, c, side, side] but are decoded as they are taken.

    Args:
        pack: of the files.
        index: positions [n] in it.
        side: height and width of the crops.
    """

    def __init__(self, pack: ImagePack, index: np.ndarray, side: int):
        self.pack, self.index, self.side = pack, index, side

    def __getitem__(self, chosen: np.ndarray | slice) -> PackedRows:
        return PackedRows(self.pack, self.index[chosen], self.side)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        images = np.empty(self.shape, np.uint8)
        in_threads(lambda row: self.centre(row, images[row]), len(self))
        return np.asarray(images, dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.index), 1 if self.pack.grey else 3, self.side, self.side

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes that all of the crops would take."""
        return int(np.prod(self.shape))

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Height and width [b, 2] of some rows [b] before they are cropped."""
        return self.pack.sizes[self.index[rows]]

    def centre(self, row: int, out: np.ndarray) -> None:
        """Decode an image for evaluation: its centre, where the shorter side is 8/7 of the crop's.

        As torchvision's `Resize(256)` and `CenterCrop(224)`, which are usual on ImageNet.
        """
        height, width = self.pack.sizes[self.index[row]]
        crop = min(height, width) * self.side / round(self.side * SHORTER)
        self.decode(row, ((height - crop) / 2, (width - crop) / 2, crop, crop), out)

    def decode(self, row: int, box: Sequence[float], out: np.ndarray) -> None:
        """Decode a box of an image, scaled to a crop.

        A JPEG file is decoded at an eighth, a quarter or half of its size where that leaves the box
        at least as large as the crop.

        Args:
            row: of these.
            box: top, left, height, width in pixels of the image.
            out: uint8 [c, side, side], to decode to.
        """
        number, side = int(self.index[row]), self.side
        mode = "L" if self.pack.grey else "RGB"
        height, width = self.pack.sizes[number].tolist()
        top, left, tall, wide = box
        content = self.pack.read(number)
        try:
            if jpeg_mode := self.pack.modes[number]:
                scale = next((each for each in SCALES if min(tall, wide) >= each * side), 1)
                image = read_jpeg(content, jpeg_mode, (width, height), scale)
            else:
                image = Image.open(io.BytesIO(content))
            image = image if image.mode == mode else image.convert(mode)
            across, down = image.width / width, image.height / height
            part = (left * across, top * down, (left + wide) * across, (top + tall) * down)
            scaled = image.resize((side, side), Image.Resampling.BILINEAR, box=part)
        except (OSError, SyntaxError, ValueError) as error:
            raise Failed(
                f"{self.pack.names[number]}: truncated or not an image; replace the file"
            ) from error
        pixels = np.asarray(scaled)
        out[:] = pixels if self.pack.grey else pixels.transpose(2, 0, 1)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std per channel, of an evenly spaced sample, as values in [0, 1]."""
        step = max(1, len(self) // SAMPLE)
        return channel_statistics(np.asarray(self[::step]))


def read_jpeg(content: bytes, mode: str, size: tuple[int, int], scale: int) -> Image.Image:
    """Decode a JPEG file of that mode and size (width, height), at one `scale`-th of the size.

    As Pillow's `Image.open` and `draft`, which read the header in Python first: that takes as long
    as decoding 50 x 50 pixels.
    """
    width, height = (-(-pixels // scale) for pixels in size)
    return Image.frombytes(mode, (width, height), content, "jpeg", mode, "", scale, 0)


def packed(root: Path, name: str, files: Sequence[Path]) -> ImagePack:
    """Return the pack of some files, from `root`/cache where it is already.

    Like the caches of decoded images it belongs to the names, sizes and times of the files, is
    written aside and renamed, and made by one process while others wait. Its index is checked when
    it is opened, each file's bytes whenever they are read.

    Raises:
        UsageError: naming a file that is not an image, or the folder that cannot be written to.
    """
    path = root / "cache" / f"{name}-{fingerprint(root, list(files))}.pack"
    pack = open_images(path)
    if pack:
        return pack
    try:
        with locked(root, name):
            pack = open_images(path)  # another run may have made it meanwhile
            if not pack:
                write_images(path, name, root, files)
                pack = open_images(path)
    except OSError as error:
        raise UsageError(f"{path.parent}: cannot write a pack there ({error.strerror})") from error
    if not pack:
        raise Failed(f"{path}: cannot be read back")
    return pack


def write_images(path: Path, name: str, root: Path, files: Sequence[Path]) -> None:
    """Write a pack of files aside and put it in place; earlier ones of that name go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in [*path.parent.glob(f".{name}-*.pack"), *path.parent.glob(f"{name}-*.pack")]:
        leftover.unlink()
    say(f"note: packing {len(files):,} files in {path}")
    headers = in_threads(lambda number: header(files[number]), len(files))
    names = [str(file.relative_to(root)) for file in files]
    digest, offsets, checksums, modes = hashlib.sha256(), [0], [], []
    aside = path.with_name(f".{path.name}")
    try:
        with open(aside, "wb") as pack:
            for file, short, (_, mode) in zip(files, names, headers):
                content = file.read_bytes()
                digest.update(os.fsencode(short) + b"\0" + content)
                checksums.append(zlib.crc32(content))
                modes.append(mode if content.startswith(JPEG) and mode in MODES else "")
                offsets.append(offsets[-1] + pack.write(content))
            index = io.BytesIO()
            np.savez(
                index,
                offsets=np.array(offsets, np.int64),
                sizes=np.array([(height, width) for (width, height), _ in headers], np.int32),
                checksums=np.array(checksums, np.uint32),
                modes=np.array(modes, "U4"),
                grey=np.array({mode for _, mode in headers} <= GREY),
                names=np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8),
                sha256=np.frombuffer(digest.digest(), np.uint8),
            )
            content = index.getvalue()
            pack.write(content)
            pack.write(FOOTER.pack(MAGIC, offsets[-1], len(content), zlib.crc32(content)))
            pack.flush()
            os.fsync(pack.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def open_images(path: Path) -> ImagePack | None:
    """Open a pack; None if it is missing or its index is damaged."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        size = os.fstat(file).st_size
        magic, start, length, checksum = FOOTER.unpack(
            os.pread(file, FOOTER.size, size - FOOTER.size)
        )
        if magic != MAGIC or start + length > size:
            raise ValueError("no footer")
        content = os.pread(file, length, start)
        if zlib.crc32(content) != checksum:
            raise ValueError("damaged")
        with np.load(io.BytesIO(content)) as index:
            pack = ImagePack(
                path,
                file,
                index["offsets"],
                index["sizes"],
                index["checksums"],
                index["modes"],
                bool(index["grey"]),
                index["names"].tobytes().decode("utf-8", "surrogateescape").split("\0"),
                index["sha256"].tobytes().hex(),
            )
        weakref.finalize(pack, os.close, file)
        return pack
    except (OSError, ValueError, struct.error):
        os.close(file)
        return None
