"""Images are decoded once, into memory-mapped arrays that later runs use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from errors import UsageError, say

from .dataset import content_digest

Arrays = dict[str, np.ndarray]
FORMAT = 2  # of the cache's own files; a change makes old caches be decoded again
DIGEST = "sha256"  # name of the part that is a digest of the others


def cached(
    root: Path, name: str, files: list[Path], decode: Callable[[], Arrays]
) -> tuple[Arrays, str]:
    """The arrays that `decode` makes of `files`, from `root`/cache where they are already.

    With them comes their `content_digest`, which is worked out when they are decoded and kept.

    A cache belongs to the names, sizes and modification times of its files, so changed files are
    noticed; it is written aside and renamed, so that runs starting together cannot see half of
    one; a damaged one is noticed by its checksums and made again. Where `root` cannot be
    written, the arrays are decoded into memory and a note says so.
    """

    def decode_with_digest() -> Arrays:
        arrays = decode()
        digest = bytes.fromhex(content_digest(arrays))
        return arrays | {DIGEST: np.frombuffer(digest, dtype=np.uint8)}

    folder = root / "cache" / f"{name}-{fingerprint(root, files)}"
    arrays = load(folder)
    if arrays is None:
        try:
            with locked(root, name):
                arrays = load(folder)  # another run may have made it meanwhile
                if arrays is None:
                    store(folder, decode_with_digest())
                    arrays = load(folder)
        except OSError as error:
            say(f"note: no cache in {folder.parent} ({error.strerror}); decoding in memory")
    if arrays is None:
        arrays = decode_with_digest()
    return arrays, arrays.pop(DIGEST).tobytes().hex()


def fingerprint(root: Path, files: list[Path]) -> str:
    """Sixteen hexadecimal digits that change when a file does."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for file in sorted(files):
        try:
            status = file.stat()
        except OSError as error:
            raise UsageError(
                f"{file}: cannot be read ({error.strerror}); replace it or remove it"
            ) from error
        facts = f"\0{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}"
        digest.update(os.fsencode(facts))  # as file names need not be UTF-8
    return digest.hexdigest()[:16]


def store(folder: Path, arrays: Arrays) -> None:
    """Write arrays aside, then put them in place; earlier caches of the same name go."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = folder.name.rpartition("-")[0]
    for leftover in [*folder.parent.glob(f".{name}-*"), *folder.parent.glob(f"{name}-*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    aside = folder.with_name(f".{folder.name}")
    try:
        aside.mkdir()
        for part, array in arrays.items():
            np.save(aside / f"{part}.npy", array)
        sums = {part: checksum(aside / f"{part}.npy") for part in arrays}
        (aside / "checksums.json").write_text(json.dumps(sums))
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load(folder: Path) -> Arrays | None:
    """The arrays stored in `folder`, memory-mapped; None if it is missing or damaged."""
    try:
        sums = json.loads((folder / "checksums.json").read_text())
        if not isinstance(sums, dict) or not sums:
            return None
        if any(checksum(folder / f"{part}.npy") != total for part, total in sums.items()):
            return None
        return {part: np.load(folder / f"{part}.npy", mmap_mode="r") for part in sums}
    except (OSError, ValueError):
        return None


def checksum(path: Path) -> int:
    """Return the CRC-32 of a whole file, header and all."""
    return zlib.crc32(np.memmap(path, dtype=np.uint8, mode="r").data)


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Hold `root`/.NAME.lock, so that one run downloads or decodes while the others wait."""
    import fcntl  # here, so that where there is none the command line comes to say so

    root.mkdir(parents=True, exist_ok=True)
    with open(root / f".{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
