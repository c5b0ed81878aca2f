"""The normal operator of a subspace without any NUFFT: K x K convolutions on the doubled grid.

For one coil, A^H W A is a convolution in the image domain with the K x K kernel

    psf_kl(d) = 1/N  sum_j w_j conj(phi_k(t_j)) phi_l(t_j) exp(2 pi i k_j . d / n),

needed for lags d from -(n-1) to n-1 only. On a grid of twice the size it is a multiplication
of the discrete Fourier transforms: Hermitian in (k, l), and real where phi and w are, because
psf_kl(-d) = conj(psf_kl(d)) then. Only the upper triangle is kept. The doubled grid also holds
the lag -n, which is never used and would break that symmetry: it is zeroed first.

References
----------
Fessler et al., IEEE Trans Signal Process 53:3393 (2005), doi 10.1109/TSP.2005.853152 (Toeplitz).
Tamir et al., Magn Reson Med 77:180 (2017), doi 10.1002/mrm.26102 (K x K kernel of a subspace).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import threads
from .jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SLAB = 16


class Toeplitz:
    """Convolution with the K x K kernel of a trajectory, weights and basis.

    Parameters
    ----------
    multiplier : array (K (K + 1) / 2, 2 n_1, 2 n_2, ...)
        Transform of the upper triangle of the kernel, row by row; real or complex.
    rank : int
        Number of coefficients K.
    shape : tuple of int
        Image size (n_1, n_2, ...).
    """

    def __init__(self, multiplier: NDArray[Any], rank: int, shape: tuple[int, ...]):
        self.multiplier = multiplier
        self.rank = rank
        self.shape = shape

    def apply(self, image: NDArray[Any], *, workers: int = 1) -> NDArray[Any]:
        """Return the convolution of K images (K, *X) with the kernel.

        Zero halves are neither stored nor transformed before their turn: all axes but the last
        are doubled first; then, a few rows at a time so that they stay in the cache, the last.
        """
        from scipy import fft

        axes = range(1, len(self.shape))
        half = image
        for axis, n in zip(axes, self.shape, strict=False):
            half = fft.fft(half, n=2 * n, axis=axis, workers=workers, overwrite_x=axis > 1)
        last = self.shape[-1]
        rows = np.ascontiguousarray(half).reshape(self.rank, -1, last)
        matrix = self.multiplier.reshape(len(self.multiplier), -1, 2 * last)
        for start in range(0, rows.shape[1], _SLAB):
            part = slice(start, start + _SLAB)
            full = fft.fft(rows[:, part], n=2 * last, axis=2, workers=workers)
            _mix(full, matrix, start)
            rows[:, part] = fft.ifft(full, axis=2, workers=workers, overwrite_x=True)[..., :last]
        half = rows.reshape(half.shape)
        for axis, n in reversed(list(zip(axes, self.shape, strict=False))):
            full = fft.ifft(half, axis=axis, workers=workers, overwrite_x=True)
            half = full[(slice(None),) * axis + (slice(0, n),)]
        return half


def multiplier(
    psf: Callable[[NDArray[Any]], NDArray[Any]],
    phi: NDArray[Any],
    frame: NDArray[np.intp],
    weights: NDArray[Any],
    shape: tuple[int, ...],
) -> NDArray[Any]:
    """Return the transformed kernel of a trajectory, weights and basis.

    Parameters
    ----------
    psf : callable
        Adjoint NUFFT of sample strengths (R, S) onto the grid of lags (2 n_1, 2 n_2, ...),
        lag 0 at index n, scaled by 1/N.
    phi : array (T, K)
        Basis.
    frame : int array (R,)
        Frame of every readout.
    weights : array (R, S)
        Weights of the samples.
    shape : tuple of int
        Image size.

    Returns
    -------
    array (K (K + 1) / 2, 2 n_1, 2 n_2, ...)
        Real where phi is real.

    Raises
    ------
    ArithmeticError
        A kernel that must be real is not, to the accuracy of the NUFFT.
    """
    from scipy import fft

    rank = phi.shape[1]
    axes = tuple(range(len(shape)))
    real = np.isrealobj(phi)
    rows: list[NDArray[Any]] = []
    for k in range(rank):
        for other in range(k, rank):
            strength = (phi[frame, k].conj() * phi[frame, other])[:, None] * weights
            lags = psf(strength)
            for axis in axes:
                lags[(slice(None),) * axis + (0,)] = 0
            values = fft.fftn(fft.ifftshift(lags, axes=axes), axes=axes, workers=threads.count(), overwrite_x=True)
            rows.append(_without_imaginary(values) if real else values)
    return np.stack(rows)


def _without_imaginary(values: NDArray[Any]) -> NDArray[Any]:
    size = float(np.abs(values).max())
    rest = float(np.abs(values.imag).max())
    if rest > 1e3 * np.finfo(values.real.dtype).eps * size:
        raise ArithmeticError(f"Toeplitz kernel of a real basis has an imaginary part of {rest / size:.1e}")
    return np.ascontiguousarray(values.real)


@kernel(inline=True, fastmath={"contract", "reassoc", "nsz"})
def _add_product(m, sign, re, im, out_re, out_im):  # type: ignore[no-untyped-def]
    """Add m x (sign 1) or conj(m) x (sign -1) to out; for a real m half of it vanishes."""
    for i in range(len(re)):
        out_re[i] += m[i].real * re[i] - sign * m[i].imag * im[i]
        out_im[i] += m[i].real * im[i] + sign * m[i].imag * re[i]


@kernel(fastmath={"contract", "reassoc", "nsz"})
def _mix(image, multiplier, first):  # type: ignore[no-untyped-def]
    """Multiply the K values at every point by the Hermitian K x K matrix there, in place.

    image (K, rows, n); the matrices of its rows start at row `first` of multiplier. Real and
    imaginary parts are kept apart, so that all inner loops run over contiguous reals.
    """
    rank, n_rows, n = image.shape
    re = np.empty((rank, n), image.real.dtype)
    im = np.empty((rank, n), image.real.dtype)
    out_re = np.empty((rank, n), image.real.dtype)
    out_im = np.empty((rank, n), image.real.dtype)
    for row in range(n_rows):
        for k in range(rank):
            for i in range(n):
                re[k, i], im[k, i] = image[k, row, i].real, image[k, row, i].imag
        out_re[:] = 0
        out_im[:] = 0
        pair = 0
        for k in range(rank):
            for other in range(k, rank):
                values = multiplier[pair, first + row]
                _add_product(values, 1, re[other], im[other], out_re[k], out_im[k])
                if other > k:
                    _add_product(values, -1, re[k], im[k], out_re[other], out_im[other])
                pair += 1
        for k in range(rank):
            for i in range(n):
                image[k, row, i] = complex(out_re[k, i], out_im[k, i])
