"""Arrays that come one by one and are needed as one.

Thousands of small arrays come from a heap that does not shrink when they are gone; so they are copied to large blocks
as they come, and the blocks go one after the other while the whole is filled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

BLOCK_BYTES = 2**26  # so large that the system has them back at once


class Stack:
    """Arrays of one shape.

    Parameters
    ----------
    dtype : dtype
        Type that they are kept in.

    Attributes
    ----------
    shapes : set of tuple of int
        All shapes that came; only arrays of the first one are kept.
    """

    def __init__(self, dtype: DTypeLike):
        self.dtype = np.dtype(dtype)
        self.shapes: set[tuple[int, ...]] = set()
        self._shape: tuple[int, ...] = ()
        self._blocks: list[NDArray[Any]] = []
        self._free = 0  # rows of the last block
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self._length * int(np.prod(self._shape)) * self.dtype.itemsize

    def append(self, array: NDArray[Any]) -> bool:
        """Copy an array; return whether that took a new block."""
        if not self.shapes:
            self._shape = array.shape
        self.shapes.add(array.shape)
        if array.shape != self._shape:
            return False
        new = self._free == 0
        if new:
            self._free = max(1, BLOCK_BYTES // max(1, array.size * self.dtype.itemsize))
            self._blocks.append(np.empty((self._free, *array.shape), self.dtype))
        self._blocks[-1][len(self._blocks[-1]) - self._free] = array
        self._free -= 1
        self._length += 1
        return new

    def pop(self, *, axis: int) -> NDArray[Any]:
        """Return all arrays along a new axis, and forget them."""
        whole = np.empty((*self._shape[:axis], self._length, *self._shape[axis:]), self.dtype)
        rows, start = np.moveaxis(whole, axis, 0), 0
        self._blocks.reverse()
        while self._blocks:
            block = self._blocks.pop()
            used = min(len(block), self._length - start)
            rows[start : start + used] = block[:used]
            start += used
        self._free = self._length = 0
        return whole
