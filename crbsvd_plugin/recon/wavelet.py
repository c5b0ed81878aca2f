r"""The l1 norm of wavelet coefficients: images are piecewise smooth.

.. math:: R(c) = \|W c\|_1, \qquad \operatorname{prox}_{t R}(c) = W^H S_t(W c), \quad
          S_t(z) = z \max(1 - t / |z|, 0)

W is orthonormal for every image size: Daubechies' wavelets of four taps, periodic; along an axis of
odd length the last voxel joins the coarse half unchanged. Every coefficient image is transformed
by itself; real and imaginary part together make the modulus that is thresholded. Coarse
coefficients are thresholded too. The wavelet, the places of its coefficients and the number of
levels are those of BART 0.8.00, which differs at the edges only: it mirrors the image there.

References
----------
Lustig, Donoho and Pauly, doi 10.1002/mrm.21391 (l1-wavelets). Daubechies, doi 10.1002/cpa.3160410705.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAME, _TAPS, _COARSEST = "db2", 4, 16


class Wavelet:
    """l1 norm of wavelet coefficients, as a `penalty.Grid`.

    Parameters
    ----------
    shape : tuple of int
        Image size X.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
        self._levels = tuple(map(_levels, shape))

    @property
    def cycle(self) -> tuple[int, ...]:
        """Number of different shifts: 2^levels, at most all voxels."""
        return tuple(min(2**levels, n) for levels, n in zip(self._levels, self.shape, strict=True))

    def value_at(self, coeff: NDArray[Any], shift: tuple[int, ...]) -> float:
        """Return the l1 norm of the coefficients of images moved by `shift` voxels, periodically."""
        return float(np.abs(self.forward(self._moved(coeff, shift, 1))).sum(dtype=np.float64))

    def prox_at(self, coeff: NDArray[Any], threshold: float, shift: tuple[int, ...]) -> NDArray[Any]:
        """Return images with soft-thresholded coefficients."""
        found = self.forward(self._moved(coeff, shift, 1))
        size = np.abs(found)
        kept = size > threshold
        found *= np.where(kept, 1 - threshold / np.where(kept, size, 1), 0).astype(size.dtype)
        return self._moved(self.backward(found), shift, -1)

    def forward(self, coeff: NDArray[Any]) -> NDArray[Any]:
        """Return wavelet coefficients (K, *X) of images (K, *X), the coarsest in the first corner."""
        found = coeff.copy()
        for corner, axes in self._steps():
            for axis in axes:
                found[corner] = _split(found[corner], axis)
        return found

    def backward(self, found: NDArray[Any]) -> NDArray[Any]:
        """Return images of wavelet coefficients: the inverse and adjoint of `forward`."""
        coeff = found.copy()
        for corner, axes in reversed(self._steps()):
            for axis in reversed(axes):
                coeff[corner] = _joined(coeff[corner], axis)
        return coeff

    def _steps(self) -> list[tuple[tuple[slice, ...], list[int]]]:
        """Return, level by level, the corner that is still to be transformed, and along which axes."""
        sizes, steps = list(self.shape), []
        for level in range(max(self._levels)):
            axes = [axis for axis, levels in enumerate(self._levels) if level < levels]
            steps.append(((slice(None), *map(slice, sizes)), [axis + 1 for axis in axes]))
            for axis in axes:
                sizes[axis] -= sizes[axis] // 2
        return steps

    def _moved(self, coeff: NDArray[Any], shift: tuple[int, ...], sign: int) -> NDArray[Any]:
        if not any(shift):
            return coeff
        return np.roll(coeff, [sign * n for n in shift], axis=tuple(range(1, coeff.ndim)))


def _levels(n: int) -> int:
    """Return how often an axis is halved: until its coarse half, with the taps beyond the edge, is below 16."""
    if n < 2:
        return 0
    levels = 1
    while (n := (n + _TAPS - 1) // 2) >= _COARSEST:
        levels += 1
    return levels


def _split(x: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return the coarse half, then the details, of one axis."""
    import pywt

    even, last = np.split(x, [x.shape[axis] // 2 * 2], axis=axis)
    # moved by one voxel, a coefficient stands for the same voxels as in BART
    coarse, detail = pywt.dwt(np.roll(even, 1, axis=axis), _NAME, mode="periodization", axis=axis)
    return np.concatenate([coarse, last, detail], axis=axis)


def _joined(x: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return the axis whose halves `_split` gave."""
    import pywt

    half = x.shape[axis] // 2
    coarse, last, detail = np.split(x, [half, x.shape[axis] - half], axis=axis)
    even = np.roll(pywt.idwt(coarse, detail, _NAME, mode="periodization", axis=axis), -1, axis=axis)
    return np.concatenate([even, last], axis=axis)
