"""Multiplication of K values at every point by a Hermitian K x K matrix of that point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mix(images: NDArray[Any], parts: NDArray[Any], first: int) -> None:
    """Multiply the K values at every point by the Hermitian K x K matrix there, in place.

    Parameters
    ----------
    images : complex array (G, K, rows, n)
        Values; contiguous in the last axis.
    parts : real array (1 or 2, K (K + 1) / 2, all rows, n)
        Real and, if there are two, imaginary parts of the upper triangle, row by row.
    first : int
        The row of `parts` at which the rows of `images` start.
    """
    rank, n_rows = images.shape[1:3]
    chosen = parts[:, :, first : first + n_rows]
    upper = chosen[0] if len(chosen) == 1 else chosen[0] + 1j * chosen[1]
    values = images.copy()
    images[:] = 0
    for pair, (k, other) in enumerate(zip(*np.triu_indices(rank), strict=True)):
        images[:, k] += upper[pair] * values[:, other]
        if other > k:
            images[:, other] += upper[pair].conj() * values[:, k]
