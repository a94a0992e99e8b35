"""Images are decoded once, into memory-mapped arrays that later runs share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
FORMAT = 1  # of the cache's own files; a change makes old caches be decoded again


def cached(root: Path, name: str, files: list[Path], decode: Callable[[], Arrays]) -> Arrays:
    """The arrays that `decode` makes of `files`, from `root`/cache where they are already.

    A cache belongs to the names, sizes and modification times of its files, so changed files are
    noticed; it is written aside and renamed, so that runs starting together cannot see half of
    one; a damaged one is noticed by its checksums and made again. Where `root` cannot be
    written, the arrays are decoded into memory and a note says so.
    """
    folder = root / "cache" / f"{name}-{fingerprint(root, files)}"
    arrays = load(folder)
    if arrays is not None:
        return arrays
    try:
        with locked(root, name):
            arrays = load(folder)  # another run may have made it meanwhile
            if arrays is None:
                store(folder, decode())
                arrays = load(folder)
    except OSError as error:
        print(
            f"note: no cache in {folder.parent} ({error.strerror}); decoding in memory",
            file=sys.stderr,
        )
    return decode() if arrays is None else arrays


def fingerprint(root: Path, files: list[Path]) -> str:
    """Sixteen hexadecimal digits that change when a file does."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for file in sorted(files):
        status = file.stat()
        digest.update(
            f"\0{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}".encode()
        )
    return digest.hexdigest()[:16]


def store(folder: Path, arrays: Arrays) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array)
        sums = {name: zlib.crc32(np.ascontiguousarray(array)) for name, array in arrays.items()}
        (aside / "checksums.json").write_text(json.dumps(sums))
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one may be in the way
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load(folder: Path) -> Arrays | None:
    """The arrays stored in `folder`, memory-mapped; None if it is missing or damaged."""
    try:
        sums = json.loads((folder / "checksums.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in sums}
    except (OSError, ValueError, EOFError):
        return None
    whole = all(zlib.crc32(array) == sums[name] for name, array in arrays.items())
    return arrays if whole else None


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Hold `root`/.NAME.lock, so that one run downloads or decodes while the others wait."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f".{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
