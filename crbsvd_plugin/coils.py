"""Coil noise and coil sensitivities.

Prewhitening: with the noise covariance Psi = E[n n^H] / 2 per real component and Psi = L L^H,
the data L^-1 y have unit noise in every real component and no correlation between coils
(Pruessmann et al., doi 10.1002/mrm.1241).

Sensitivities: images of the first basis coefficient are reconstructed coil by coil on a small
grid, and ESPIRiT (Uecker et al., doi 10.1002/mrm.24751; SigPy's or BART's) is applied to their
k-space. The maps are smooth, so they are interpolated to the full grid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import bart, threads
from .errors import UserError
from .jit import foreign_kernels
from .recon.bart_files import columns
from .recon.cg import conjugate_gradients
from .sums import Sums
from .trajectory import central, centre_size, refuse_without_centre

if TYPE_CHECKING:
    from numpy.typing import NDArray

Espirit = Literal["native", "bart"]
_Estimate = Callable[["NDArray[Any]", int], "NDArray[Any]"]  # of k-space (C, *small) and the width of its centre

# by the number of image axes: a volume has so many more points that 64 would take minutes
_MAP_SIZE = {2: 64, 3: 32}
_ITERATIONS = 10
_KERNEL = 6
_BART_WIDTH = 4
_THRESHOLD = 0.02  # what is signal, as a share of the largest singular value of the calibration matrix
_SINGULAR = 1e-10  # rounding of single precision leaves 1e-14 of an eigenvalue that is zero


def whitening_matrix(noise: NDArray[Any]) -> NDArray[np.complex128]:
    """Return L^-1 for noise samples (C, n): applied to data, sigma = 1 per real component.

    Raises
    ------
    UserError
        There are fewer samples than two per coil, a value is not finite, or a coil is dead or the same as another.
    """
    refuse_silent(noise, "noise scan")
    if not np.isfinite(noise).all():
        raise UserError(f"noise scan holds {np.count_nonzero(~np.isfinite(noise))} non-finite values; remove it")
    noise = np.asarray(noise, dtype=np.complex128)
    return whitening_of(noise @ noise.conj().T, noise.shape[1])


def whitening_of(products: NDArray[Any], n_samples: int) -> NDArray[np.complex128]:
    """Return the matrix of `whitening_matrix` for the sum of n n^H (C, C) over so many noise samples n.

    Raises
    ------
    UserError
        As for `whitening_matrix`.
    """
    n_coils = len(products)
    if n_samples < 2 * n_coils:
        raise UserError(f"noise scan has {n_samples} samples for {n_coils} coils, expected at least {2 * n_coils}")
    sigma = np.sqrt(products.diagonal().real / n_samples / 2)
    scale = 1 / np.where(sigma > 0, sigma, 1)
    correlation = products * np.outer(scale, scale) / (2 * n_samples)
    # the factorisation would also go through with what rounding leaves of a zero
    if np.linalg.eigvalsh(correlation)[0] < _SINGULAR:
        raise UserError("noise covariance is singular: two coils or more hold the same; leave them out")
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(np.linalg.cholesky(correlation), np.diag(1 / sigma), lower=True))


def refuse_silent(samples: NDArray[Any], what: str) -> None:
    """Refuse samples (C, ...) in which a coil holds only zeros, or all of them do; `what` is their name in messages.

    Raises
    ------
    UserError
        There is such a coil; the message names it.
    """
    silent = np.flatnonzero(~np.any(samples, axis=tuple(range(1, samples.ndim))))
    if len(silent) == len(samples):
        raise UserError(f"{what}: all samples are zero, expected data; write the file again")
    if len(silent):
        raise UserError(
            f"{what}: coil {silent[0]} holds only zeros ({len(silent)} of {len(samples)} coils do); "
            "write the file without it"
        )


def estimate_sensitivities(
    ksp: NDArray[Any],
    traj: NDArray[Any],
    *,
    frame: NDArray[np.intp],
    phi: NDArray[Any],
    shape: tuple[int, ...],
    weights: NDArray[Any] | None = None,
    espirit: Espirit = "native",
) -> NDArray[np.complex64]:
    """Return coil sensitivities (C, *X) from the data themselves.

    Parameters
    ----------
    ksp, traj, frame, weights
        Readouts, as for `SubspaceOperator`.
    phi : array (T, K)
        Basis; only its first column is used.
    shape : tuple of int
        Image size X.
    espirit : {"native", "bart"}
        ESPIRiT by SigPy, or by ``bart ecalib``; of the same images.

    Returns
    -------
    complex64 array
        Unit root-sum-of-squares everywhere; the phase is that of a virtual coil made of all
        coils, so that it is smooth where a single coil sees nothing.

    Raises
    ------
    UserError
        A coil holds only zeros, no sample lies in the centre of k-space, or BART is missing or fails.
    """
    refuse_silent(ksp, "raw data")
    low = LowResolution(shape, phi, len(ksp))
    low.add(ksp, traj, frame=frame, weights=weights)
    return low.sensitivities(espirit)


class LowResolution:
    """Images of the first coefficient, coil by coil, of readouts that come a batch at a time.

    Parameters
    ----------
    shape : tuple of int
        Image size X.
    phi : array (T, K)
        Basis; only its first column is used.
    n_coils : int
        Coils C.
    """

    def __init__(self, shape: tuple[int, ...], phi: NDArray[Any], n_coils: int):
        self.shape = shape
        # iterations without a penalty make much of rounding, and a batch rounds differently than all readouts
        self.sums = Sums(centre_size(shape), phi[:, :1], n_coils, dtype=np.complex128)
        self._empty = True

    def add(
        self,
        ksp: NDArray[Any],
        traj: NDArray[Any],
        *,
        frame: NDArray[np.intp],
        weights: NDArray[Any] | None = None,
    ) -> None:
        """Add readouts, given as for `SubspaceOperator`, as far as they pass the centre of k-space."""
        kept, weights = central(traj, self.shape, weights=weights)
        if kept.start < kept.stop:
            self.sums.add(ksp[:, :, kept], traj[:, kept], frame=frame, weights=weights)
            self._empty = False

    def sensitivities(self, espirit: Espirit = "native") -> NDArray[np.complex64]:
        """Return what `estimate_sensitivities` does.

        Raises
        ------
        UserError
            No sample lies in the centre of k-space, or BART is missing or fails.
        """
        if self._empty:
            refuse_without_centre(self.shape)
        grid = tuple(min(_MAP_SIZE[len(self.shape)], n) for n in self.shape)
        if espirit == "bart":
            # its Fourier transform has its centre beside the voxel for odd sizes
            grid = tuple(n + n % 2 for n in grid)
        maps = _espirit(self._images(), grid, _ecalib if espirit == "bart" else _espirit_of_sigpy)
        full = _resized(maps, self.shape)
        return (full / np.linalg.norm(full, axis=0)).astype(np.complex64)

    def _images(self) -> NDArray[Any]:
        """Return low-resolution images (C, *X), by CG per coil."""
        ones = np.ones((1, *self.sums.right.shape[2:]), np.complex128)
        assert self.sums.kernel is not None
        normal = partial(self.sums.kernel.toeplitz.normal, sens=ones)
        return np.concatenate(
            [conjugate_gradients(normal, right, lam=0.0, iterations=_ITERATIONS) for right in self.sums.right]
        )


def _espirit(images: NDArray[Any], shape: tuple[int, ...], estimate: _Estimate) -> NDArray[Any]:
    """Return ESPIRiT maps (C, *shape) of low-resolution coil images, defined everywhere."""
    axes = tuple(range(1, images.ndim))
    centred = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(images, axes=axes), axes=axes, norm="ortho"), axes=axes)
    ksp = np.zeros((len(images), *shape), np.complex64)
    middle = (slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(shape, images.shape[1:], strict=True))
    ksp[(slice(None), *middle)] = centred
    # where exact data leave nothing at all, SigPy divides by zero: give it what rounding to single precision leaves
    rounding = np.random.default_rng(0).standard_normal((2, *ksp.shape), np.float32)
    ksp += np.finfo(np.float32).eps * np.abs(ksp).max() * (rounding[0] + 1j * rounding[1])
    width = min(images.shape[1:])
    maps = estimate(ksp, width)
    # a virtual coil: the combination of coils that sees most of the image
    vectors = np.linalg.svd(images.reshape(len(images), -1), full_matrices=False)[0]
    reference = np.tensordot(vectors[:, 0].conj(), maps, axes=1)
    return np.asarray(maps * np.exp(-1j * np.angle(reference)))


def _espirit_of_sigpy(ksp: NDArray[Any], width: int) -> NDArray[Any]:
    with foreign_kernels():
        from sigpy.mri.app import EspiritCalib
    kernel = min(_KERNEL, width)
    return EspiritCalib(ksp, calib_width=width, kernel_width=kernel, thresh=_THRESHOLD, crop=0, show_pbar=False).run()


def _ecalib(ksp: NDArray[Any], width: int) -> NDArray[Any]:
    if width < _BART_WIDTH:
        raise UserError(
            f"bart ecalib needs {_BART_WIDTH} voxels along each axis of low-resolution images, here are {width}; "
            "take the native sensitivities"
        )
    kernel = min(_KERNEL, width // 2)  # a wider one it ends on by an assertion
    axes = (*ksp.shape[:0:-1], 1)[:3]
    centre_of, kernel_of = (":".join(str(min(size, n)) for n in axes) for size in (width, kernel))
    bart.find()
    with bart.temporary_folder() as folder:
        bart.write_cfl(folder / "ksp", columns(ksp))
        # one map, no voxel where it is cut off, and SigPy's null space: BART squares the singular values first
        command = [
            "ecalib",
            "-m",
            "1",
            "-c",
            "0",
            "-t",
            f"{_THRESHOLD**2:g}",
            "-r",
            centre_of,
            "-k",
            kernel_of,
            "ksp",
            "sens",
        ]
        bart.run(command, folder=folder, threads=threads.count())
        return bart.read_cfl(folder / "sens").T.reshape(ksp.shape)


def _resized(maps: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Interpolate smooth maps (C, *small) to another grid, centres n//2 aligned."""
    from scipy.ndimage import map_coordinates

    axes = [(np.arange(n) - n // 2) * (m / n) + m // 2 for n, m in zip(shape, maps.shape[1:], strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack([map_coordinates(image, grid, order=3, mode="nearest") for image in maps])
