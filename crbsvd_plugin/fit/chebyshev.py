"""Values and gradients of Chebyshev polynomials in several variables, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, prange


@kernel(parallel=True, fastmath={"contract"})
def evaluate(u: Any, polynomial: Any, sizes: Any, out: Any, n_pieces: int) -> None:
    """Write sum_n a_n T_n1(u_1) .. T_nP(u_P) and its gradient to out (B, 1 + P, R).

    Parameters
    ----------
    u : float64 array (B, P)
        Where.
    polynomial : float64 array (n_1 .. n_P R)
        The coefficients a_n of R functions, in C order.
    sizes : int64 array (P,)
        Numbers of terms n_i.
    out : float64 array (B, 1 + P, R)
        Values, then derivatives.
    n_pieces : int
        Pieces that threads take.

    Notes
    -----
    One variable after the other is summed over, each leaving the value and one more derivative; every point for
    itself, so that the bits do not depend on its neighbours.
    """
    n, p = u.shape
    width = polynomial.size // sizes[0]
    for piece in prange(n_pieces):
        terms, slopes = np.empty(sizes.max()), np.empty(sizes.max())
        now, then = np.empty((1 + p, width)), np.empty((1 + p, width))
        for i in range(piece * n // n_pieces, (piece + 1) * n // n_pieces):
            length = width
            for axis in range(p):
                count, x = sizes[axis], u[i, axis]
                terms[0], slopes[0] = 1.0, 0.0
                if count > 1:
                    terms[1], slopes[1] = x, 1.0
                for k in range(2, count):
                    terms[k] = 2 * x * terms[k - 1] - terms[k - 2]
                    slopes[k] = 2 * terms[k - 1] + 2 * x * slopes[k - 1] - slopes[k - 2]
                if axis == 0:
                    _sum(polynomial, terms, count, length, then[0])
                    _sum(polynomial, slopes, count, length, then[1])
                else:
                    length //= count
                    for chain in range(axis + 1):
                        _sum(now[chain], terms, count, length, then[chain])
                    _sum(now[0], slopes, count, length, then[axis + 1])
                now, then = then, now
            for chain in range(1 + p):
                for k in range(length):
                    out[i, chain, k] = now[chain, k]


@kernel(inline=True, fastmath={"contract"})
def _sum(terms: Any, factors: Any, count: int, length: int, out: Any) -> None:
    """Write sum_k factors_k terms[k], each `length` long, to out."""
    for j in range(length):
        out[j] = factors[0] * terms[j]
    for k in range(1, count):
        factor = factors[k]
        part = terms[k * length : (k + 1) * length]
        for j in range(length):
            out[j] += factor * part[j]
