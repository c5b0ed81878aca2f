"""Multiplication by a Hermitian K x K matrix of its own at every point, the heart of a subspace's normal operator.

Images (G, K, rows, n) are complex; `parts` (1 or 2, K (K + 1) / 2, all rows, n) holds the real parts, and the
imaginary ones where there are any, of the upper triangles M_kl, k <= l, row by row: out_k = sum_l M_kl in_l.
Real and imaginary parts of a row are kept apart while it is worked on, so that all inner loops run over contiguous
reals. What bounds the speed is reading `parts`: it is read once for all G images.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel

_FAST = {"contract", "reassoc", "nsz"}


@kernel(inline=True, fastmath=_FAST)
def _one(m, x, w, y, z):  # type: ignore[no-untyped-def]
    """Add m x to y and m w to z."""
    for i in range(len(y)):
        y[i] += m[i] * x[i]
        z[i] += m[i] * w[i]


@kernel(inline=True, fastmath=_FAST)
def _two(m, m2, x, x2, w, w2, y, z):  # type: ignore[no-untyped-def]
    """Add two terms: the sums are loaded and stored half as often."""
    for i in range(len(y)):
        y[i] += m[i] * x[i] + m2[i] * x2[i]
        z[i] += m[i] * w[i] + m2[i] * w2[i]


@kernel(inline=True, fastmath=_FAST)
def _three(m, m2, m3, x, x2, x3, w, w2, w3, y, z):  # type: ignore[no-untyped-def]
    """Add three terms."""
    for i in range(len(y)):
        y[i] += m[i] * x[i] + m2[i] * x2[i] + m3[i] * x3[i]
        z[i] += m[i] * w[i] + m2[i] * w2[i] + m3[i] * w3[i]


@kernel(inline=True, fastmath=_FAST)
def _four(m, m2, m3, m4, x, x2, x3, x4, w, w2, w3, w4, y, z):  # type: ignore[no-untyped-def]
    """Add four terms."""
    for i in range(len(y)):
        y[i] += m[i] * x[i] + m2[i] * x2[i] + m3[i] * x3[i] + m4[i] * x4[i]
        z[i] += m[i] * w[i] + m2[i] * w2[i] + m3[i] * w3[i] + m4[i] * w4[i]


@kernel(inline=True)
def _pair(k, other, rank):  # type: ignore[no-untyped-def]
    """Return where M_kl, or its conjugate M_lk, stands in the upper triangle."""
    low, high = min(k, other), max(k, other)
    return low * rank - low * (low - 1) // 2 + high - low


@kernel(inline=True, fastmath=_FAST)
def _sum(part, at, k, start, stop, x, w, y, z):  # type: ignore[no-untyped-def]
    """Add sum_l M_kl x_l to y and sum_l M_kl w_l to z, for l from start to stop, four at a time."""
    rank, other = len(x), start
    while other + 4 <= stop:
        _four(
            part[_pair(k, other, rank), at], part[_pair(k, other + 1, rank), at],
            part[_pair(k, other + 2, rank), at], part[_pair(k, other + 3, rank), at],
            x[other], x[other + 1], x[other + 2], x[other + 3], w[other], w[other + 1], w[other + 2], w[other + 3],
            y, z,
        )  # fmt: skip
        other += 4
    if other + 3 == stop:
        _three(
            part[_pair(k, other, rank), at], part[_pair(k, other + 1, rank), at], part[_pair(k, other + 2, rank), at],
            x[other], x[other + 1], x[other + 2], w[other], w[other + 1], w[other + 2], y, z,
        )  # fmt: skip
    elif other + 2 == stop:
        _two(
            part[_pair(k, other, rank), at], part[_pair(k, other + 1, rank), at],
            x[other], x[other + 1], w[other], w[other + 1], y, z,
        )  # fmt: skip
    elif other + 1 == stop:
        _one(part[_pair(k, other, rank), at], x[other], w[other], y, z)


@kernel(fastmath=_FAST)
def mix(images, parts, first):  # type: ignore[no-untyped-def]
    """Multiply the K values at every point of G images by the matrix there, in place.

    Parameters
    ----------
    images : complex array (G, K, rows, n)
        Their rows are those of `parts` from row `first` on.
    parts : real array (1 or 2, K (K + 1) / 2, all rows, n)
        Real and, if there are any, imaginary parts of the matrices.
    first : int
        A row of `parts`.
    """
    n_images, rank, n_rows, n = images.shape
    re, im = np.empty((rank, n), parts.dtype), np.empty((rank, n), parts.dtype)
    minus_im = np.empty((rank if len(parts) == 2 else 0, n), parts.dtype)
    out_re, out_im = np.empty(n, parts.dtype), np.empty(n, parts.dtype)
    # every row is taken by integers alone: only then does numba know that it is contiguous
    for row in range(n_rows):
        at = first + row
        for g in range(n_images):
            for k in range(rank):
                image = images[g, k, row]
                for i in range(n):
                    re[k, i], im[k, i] = image[i].real, image[i].imag
                if len(parts) == 2:
                    for i in range(n):
                        minus_im[k, i] = -im[k, i]
            for k in range(rank):
                out_re[:], out_im[:] = 0, 0
                if len(parts) == 2:
                    # i m x = m (-im) + i m re; below the diagonal the conjugate, the whole of it negative
                    _sum(parts[1], at, k, 0, k, minus_im, re, out_re, out_im)
                    for i in range(n):
                        out_re[i], out_im[i] = -out_re[i], -out_im[i]
                    _sum(parts[1], at, k, k, rank, minus_im, re, out_re, out_im)
                _sum(parts[0], at, k, 0, rank, re, im, out_re, out_im)
                image = images[g, k, row]
                for i in range(n):
                    image[i] = complex(out_re[i], out_im[i])
