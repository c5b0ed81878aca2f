r"""Nuclear norms of blocks: neighbouring voxels hold few different signals.

.. math:: R(c) = \sum_b \| C_b \|_*, \qquad
          \operatorname{prox}_{t R}: C_b \to \sum_i \max(\sigma_i - t, 0)\, u_i v_i^H

C_b (voxels of block b, K) is the Casorati matrix of a block, sigma_i its singular values.

The map is C_b Q h(Lambda) Q^H with the eigenvalues Lambda = sigma^2 of the K x K Gram matrix
C_b^H C_b = Q Lambda Q^H and h(g) = max(1 - t / sqrt(g), 0): no singular value decomposition of the
long matrix. Squaring costs accuracy: Lambda is right to eps sigma_1^2, h has a slope of at most
1 / (2 t^2), and what has that slope has the size t, hence an error of eps sigma_1^2 / (2 t), and
where t is smaller than sqrt(eps) sigma_1 still of sqrt(eps) sigma_1, below which nothing is seen.
Gram matrices are therefore in double precision, where sqrt(eps) = 1.5e-8 is less than the rounding
of single precision.

References
----------
Cai, Candes and Shen, doi 10.1137/080738970 (singular value thresholding).
Tamir et al., doi 10.1002/mrm.26102; Zhang, Pauly and Levesque, doi 10.1002/mrm.25161 (blocks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")


class Blocks:
    """Sum of the nuclear norms of blocks, as a `penalty.Grid`.

    Parameters
    ----------
    shape : tuple of int
        Image size X, any number of axes.
    block : int
        Edge of a block [voxels]; an axis that is shorter is one block.

    Notes
    -----
    A block that reaches over the edge of the image is cut there: it is filled with zeros, which
    change no singular value. Nothing wraps around.
    """

    def __init__(self, shape: tuple[int, ...], block: int):
        self.shape = shape
        self.block = block
        self.sizes = tuple(min(block, n) for n in shape)

    @property
    def cycle(self) -> tuple[int, ...]:
        """Number of different shifts: the edge of a block, 1 along an axis that is one block."""
        return tuple(size if n > size else 1 for n, size in zip(self.shape, self.sizes, strict=True))

    def value_at(self, coeff: NDArray[Any], shift: tuple[int, ...]) -> float:
        """Return the sum of all singular values of the blocks that begin at `shift`."""

        def of_slab(slab: Blocks, rows: slice) -> float:
            return float(np.linalg.svd(slab._casorati(coeff[:, rows], inner), compute_uv=False).sum())

        inner = (0, *shift[1:])
        return math.fsum(self._each_slab(of_slab, shift[0]))

    def prox_at(self, coeff: NDArray[Any], threshold: float, shift: tuple[int, ...]) -> NDArray[Any]:
        """Return images whose blocks have singular values max(sigma - threshold, 0)."""

        def of_slab(slab: Blocks, rows: slice) -> None:
            matrices = slab._casorati(coeff[:, rows], inner)
            squares, vectors = np.linalg.eigh(matrices.conj().swapaxes(1, 2) @ matrices)
            sigma = np.sqrt(np.maximum(squares, 0))
            kept = sigma > threshold
            share = np.where(kept, 1 - threshold / np.where(kept, sigma, 1), 0)
            factors = (vectors * share[:, None]) @ vectors.conj().swapaxes(1, 2)
            out[:, rows] = slab._image(matrices @ factors, inner)

        inner, out = (0, *shift[1:]), np.empty_like(coeff)
        self._each_slab(of_slab, shift[0])
        return out

    def _each_slab(self, function: Callable[[Blocks, slice], T], start: int) -> list[T]:
        """Call a function for every row of blocks along the first image axis, and what it is of the image.

        They are independent of each other, so as many as threads are in work, and in double precision, at a time.
        """
        n, size = self.shape[0], self.sizes[0]
        edges = [*range(start % size, n, size), n] if n > size else [n]
        rows = [slice(a, b) for a, b in pairwise([0, *edges]) if a < b]
        slabs = [Blocks((here.stop - here.start, *self.shape[1:]), self.block) for here in rows]
        with ThreadPoolExecutor(threads.count()) as pool:
            return list(pool.map(function, slabs, rows))

    def _casorati(self, coeff: NDArray[Any], shift: tuple[int, ...]) -> NDArray[np.complex128]:
        """Return the blocks of images (K, *X) as (blocks, voxels of a block, K)."""
        counts = self._counts(shift)
        padded = np.zeros((len(coeff), *(n * size for n, size in zip(counts, self.sizes, strict=True))), np.complex128)
        padded[:, *self._inside(shift)] = coeff
        pairs = [n for pair in zip(counts, self.sizes, strict=True) for n in pair]
        n_axes = len(self.shape)
        order = (*range(1, 2 * n_axes, 2), *range(2, 2 * n_axes + 1, 2), 0)
        return padded.reshape(-1, *pairs).transpose(order).reshape(math.prod(counts), -1, len(coeff))

    def _image(self, matrices: NDArray[Any], shift: tuple[int, ...]) -> NDArray[Any]:
        """Return the images (K, *X) of blocks, the inverse of `_casorati`."""
        counts, n_axes = self._counts(shift), len(self.shape)
        apart = matrices.reshape(*counts, *self.sizes, -1)
        order = (2 * n_axes, *np.arange(2 * n_axes).reshape(2, n_axes).T.ravel())
        whole = (n * size for n, size in zip(counts, self.sizes, strict=True))
        return apart.transpose(order).reshape(-1, *whole)[:, *self._inside(shift)]

    def _counts(self, shift: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(-(-(inside.stop) // size) for inside, size in zip(self._inside(shift), self.sizes, strict=True))

    def _inside(self, shift: tuple[int, ...]) -> tuple[slice, ...]:
        """Return where the image lies on the grid, whose first block begins at or before the first voxel."""
        before = [-start % size for start, size in zip(shift, self.sizes, strict=True)]
        return tuple(slice(start, start + n) for start, n in zip(before, self.shape, strict=True))
