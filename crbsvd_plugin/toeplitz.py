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
from .jit import kernel, prange

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 512


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

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the convolution of K images (K, *X) with the kernel."""
        from scipy import fft

        workers = threads.count()
        axes = range(1, 1 + len(self.shape))
        # axis by axis, so that the zero half is neither stored nor transformed before its turn
        padded = image
        for axis, n in zip(axes, self.shape, strict=True):
            padded = fft.fft(padded, n=2 * n, axis=axis, workers=workers, overwrite_x=axis > 1)
        _mix(padded.reshape(self.rank, -1), self.multiplier.reshape(len(self.multiplier), -1), _BLOCK)
        for axis, n in reversed(list(zip(axes, self.shape, strict=True))):
            full = fft.ifft(padded, axis=axis, workers=workers, overwrite_x=True)
            padded = full[(slice(None),) * axis + (slice(0, n),)]
        return np.ascontiguousarray(padded)


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
        for l in range(k, rank):
            strength = (phi[frame, k].conj() * phi[frame, l])[:, None] * weights
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


@kernel(parallel=True, fastmath={"contract", "reassoc", "nsz"})
def _mix(image, multiplier, block):  # type: ignore[no-untyped-def]
    """Multiply the K values at every point by the Hermitian K x K matrix there, in place."""
    rank, n = image.shape
    for b in prange((n + block - 1) // block):
        start = b * block
        size = min(block, n - start)
        # real and imaginary parts apart, so that all inner loops run over contiguous reals
        re = np.empty((rank, block), image.real.dtype)
        im = np.empty((rank, block), image.real.dtype)
        out_re = np.zeros((rank, block), image.real.dtype)
        out_im = np.zeros((rank, block), image.real.dtype)
        for k in range(rank):
            for i in range(size):
                re[k, i], im[k, i] = image[k, start + i].real, image[k, start + i].imag
        row = 0
        for k in range(rank):
            for l in range(k, rank):
                for i in range(size):
                    m = multiplier[row, start + i]
                    out_re[k, i] += m.real * re[l, i] - m.imag * im[l, i]
                    out_im[k, i] += m.real * im[l, i] + m.imag * re[l, i]
                if l > k:
                    for i in range(size):
                        m = multiplier[row, start + i]
                        out_re[l, i] += m.real * re[k, i] + m.imag * im[k, i]
                        out_im[l, i] += m.real * im[k, i] - m.imag * re[k, i]
                row += 1
        for k in range(rank):
            for i in range(size):
                image[k, start + i] = complex(out_re[k, i], out_im[k, i])
