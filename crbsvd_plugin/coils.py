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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import bart, threads
from .encoding import SubspaceOperator
from .errors import UserError
from .jit import foreign_kernels
from .recon.bart_files import columns
from .recon.cg import conjugate_gradients
from .trajectory import centre

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
    noise = np.asarray(noise, dtype=np.complex128)
    n_coils, n_samples = noise.shape
    if n_samples < 2 * n_coils:
        raise UserError(f"noise scan has {n_samples} samples for {n_coils} coils, expected at least {2 * n_coils}")
    if not np.isfinite(noise).all():
        raise UserError(f"noise scan holds {np.count_nonzero(~np.isfinite(noise))} non-finite values; remove it")
    sigma = np.sqrt(np.mean(np.abs(noise) ** 2, axis=1) / 2)
    scaled = noise / np.where(sigma > 0, sigma, 1)[:, None]
    correlation = scaled @ scaled.conj().T / (2 * n_samples)
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
    images = _coil_images(ksp, traj, frame=frame, phi=phi[:, :1], shape=shape, weights=weights)
    grid = tuple(min(_MAP_SIZE[len(shape)], n) for n in shape)
    if espirit == "bart":
        grid = tuple(n + n % 2 for n in grid)  # its Fourier transform has its centre beside the voxel for odd sizes
    maps = _espirit(images, grid, _ecalib if espirit == "bart" else _espirit_of_sigpy)
    full = _resized(maps, shape)
    return (full / np.linalg.norm(full, axis=0)).astype(np.complex64)


def _coil_images(
    ksp: NDArray[Any],
    traj: NDArray[Any],
    *,
    frame: NDArray[np.intp],
    phi: NDArray[Any],
    shape: tuple[int, ...],
    weights: NDArray[Any] | None,
) -> NDArray[Any]:
    """Return low-resolution images (C, *X) of one coefficient, by CG per coil."""
    small, kept, weights = centre(traj, shape, weights=weights)
    sens = np.ones((1, *small), np.complex64)
    operator = SubspaceOperator(traj[:, kept], frame=frame, phi=phi, sens=sens, weights=weights)
    rights = (operator.adjoint(samples[None, :, kept]) for samples in ksp)
    return np.stack(
        [conjugate_gradients(operator.normal, right, lam=0.0, iterations=_ITERATIONS)[0] for right in rights]
    )


def _espirit(images: NDArray[Any], shape: tuple[int, ...], estimate: _Estimate) -> NDArray[Any]:
    """Return ESPIRiT maps (C, *shape) of low-resolution coil images, defined everywhere."""
    axes = tuple(range(1, images.ndim))
    centred = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(images, axes=axes), axes=axes, norm="ortho"), axes=axes)
    ksp = np.zeros((len(images), *shape), np.complex64)
    middle = (slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(shape, images.shape[1:], strict=True))
    ksp[(slice(None), *middle)] = centred
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
