"""From coefficient images to k-space and back.

    y_c(r, s) = sum_k phi(t_r, k) / sqrt(N)  sum_x sens_c(x) coeff_k(x) exp(-2 pi i k(r, s) . (x - n//2) / n)

`traj` is in cycles per field of view in the order of the image axes, N the number of voxels:
with this unitary scaling the noise of k-space is the noise of the images.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import threads
from .fine_grid import upsampling
from .kernel_cache import KernelCache
from .toeplitz import Toeplitz, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

_SINGLE, _DOUBLE = np.dtype(np.complex64), np.dtype(np.complex128)
# Samples that are spread together: one after the other thousands at the centre of k-space would round 1e-6 away
_TOGETHER = {"spread_max_sp_size": 2000}
# accuracy, and by how much the NUFFT's own grid is finer at least, see `fine_grid`: where spreading takes the time, ...
_SAMPLES: dict[Any, dict[str, Any]] = {
    _SINGLE: {"eps": 1e-5, "upsampfac": 1.75} | _TOGETHER,
    _DOUBLE: {"eps": 1e-10, "upsampfac": 2.0},
}
# ... and for the kernels, whose grid is so large that transforms do. A factor of 1.25 is faster still, but amplifies
# the rounding of single precision to 1e-4 of a kernel in 2-D and 1e-3 in 3-D, another one for every batch of readouts
_KERNEL: dict[Any, dict[str, Any]] = {
    _SINGLE: {"eps": 1e-5, "upsampfac": 1.5} | _TOGETHER,
    _DOUBLE: {"eps": 1e-10, "upsampfac": 2.0},
}


def coefficient_noise(n_samples: int, shape: tuple[int, ...], *, n_frames: int) -> float:
    """Return the noise of a coefficient for unit noise in k-space, per real component.

    sigma_coeff = sigma sqrt(T n_voxels / n_samples per coil) g, with sigma = 1 and g = 1.

    Parameters
    ----------
    n_samples : int
        Samples of a coil that are there.
    shape : tuple of int
        Image size X.
    n_frames : int
        Number of frames T.
    """
    return float(np.sqrt(n_frames * np.prod(shape) / n_samples))


class SubspaceOperator:
    """Linear operator A from coefficient images to k-space samples.

    Parameters
    ----------
    traj : array (R, S, ndim)
        Sample positions in cycles per field of view, in the order of X.
    frame : int array (R,)
        Frame of every readout, 0 to T - 1; any number of readouts per frame.
    phi : array (T, K)
        Temporal basis; real or complex.
    sens : complex array (C, *X)
        Coil sensitivities.
    shape : tuple of int, optional
        Image size X; that of `sens` if not given.
    weights : array (R, S), optional
        Weights w >= 0 of the samples in the objective 1/2 sum w |A c - y|^2; 0: missing.
    dtype : dtype
        complex64, or complex128 for tests and references.
    kernel_cache : KernelCache, optional
        Keeps the convolution kernel of `normal` on disk, for the next scan.

    Raises
    ------
    ValueError
        Shapes do not fit, a position is not finite, a frame lies outside of the basis, or a weight is negative.

    Notes
    -----
    `adjoint` is the adjoint for the weighted inner product of k-space, A^H W, so that
    `normal` = `adjoint` of `forward` = A^H W A.
    """

    def __init__(
        self,
        traj: ArrayLike,
        *,
        frame: ArrayLike,
        phi: NDArray[Any],
        sens: NDArray[Any],
        shape: tuple[int, ...] | None = None,
        weights: ArrayLike | None = None,
        dtype: Any = np.complex64,
        kernel_cache: KernelCache | None = None,
    ):
        self.dtype = np.dtype(dtype)
        self.kernel_cache = kernel_cache
        self._real = np.zeros(0, self.dtype).real.dtype
        self.traj = np.asarray(traj, dtype=self._real)
        self.frame = np.asarray(frame, dtype=np.intp)
        self.phi = phi.astype(self.dtype if np.iscomplexobj(phi) else self._real)
        self.sens = np.asarray(sens, dtype=self.dtype)
        self.shape = tuple(self.sens.shape[1:]) if shape is None else tuple(shape)
        n_readouts = self.traj.shape[:2]
        self.weights = np.ones(n_readouts, self._real) if weights is None else np.asarray(weights, dtype=self._real)
        if self.traj.ndim != 3 or self.traj.shape[2] != len(self.shape) or len(self.shape) not in (2, 3):
            raise ValueError(f"traj has shape {self.traj.shape}, expected (R, S, {len(self.shape)})")
        if self.sens.shape[1:] != self.shape:
            raise ValueError(f"sens has shape {self.sens.shape}, expected (C, {', '.join(map(str, self.shape))})")
        if self.frame.shape != (n_readouts[0],) or self.weights.shape != n_readouts:
            raise ValueError(
                f"frame {self.frame.shape} and weights {self.weights.shape} do not fit traj {self.traj.shape}"
            )
        if self.frame.size and not (self.frame.min() >= 0 and self.frame.max() < len(self.phi)):
            raise ValueError(f"frames {self.frame.min()} to {self.frame.max()} lie outside of 0 to {len(self.phi) - 1}")
        if not np.isfinite(self.traj).all():
            raise ValueError(f"traj holds {np.count_nonzero(~np.isfinite(self.traj))} values that are not finite")
        if not (self.weights >= 0).all():
            raise ValueError(f"weights go down to {self.weights.min()}, expected 0 or more")
        self._scale = 1 / np.sqrt(np.prod(self.shape))

    @property
    def rank(self) -> int:
        """Number of coefficients K."""
        return int(self.phi.shape[1])

    @property
    def coeff_shape(self) -> tuple[int, ...]:
        """Shape (K, *X) of the coefficient images."""
        return (self.rank, *self.shape)

    @property
    def ksp_shape(self) -> tuple[int, int, int]:
        """Shape (C, R, S) of k-space."""
        return (len(self.sens), *self.traj.shape[:2])

    def forward(self, coeff: NDArray[Any]) -> NDArray[Any]:
        """Return k-space (C, R, S) of coefficient images (K, *X); without the weights."""
        coeff = self._checked(coeff, self.coeff_shape, "coeff")
        ksp = np.zeros(self.ksp_shape, self.dtype)
        rows = self.phi.T[:, self.frame, None] * self._real.type(self._scale)
        images = np.zeros((self._batch, *self.shape), self.dtype)
        plan = self._plan(2, self.shape, self._batch, **_SAMPLES[self.dtype])
        for pairs in self._batches():
            for (coil, k), image in zip(pairs, images, strict=False):
                np.multiply(self.sens[coil], coeff[k], out=image)
            samples = plan.execute(images).reshape(self._batch, *self.traj.shape[:2])
            for (coil, k), part in zip(pairs, samples, strict=False):
                part *= rows[k]
                ksp[coil] += part
        return ksp

    def adjoint(self, ksp: NDArray[Any]) -> NDArray[Any]:
        """Return coefficient images (K, *X) of k-space (C, R, S): A^H W y; where weights are 0, any y."""
        coeff = np.zeros(self.coeff_shape, self.dtype)
        for coil, k, image in self._gridded(ksp):
            image *= self.sens[coil].conj()
            coeff[k] += image
        return coeff

    def add_adjoint(self, ksp: NDArray[Any], total: NDArray[Any]) -> None:
        """Add what every coil gives to `adjoint`, before its sensitivity is multiplied, to `total` (C, K, *X)."""
        for coil, k, image in self._gridded(ksp):
            total[coil, k] += image

    def _gridded(self, ksp: NDArray[Any]) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield coil, coefficient and the image (*X) that they give, which may be changed."""
        ksp = self._checked(ksp, self.ksp_shape, "ksp")
        rows = self.phi.conj().T[:, self.frame, None] * self._real.type(self._scale)
        weighted = np.zeros(self.traj.shape[:2], self.dtype)
        strengths = np.zeros((self._batch, *weighted.shape), self.dtype)
        present = self.weights > 0
        plan = self._plan(1, self.shape, self._batch, **_SAMPLES[self.dtype])
        for pairs in self._batches():
            for (coil, k), strength in zip(pairs, strengths, strict=False):
                if k == 0:  # what is missing may hold anything, NaN too
                    np.multiply(self.weights, ksp[coil], out=weighted, where=present)
                np.multiply(rows[k], weighted, out=strength)
            images = plan.execute(strengths.reshape(self._batch, -1)).reshape(self._batch, *self.shape)
            for (coil, k), image in zip(pairs, images, strict=False):
                yield coil, k, image

    @property
    def _batch(self) -> int:
        """Number of transforms of one call of FINUFFT: more than one a thread are not faster, but take memory."""
        return min(threads.count(), self.rank * len(self.sens))

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the pairs of coil and coefficient, as many as go through one NUFFT; the last ones may be fewer."""
        pairs = list(np.ndindex(len(self.sens), self.rank))
        for start in range(0, len(pairs), self._batch):
            yield pairs[start : start + self._batch]

    def normal(self, coeff: NDArray[Any]) -> NDArray[Any]:
        """Return A^H W A of coefficient images (K, *X), by convolution; see `toeplitz`."""
        return self.toeplitz.normal(self._checked(coeff, self.coeff_shape, "coeff"), self.sens)

    @cached_property
    def toeplitz(self) -> Toeplitz:
        """The convolution kernel of this trajectory, weights and basis; computed, or read, at first use."""
        if self.kernel_cache is None:
            return Toeplitz(self.kernel(), self.rank)
        facts = [self.traj, self.frame, self.weights, self.phi, self.shape, *_KERNEL[self.dtype].values()]
        return Toeplitz(self.kernel_cache.get(facts, self.kernel), self.rank)

    def kernel(self, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the transformed kernel, as `Toeplitz` takes it; added to `out` if given, which is that of others."""
        modes = tuple(2 * n for n in self.shape)

        def psf_of(rows: slice) -> Callable[[NDArray[Any], NDArray[Any]], object]:
            # modeord: lag 0 at index 0, where the transform of the kernel wants it
            plan = self._plan(1, modes, 1, rows=rows, modeord=1, **_KERNEL[self.dtype])

            def psf(strength: NDArray[Any], lags: NDArray[Any]) -> None:
                strength *= self._real.type(self._scale**2)
                plan.execute(strength.ravel(), out=lags)

            return psf

        return parts_of(psf_of, self.phi, self.frame, self.weights, self.shape, out=out)

    def _plan(
        self, kind: int, modes: tuple[int, ...], n_transforms: int, *, rows: slice = slice(None), **options: Any
    ) -> Any:
        """Plan a NUFFT between the samples of some readouts and a grid of `modes`; not kept, for it is large."""
        import finufft

        options["upsampfac"] = upsampling(modes, options["upsampfac"])
        plan = finufft.Plan(
            kind, modes, n_trans=n_transforms, isign=1 if kind == 1 else -1, dtype=self.dtype.name,
            nthreads=threads.count(), **options,
        )  # fmt: skip
        # one voxel is 1/n of the field of view, however many lags the grid holds
        along = (self.traj[rows, :, axis].ravel() for axis in range(len(self.shape)))
        plan.setpts(
            *(
                np.multiply(k, 2 * np.pi / n, dtype=np.float64).astype(self._real)
                for k, n in zip(along, self.shape, strict=True)
            )
        )
        return plan

    def _checked(self, array: NDArray[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
        array = np.asarray(array, dtype=self.dtype)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
        return array
