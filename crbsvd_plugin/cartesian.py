"""From coefficient images to Cartesian k-space and back, with samples that change from frame to frame.

    y_c(t, k) = mask(t, k) / sqrt(N)  sum_x sens_c(x) sum_j phi(t, j) coeff_j(x) exp(-2 pi i k . (x - n//2) / n)

`k` runs over the grid with its centre at n//2, N is the number of voxels: with this unitary scaling the
noise of k-space is the noise of the images. The normal operator needs no frames: at every point of k-space
it is the Hermitian K x K matrix sum_t w(t, k) conj(phi_ti) phi_tj.

References
----------
Tamir et al., Magn Reson Med 77:180 (2017), doi 10.1002/mrm.26102 (T2 shuffling).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import threads
from .mixing import mix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

_BLOCK = 1 << 19  # points of k-space at a time, over frames: 4 MiB in single precision, however many frames there are


class CartesianOperator:
    """Linear operator A from coefficient images to Cartesian k-space.

    Parameters
    ----------
    mask : bool or real array (T, *X)
        What is sampled in every frame, centre at n//2; or weights w >= 0 of the samples in the objective
        1/2 sum w |A c - y|^2, 0: not sampled. Frames without any sample are allowed.
    phi : array (T, K)
        Temporal basis; real or complex.
    sens : complex array (C, *X)
        Coil sensitivities; X has two or three axes.
    dtype : dtype
        complex64, or complex128 for tests and references.

    Raises
    ------
    ValueError
        Shapes do not fit, or a weight is negative.

    Notes
    -----
    The attribute `weights` is the mask, bool or real. As in `SubspaceOperator`, `forward` does not multiply by it,
    but what is not sampled is zero; `adjoint` is A^H W, so that `normal` = `adjoint` of `forward` = A^H W A.
    """

    def __init__(self, mask: ArrayLike, *, phi: NDArray[Any], sens: NDArray[Any], dtype: Any = np.complex64):
        self.dtype = np.dtype(dtype)
        self._real = np.zeros(0, self.dtype).real.dtype
        given = np.asarray(mask)
        self.weights = given if given.dtype == bool else given.astype(self._real, copy=False)
        self.phi = phi.astype(self.dtype if np.iscomplexobj(phi) else self._real)
        self.sens = np.asarray(sens, dtype=self.dtype)
        self.shape = tuple(self.sens.shape[1:])
        if self.phi.ndim != 2 or len(self.shape) not in (2, 3):
            raise ValueError(
                f"phi {self.phi.shape} and sens {self.sens.shape} do not fit, expected (T, K) and (C, *X) with 2 or 3 X"
            )
        if self.weights.shape != (len(self.phi), *self.shape):
            raise ValueError(f"mask has shape {self.weights.shape}, expected {(len(self.phi), *self.shape)}")
        if not (self.weights >= 0).all():
            raise ValueError(f"weights go down to {self.weights.min()}, expected 0 or more")

    @property
    def rank(self) -> int:
        """Number of coefficients K."""
        return int(self.phi.shape[1])

    @property
    def coeff_shape(self) -> tuple[int, ...]:
        """Shape (K, *X) of the coefficient images."""
        return (self.rank, *self.shape)

    @property
    def ksp_shape(self) -> tuple[int, ...]:
        """Shape (C, T, *X) of k-space."""
        return (len(self.sens), *self.weights.shape)

    def forward(self, coeff: NDArray[Any]) -> NDArray[Any]:
        """Return k-space (C, T, *X) of coefficient images (K, *X); without the weights, 0 where not sampled."""
        from scipy import fft

        coeff = self._checked(coeff, self.coeff_shape, "coeff")
        ksp = np.empty(self.ksp_shape, self.dtype)
        phi = self.phi.astype(self.dtype, copy=False)
        for sens, out in zip(self.sens, ksp, strict=True):
            image = fft.ifftshift(sens * coeff, axes=self._axes)
            image = fft.fftn(image, axes=self._axes, norm="ortho", workers=threads.count(), overwrite_x=True)
            values = fft.fftshift(image, axes=self._axes).reshape(self.rank, -1)
            for part in self._blocks():
                np.matmul(phi[part], values, out=out[part].reshape(-1, values.shape[1]))
                out[part] *= self.weights[part] > 0
        return ksp

    def adjoint(self, ksp: NDArray[Any]) -> NDArray[Any]:
        """Return coefficient images (K, *X) of k-space (C, T, *X): A^H W y; where weights are 0, any y."""
        from scipy import fft

        ksp = self._checked(ksp, self.ksp_shape, "ksp")
        coeff = np.zeros(self.coeff_shape, self.dtype)
        turned = self.phi.astype(self.dtype, copy=False).conj().T
        for sens, samples in zip(self.sens, ksp, strict=True):
            values = np.zeros(self.coeff_shape, self.dtype)
            for part in self._blocks():
                weights = self.weights[part]
                # what is not sampled may hold anything, NaN too
                weighted = np.multiply(weights, samples[part], out=np.zeros_like(samples[part]), where=weights > 0)
                values += np.tensordot(turned[:, part], weighted, axes=1)
            image = fft.ifftshift(values, axes=self._axes)
            image = fft.ifftn(image, axes=self._axes, norm="ortho", workers=threads.count(), overwrite_x=True)
            coeff += sens.conj() * fft.fftshift(image, axes=self._axes)
        return coeff

    def normal(self, coeff: NDArray[Any]) -> NDArray[Any]:
        """Return A^H W A of coefficient images (K, *X), by one K x K matrix for every point of k-space."""
        from scipy import fft

        coeff = self._checked(coeff, self.coeff_shape, "coeff")
        out = np.zeros(self.coeff_shape, self.dtype)
        n_threads, parts = threads.count(), self.mixing
        workers = max(1, n_threads // len(self.sens))
        rows = (1, self.rank, *parts.shape[2:])

        def one_coil(sens: NDArray[Any], image: NDArray[Any]) -> NDArray[Any]:
            np.multiply(sens, coeff, out=image)
            image = fft.fftn(image, axes=self._axes, workers=workers, overwrite_x=True)
            mix(image.reshape(rows), parts, 0)
            image = fft.ifftn(image, axes=self._axes, workers=workers, overwrite_x=True)
            return np.multiply(image, sens.conj(), out=image)

        # coils side by side, as many as threads, each in memory of its own; summed in order
        images = np.empty((min(n_threads, len(self.sens)), *self.coeff_shape), self.dtype)
        with ThreadPoolExecutor(n_threads) as pool:
            for start in range(0, len(self.sens), len(images)):
                for image in pool.map(one_coil, self.sens[start : start + len(images)], images):
                    out += image
        return out

    @cached_property
    def mixing(self) -> NDArray[Any]:
        """Upper triangle of sum_t w(t, k) conj(phi_ti) phi_tj, as `mix` takes it; computed at first use.

        The centre of k-space is at index 0: shifts of the image do not change a circular convolution,
        so `normal` transforms without any.
        """
        from scipy import fft

        row, column = np.triu_indices(self.rank)
        pairs = (self.phi[:, row].conj() * self.phi[:, column]).T
        factors = np.stack([pairs.real, pairs.imag] if np.iscomplexobj(pairs) else [pairs])
        total = np.zeros((*factors.shape[:2], *self.shape), self._real)
        for part in self._blocks():
            total += np.tensordot(factors[:, :, part], self.weights[part].astype(self._real, copy=False), axes=1)
        shifted = fft.ifftshift(total, axes=tuple(range(2, total.ndim)))
        return np.ascontiguousarray(shifted).reshape(*factors.shape[:2], -1, self.shape[-1])

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(1, 1 + len(self.shape)))

    def _blocks(self) -> Iterator[slice]:
        """Yield the frames, a few at a time: nothing but k-space itself is as large as all of them."""
        step = max(1, _BLOCK // int(np.prod(self.shape)))
        for start in range(0, len(self.phi), step):
            yield slice(start, start + step)

    def _checked(self, array: NDArray[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
        array = np.asarray(array, dtype=self.dtype)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
        return array
