r"""A preconditioner of the normal operator: the circulant matrix that is nearest to its convolution.

Coil sensitivities whose squares sum to s make A^H W A nearly s times the convolution T with the kernel of `toeplitz`.
For every pair of coefficients the circulant matrix that is nearest to T in the Frobenius norm has the kernel

.. math:: c_{kl}(d) = \sum_{m \in \{0, n\}} (1 - |d - m| / n)\, psf_{kl}(d - m)

along every axis, and no eigenvalue below the smallest of T (T. Chan, doi 10.1137/0909051). With lam, and a share of its
largest eigenvalue that keeps what is hardly sampled from being blown up, it is inverted: a K x K matrix at every point
of k-space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import threads
from ..mixing import mix
from ..toeplitz import Toeplitz

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOOR = 0.03  # of the largest eigenvalue where the trace is largest


class Circulant:
    """Multiplication of coefficient images by (s C + lam + floor)^-1, Hermitian and positive.

    Parameters
    ----------
    toeplitz : Toeplitz
        The convolution T.
    sens : complex array (C, *X)
        Coil sensitivities.
    lam : float
        Weight of the penalty 1/2 ||c||^2.

    Notes
    -----
    Memory: K^2 complex numbers for every voxel, and the images. A product costs an FFT of K images there and back.
    """

    def __init__(self, toeplitz: Toeplitz, sens: NDArray[Any], lam: float):
        self.shape = toeplitz.shape
        parts, rank = toeplitz.parts, toeplitz.rank
        seen = float(np.mean(np.sum(np.abs(sens) ** 2, axis=0), dtype=np.float64))
        rows, columns = np.triu_indices(rank)
        matrix = np.empty((*self.shape, rank, rank), sens.dtype if len(parts) == 2 else parts.dtype)
        for i, (k, other) in enumerate(zip(rows, columns, strict=True)):
            values = seen * self._nearest(parts[:, i])
            matrix[..., k, other], matrix[..., other, k] = values, values.conj()
        where = np.unravel_index(np.trace(matrix, axis1=-2, axis2=-1).real.argmax(), self.shape)
        matrix += (lam + _FLOOR * np.linalg.eigvalsh(matrix[where])[-1]) * np.eye(rank, dtype=matrix.dtype)
        inverse = np.moveaxis(np.linalg.inv(matrix)[..., rows, columns], -1, 0)
        both = (inverse.real, inverse.imag) if len(parts) == 2 else (inverse,)
        self._parts = np.stack([part.reshape(len(rows), -1, self.shape[-1]) for part in both])

    def _nearest(self, parts: NDArray[Any]) -> NDArray[Any]:
        """Return the eigenvalues (*X) of the nearest circulant matrix, from a kernel as in `Toeplitz`."""
        from scipy import fft

        kernel = parts[0] + 1j * parts[1] if len(parts) == 2 else parts[0].astype(np.result_type(parts, np.complex64))
        lags = fft.ifftn(kernel, workers=threads.count(), overwrite_x=True)
        for axis, n in enumerate(self.shape):
            share = 1 - np.abs(np.fft.fftfreq(2 * n, 1 / (2 * n))) / n
            lags = np.moveaxis(lags, axis, -1) * share.astype(parts.dtype)
            lags = np.moveaxis(lags[..., :n] + lags[..., n:], -1, axis)
        values = fft.fftn(lags, workers=threads.count())
        return values if len(parts) == 2 else values.real

    def __call__(self, coeff: NDArray[Any]) -> NDArray[Any]:
        """Return the product with images (K, *X), a new array."""
        from scipy import fft

        axes = tuple(range(1, coeff.ndim))
        images = np.ascontiguousarray(fft.fftn(coeff, axes=axes, workers=threads.count()))
        mix(images.reshape(1, len(coeff), -1, self.shape[-1]), self._parts, 0)
        return np.asarray(fft.ifftn(images, axes=axes, workers=threads.count(), overwrite_x=True))
