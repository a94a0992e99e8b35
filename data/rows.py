"""Some rows of a large array, read when they are needed."""

from __future__ import annotations

import numpy as np


class Rows:
    """Rows of an array that may be memory-mapped, chosen without reading them.

    Index it with a mask, positions or a slice to choose among them; `take` and `numpy.asarray`
    read.
    """

    def __init__(self, array: np.ndarray, index: np.ndarray):
        self.array, self.index = array, index

    @classmethod
    def of(cls, images: np.ndarray | Rows) -> Rows:
        """All rows of an array; rows stay as they are."""
        return images if isinstance(images, Rows) else cls(images, np.arange(len(images)))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, chosen: np.ndarray | slice) -> Rows:
        return Rows(self.array, self.index[chosen])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.array[self.index], dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.index), *self.array.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        return len(self.index) * self.array[:1].nbytes

    def take(self, index: np.ndarray, out: np.ndarray) -> None:
        """Read the rows `index` [b] into `out` [b, ...]."""
        if not self.array.flags.c_contiguous:  # of which np.take would copy all
            out[...] = self.array[self.index[index]]
            return
        # Without a mode NumPy reads into a buffer of its own first, to raise before it writes.
        np.take(self.array, self.index[index], axis=0, out=out, mode="clip")
