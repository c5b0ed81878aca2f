"""Gram matrices of complex rows from real products, and their factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def parts_of(rows: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Return the real and the imaginary part of rows, without what is zero."""
    if not np.iscomplexobj(rows):
        return [np.ascontiguousarray(rows, np.float64)]
    return [np.ascontiguousarray(half, np.float64) for half in (rows.real, rows.imag) if half.any()]


def outer(parts: Sequence[NDArray[np.float64]], size: int, conjugate: bool) -> NDArray[Any]:
    """Return sum c c^H over rows c of coefficients; its real part where conjugates count half each."""
    gram: NDArray[Any] = sum((part.T @ part for part in parts), np.zeros((size, size)))
    if len(parts) == 2 and not conjugate:
        cross = parts[1].T @ parts[0]
        gram = gram + 1j * (cross - cross.T)
    return gram


def factor(gram: NDArray[Any]) -> NDArray[Any]:
    """Return W with W W^H = gram, whose rows are accurate relative to their own size."""
    scale = np.sqrt(np.diagonal(gram).real)
    divisor = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(gram / divisor[:, None] / divisor)
    return np.asarray(scale[:, None] * vectors * np.sqrt(np.maximum(values, 0)))


def resolution(gram: NDArray[Any], vectors: NDArray[Any], n_terms: int) -> NDArray[np.float64]:
    """Return what rounding may make of a singular value that is zero, for each left singular vector.

    Parameters
    ----------
    gram : array (r, r)
        Sum of `n_terms` products c c^H or so.
    vectors : array (r, k)
        Left singular vectors of its factor.
    n_terms : int
        Number of terms.

    Returns
    -------
    array (k,)
        Entry (i, j) of the matrix has an error of about (r + sqrt(n)) eps |c_i| |c_j|, hence u^H gram u,
        the squared singular value, one of (r + sqrt(n)) eps sum |c_i|^2 |u_i|^2; or of eps of the first.
    """
    eps = (len(gram) + n_terms**0.5) * float(np.finfo(float).eps)
    rows = np.linalg.norm(np.sqrt(np.diagonal(gram).real)[:, None] * vectors, axis=0)
    return np.asarray(np.maximum(eps**0.5 * rows, eps * rows[0]))


def least(gram: NDArray[Any], whole: float, outside: float, ranks: Sequence[int]) -> list[float]:
    """Return what no orthonormal columns lose less than, for several numbers of columns.

    Parameters
    ----------
    gram : array (r, r)
        Gram matrix of what is to be kept, in r dimensions.
    whole : float
        All there is to be kept.
    outside : float
        What of it is outside of these dimensions, which might be kept wholly.
    ranks : sequence of int
        Numbers of columns.

    Returns
    -------
    list of float
        ``whole`` without the sum of the leading eigenvalues (Ky Fan) and ``outside``, at least 0.
    """
    kept = np.cumsum(np.linalg.eigvalsh(gram)[::-1])
    return [max(0.0, whole - outside - float(kept[min(rank, len(kept)) - 1])) for rank in ranks]
