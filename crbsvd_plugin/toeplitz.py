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

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from . import threads
from .mixing import mix

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CACHE = 32 * 2**20  # bytes of a buffer that is gone through three times: what may stay in the last-level cache
_SAMPLES = 256 * 2**20  # bytes of samples in work, where kernels are small
_ROWS = 16  # of the last axis at a time, which stay in the first two


class Toeplitz:
    """Convolution with the K x K kernel of a trajectory, weights and basis.

    Parameters
    ----------
    parts : real array (1 or 2, K (K + 1) / 2, 2 n_1, 2 n_2, ...)
        Transform of the upper triangle of the kernel, row by row: real parts, and imaginary ones if there are any.
    rank : int
        Number of coefficients K.

    Notes
    -----
    Zero halves are neither stored nor transformed before their turn: of whole images only the first axis is
    doubled; the others are, a piece at a time that stays in the cache, when they are transformed, multiplied and
    cut again. Coils that fit into the cache together share what is read of the kernel, which for many coefficients
    bounds the speed. Memory besides the kernel: 2 K N numbers for each coil that is in work, and a piece per thread.
    """

    def __init__(self, parts: NDArray[Any], rank: int):
        self.parts = parts
        self.rank = rank
        self.shape = tuple(n // 2 for n in parts.shape[2:])

    def normal(self, coeff: NDArray[Any], sens: NDArray[Any]) -> NDArray[Any]:
        """Return sum_c conj(sens_c) T sens_c coeff for images coeff (K, *X) and coils sens (C, *X).

        The result does not depend on the number of threads.
        """
        # axis 1 of X alone, and all others as one
        lines = (self.shape[0], math.prod(self.shape[1:]))
        images, coils = coeff.reshape(self.rank, *lines), sens.reshape(-1, *lines)
        out = np.zeros(images.shape, coeff.dtype)
        n_coils = max(1, min(len(coils), _CACHE // (2 * images.nbytes)))
        buffer = np.empty((n_coils, self.rank, 2 * lines[0], lines[1]), coeff.dtype)
        n_threads = threads.count()
        edges = np.linspace(0, 2 * lines[0], n_threads + 1).astype(int).tolist()
        with ThreadPoolExecutor(n_threads) as pool:
            for start in range(0, len(coils), n_coils):
                here = coils[start : start + n_coils]
                work = buffer[: len(here)]
                each = [(here[c], images[k], work[c, k]) for c, k in np.ndindex(work.shape[:2])]
                # a list waits for all threads
                list(pool.map(_to_lines, *zip(*each, strict=True)))
                list(pool.map(self._convolve, repeat(work), pairwise(edges)))
                list(pool.map(_from_lines, repeat(here), np.moveaxis(work, 1, 0), out))
        return out.reshape(coeff.shape)

    def _convolve(self, work: NDArray[Any], part: tuple[int, int]) -> None:
        """Multiply the rows from part[0] to part[1] of axis 1, transformed already, by the kernel, in place."""
        inner = self.shape[1:]
        doubled = tuple(2 * n for n in inner)
        n_rows = math.prod(doubled[:-1])
        parts = self.parts.reshape(*self.parts.shape[:2], -1, doubled[-1])
        size = max(1, _ROWS // n_rows)
        for start in range(*part, size):
            lines = work[:, :, start : min(start + size, part[1])]
            piece = np.zeros((*lines.shape[:3], *doubled), work.dtype)
            # what is not zero when axis i is transformed, the last one first; of all axes: `inside`
            kept = [tuple(slice(n) for n in inner[:i]) for i in range(len(inner) + 1)]
            *views, inside = (piece[(slice(None),) * 3 + axes] for axes in kept)
            inside[...] = lines.reshape(inside.shape)
            for axis, view in reversed(list(enumerate(views))):
                _transform(view, axis - len(inner))
            mix(piece.reshape(*lines.shape[:2], -1, doubled[-1]), parts, start * n_rows)
            for axis, view in enumerate(views):
                _transform(view, axis - len(inner), inverse=True)
            lines[...] = inside.reshape(lines.shape)


def _to_lines(sens: NDArray[Any], image: NDArray[Any], out: NDArray[Any]) -> None:
    """Write the transform along axis 0 of an image (n, M) seen by a coil, padded, to out (2 n, M)."""
    np.multiply(sens, image, out=out[: len(image)])
    out[len(image) :] = 0
    _transform(out, 0)


def _from_lines(coils: NDArray[Any], lines: NDArray[Any], out: NDArray[Any]) -> None:
    """Add what coils (C, n, M) make of the transforms (C, 2 n, M) of one image to out (n, M)."""
    for sens, line in zip(coils, lines, strict=True):
        _transform(line, 0, inverse=True)
        image = line[: len(out)]
        image *= sens.conj()
        out += image


def _transform(array: NDArray[Any], axis: int, *, inverse: bool = False) -> None:
    """Replace an array by its discrete Fourier transform along an axis."""
    from scipy import fft

    result = (fft.ifft if inverse else fft.fft)(array, axis=axis, overwrite_x=True)
    if not np.may_share_memory(result, array):
        array[...] = result  # it may be overwritten, says scipy: it need not


def parts_of(
    psf_of: Callable[[slice], Callable[[NDArray[Any], NDArray[Any]], object]],
    phi: NDArray[Any],
    frame: NDArray[np.intp],
    weights: NDArray[Any],
    shape: tuple[int, ...],
    *,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the transformed kernel of a trajectory, weights and basis.

    Parameters
    ----------
    psf_of : callable
        Gives, for some of the readouts, a function that writes the adjoint NUFFT of their complex sample strengths,
        scaled by 1/N, to a grid of lags (2 n_1, 2 n_2, ...): lag 0 at index 0, negative ones from index n on.
    phi : array (T, K)
        Basis.
    frame : int array (R,)
        Frame of every readout.
    weights : array (R, S)
        Weights of the samples.
    shape : tuple of int
        Image size.
    out : array, optional
        The kernel of other readouts, to which this one is added in place.

    Returns
    -------
    real array (1 or 2, K (K + 1) / 2, 2 n_1, 2 n_2, ...)
        As `Toeplitz` takes it: real parts, and imaginary ones where phi is complex.

    Raises
    ------
    ArithmeticError
        A kernel that must be real is not, to the accuracy of the NUFFT.

    Notes
    -----
    Transformed kernels of a real basis are real, so two go through the NUFFT as the real and imaginary part of one.
    The last one goes alone, and shows whether they are real indeed.

    Memory besides the kernel, for G = 2 n_1 2 n_2 ... lags and b bytes of a complex number: b G for the one grid of
    lags, which is transformed in place; FINUFFT adds its finer grid while it works, 1.4 to 1.6 b u^ndim G (u = 1.5 in
    single and 2 in double precision; measured, its transform included). The strengths of a sample, its position and
    its place in an order take ((1 + ndim / 2) b + 8) bytes. Kernels are sums over readouts, so these go in chunks of
    at most `chunk_bytes` each.
    """
    from scipy import fft

    real, axes = np.isrealobj(phi), tuple(range(len(shape)))
    pairs = [(k, other) for k in range(phi.shape[1]) for other in range(k, phi.shape[1])]
    found = np.zeros((1 if real else 2, len(pairs), *(2 * n for n in shape)), weights.dtype) if out is None else out
    lags = np.empty(found.shape[2:], np.result_type(weights.dtype, np.complex64))
    step = max(1, chunk_bytes(found.nbytes) // (sample_bytes(len(shape), lags.itemsize) * max(1, weights.shape[1])))
    for start in range(0, len(frame), step):
        rows = slice(start, start + step)
        psf, here = psf_of(rows), weights[rows]
        factors = [(phi[:, k].conj() * phi[:, other])[frame[rows], None] for k, other in pairs]

        def transformed(factor: NDArray[Any], psf: Any = psf, here: NDArray[Any] = here) -> NDArray[Any]:
            psf(factor.astype(lags.dtype) * here, lags)
            for axis, n in enumerate(shape):
                lags[(slice(None),) * axis + (n,)] = 0
            return np.asarray(fft.fftn(lags, axes=axes, workers=threads.count(), overwrite_x=True))

        if not real:
            for i, (k, other) in enumerate(pairs):
                values = transformed(factors[i])
                found[0, i] += values.real
                if k != other:  # a diagonal one is Hermitian in the lags: what is imaginary is rounding
                    found[1, i] += values.imag
            continue
        for i in range(0, len(pairs) - 2, 2):
            values = transformed(factors[i] + 1j * factors[i + 1])
            found[0, i] += values.real
            found[0, i + 1] += values.imag
        for i in range((len(pairs) - 1) // 2 * 2, len(pairs)):
            found[0, i] += _without_imaginary(transformed(factors[i]))
    return found


def chunk_bytes(kernel: int) -> int:
    """Return the bytes that samples may take at a time while a kernel of so many bytes is made."""
    return max(_SAMPLES, kernel // 16)


def sample_bytes(n_dims: int, b: int) -> int:
    """Return the bytes that a sample takes while a kernel is made, for b of a complex number; see `parts_of`."""
    return b + n_dims * b // 2 + 8


def _without_imaginary(values: NDArray[Any]) -> NDArray[Any]:
    size, rest = (max(float(part.max()), -float(part.min())) for part in (values.real, values.imag))
    if rest > 1e3 * np.finfo(values.real.dtype).eps * size:
        raise ArithmeticError(f"Toeplitz kernel of a real basis has an imaginary part of {rest / size:.1e}")
    return values.real
