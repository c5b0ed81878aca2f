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
def _add(m, re, im, out_re, out_im):  # type: ignore[no-untyped-def]
    """Add m x to out, for a real m."""
    for i in range(len(re)):
        out_re[i] += m[i] * re[i]
        out_im[i] += m[i] * im[i]


@kernel(inline=True, fastmath=_FAST)
def _add_two(m, re, im, m2, re2, im2, out_re, out_im):  # type: ignore[no-untyped-def]
    """Add m x + m2 x2 to out: two at a time load and store the sums half as often."""
    for i in range(len(re)):
        out_re[i] += m[i] * re[i] + m2[i] * re2[i]
        out_im[i] += m[i] * im[i] + m2[i] * im2[i]


@kernel(inline=True, fastmath=_FAST)
def _add_turned(m, sign, re, im, out_re, out_im):  # type: ignore[no-untyped-def]
    """Add i sign m x to out, for a real m."""
    for i in range(len(re)):
        out_re[i] -= sign * m[i] * im[i]
        out_im[i] += sign * m[i] * re[i]


@kernel(inline=True)
def _pair(k, other, rank):  # type: ignore[no-untyped-def]
    """Return where M_kl, or its conjugate M_lk, stands in the upper triangle."""
    low, high = min(k, other), max(k, other)
    return low * rank - low * (low - 1) // 2 + high - low


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
    out_re, out_im = np.empty(n, parts.dtype), np.empty(n, parts.dtype)
    # every row is taken by integers alone: only then does numba know that it is contiguous
    for row in range(n_rows):
        at = first + row
        for g in range(n_images):
            for k in range(rank):
                image = images[g, k, row]
                for i in range(n):
                    re[k, i], im[k, i] = image[i].real, image[i].imag
            for k in range(rank):
                out_re[:], out_im[:] = 0, 0
                for other in range(0, rank - 1, 2):
                    m, m2 = parts[0, _pair(k, other, rank), at], parts[0, _pair(k, other + 1, rank), at]
                    _add_two(m, re[other], im[other], m2, re[other + 1], im[other + 1], out_re, out_im)
                if rank % 2:
                    _add(parts[0, _pair(k, rank - 1, rank), at], re[rank - 1], im[rank - 1], out_re, out_im)
                if len(parts) == 2:
                    for other in range(rank):
                        sign = 1 if other >= k else -1
                        _add_turned(parts[1, _pair(k, other, rank), at], sign, re[other], im[other], out_re, out_im)
                image = images[g, k, row]
                for i in range(n):
                    image[i] = complex(out_re[i], out_im[i])
