"""Coil compression: fewer virtual coils that hold most of the signal.

The virtual coils are U^H y, where the columns of U (C, N) are the leading eigenvectors of
y y^H / n over the samples y (C, n) of the centre of k-space. These are the left singular vectors
of the data (Buehrer et al., doi 10.1002/mrm.21237; Huang et al., doi 10.1016/j.mri.2007.04.010).
U^H has orthonormal rows, so that noise which was white stays white.

The centre of k-space, not all of it: sensitivities are smooth, so coils differ there as much as
anywhere, and the signal stands so far above the noise that energy means signal. Calibration
readouts are measured there, so all of their samples count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .trajectory import centre

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compression_matrix(
    ksp: NDArray[Any],
    traj: NDArray[Any],
    *,
    coils: float,
    shape: tuple[int, ...],
    weights: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], float]:
    """Return the matrix U^H (N, C) that turns coils into virtual coils, and the share of energy that is lost.

    Parameters
    ----------
    ksp : complex array (C, R, S)
        Prewhitened data.
    traj, weights : array
        Positions and weights of the samples, as for `SubspaceOperator`.
    coils : float
        From 1 on, the number N; below 1, the share of energy to keep with as few as possible.
    shape : tuple of int
        Image size X.

    Returns
    -------
    matrix : complex array (N, C)
        Orthonormal rows, the virtual coil with most energy first.
    lost : float
        Energy of the centre of k-space outside of the virtual coils, relative to all.

    Raises
    ------
    UserError
        `coils` is neither a number of coils that there are nor a share, or no sample lies in the
        centre of k-space.
    """
    _check(coils, len(ksp))
    _, kept, present = centre(traj, shape, weights=weights)
    return _leading(_products(ksp[:, :, kept][:, present > 0]), coils)


def matrix_of(products: NDArray[Any], *, coils: float) -> tuple[NDArray[Any], float]:
    """Return what `compression_matrix` does, from the sum of y y^H (C, C) over prewhitened samples y.

    Raises
    ------
    UserError
        `coils` is neither a number of coils that there are nor a share.
    """
    _check(coils, len(products))
    return _leading(products, coils)


class CalibrationScans:
    """The calibration readouts of a stream: sums of y y^H for every slice, however many there are.

    Slices, because coils look different elsewhere; all other counters, such as that of a contrast, change nothing in
    what the coils see.
    """

    def __init__(self) -> None:
        self._products: dict[int, NDArray[np.complex128]] = {}

    def add(self, samples: NDArray[Any], number: int) -> None:
        """Add a readout (C, S) of the slice of this number.

        Raises
        ------
        UserError
            A value is not finite.
        """
        if not np.isfinite(samples).all():
            raise UserError("a calibration readout holds non-finite values; leave it out")
        products = _products(samples.astype(np.complex128))
        self._products[number] = self._products.get(number, 0) + products

    def of(self, number: int | None) -> NDArray[np.complex128] | None:
        """Return the sum (C, C) of a slice, None: of all slices; None if there is nothing but zeros."""
        found = [products for key, products in self._products.items() if number in (None, key)]
        total = sum(found[1:], found[0].copy()) if found else None
        return total if total is not None and total.any() else None


def central_coils(
    ksp: NDArray[Any],
    traj: NDArray[Any],
    *,
    n_coils: int,
    shape: tuple[int, ...],
    weights: NDArray[Any] | None = None,
) -> tuple[tuple[int, ...], slice, NDArray[np.float64], NDArray[Any]]:
    """Return the centre of k-space in a few virtual coils, in which delays and phases are found.

    Parameters
    ----------
    ksp, traj, shape, weights
        As for `compression_matrix`.
    n_coils : int
        Number of virtual coils N; fewer if there are not so many.

    Returns
    -------
    small, kept, weights
        Image size, samples and their weights (R, n), see `trajectory.centre`.
    samples : complex array (N, R, n)
        The data of these samples.

    Raises
    ------
    UserError
        No sample lies in the centre of k-space.
    """
    small, kept, present = centre(traj, shape, weights=weights)
    central = ksp[:, :, kept]
    matrix, _ = _leading(_products(central[:, present > 0]), min(n_coils, len(ksp)))
    return small, kept, present, np.tensordot(matrix, central, axes=1)


def _check(coils: float, n_coils: int) -> None:
    if not (0 < coils < 1 or (1 <= coils <= n_coils and coils == int(coils))):
        raise UserError(
            f"coils is {coils:g}, expected a whole number from 1 to {n_coils}, or a share of the energy between 0 and 1"
        )


def _products(samples: NDArray[Any]) -> NDArray[Any]:
    """Return y y^H (C, C) of samples y (C, n)."""
    return np.asarray(samples @ samples.conj().T)


def _leading(products: NDArray[Any], coils: float) -> tuple[NDArray[Any], float]:
    """Return matrix and loss of `compression_matrix` for sums of products (C, C)."""
    n_coils = len(products)
    energy, vectors = np.linalg.eigh(products)
    energy, vectors = energy[::-1], vectors[:, ::-1]
    held, total = np.cumsum(energy), energy.sum()
    n_kept = int(coils) if coils >= 1 else min(int(np.sum(held < coils * total)) + 1, n_coils)
    lost = float(energy[n_kept:].sum() / total) if total > 0 else 0.0
    return np.ascontiguousarray(vectors[:, :n_kept].conj().T), max(lost, 0.0)
