r"""How far estimates scatter, and what a fit leaves of the coefficients.

For c = M0 phi^H s(theta) + n an unweighted fit (matching, least squares) is moved by the noise, to first order, by

    delta x = F^-1 Re(J^H n),    F = Re(J^H J)

with the columns s and i s (amplitude and phase of M0) and M0 ds/dtheta of J, all compressed. For circular noise,
E[n n^T] = 0 with C = E[n n^H] / 2, which is per real component,

    Cov(x) = F^-1 Re(J^H C J) F^-1 ,    (Cov(x))_ii = j_i^H C j_i / ||j_i||^4

where j_i is the part of column i that is orthogonal, over the reals, to all others: j_i / ||j_i||^2 is row i of
F^-1 J^H. For white noise, C = sigma^2, that is sigma^2 / ||j_i||^2: the exact compressed Cramer-Rao bound.
A complex-linear reconstruction of circular noise is circular; conjugate gradients are it to first order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import crb
from .result import Maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tangents = Callable[["NDArray[np.float64]"], "tuple[NDArray[Any], NDArray[Any]]"]
"""theta (B, P) -> phi^H s (B, K) and phi^H ds/dtheta (B, P, K), for M0 = 1."""

_VOXELS = 4096


@dataclass(frozen=True)
class Noise:
    """Noise of coefficient images, per real component.

    Parameters
    ----------
    sigma : float or array
        Standard deviation of white noise, for all voxels or of a shape that broadcasts to (*X).
    covariance : complex array (K (K + 1) / 2, *X), optional
        Upper triangle, row by row, of C = E[n n^H] / 2 in every voxel; used instead of `sigma`.
    """

    sigma: float | NDArray[Any] = 0.0
    covariance: NDArray[Any] | None = None

    def at(self, voxels: NDArray[np.intp], shape: tuple[int, ...], rank: int) -> NDArray[np.complex128]:
        """Return C (V, K, K) of some voxels of images of that shape."""
        if self.covariance is None:
            sigma = np.broadcast_to(np.asarray(self.sigma, np.float64), shape).reshape(-1)[voxels]
            return np.asarray(sigma[:, None, None] ** 2 * np.eye(rank), np.complex128)
        upper = self.covariance.reshape(len(self.covariance), -1)[:, voxels].T
        full = np.zeros((len(voxels), rank, rank), np.complex128)
        rows, columns = np.triu_indices(rank)
        full[:, columns, rows] = upper.conj()
        full[:, rows, columns] = upper
        return full


@dataclass(frozen=True)
class Spread:
    """What noise makes of a fit; 0 where nothing was fitted.

    Parameters
    ----------
    theta : float64 array (I, *X)
        Standard deviations of the I parameters that were fitted, SI units; infinite where there is no estimate: the
        coefficients are too few, or the derivative depends on others.
    m0 : float64 array (*X)
        That of |M0|.
    residual : float64 array (*X)
        ||c - M0 phi^H s|| / ||c||.
    chi2 : float64 array (*X)
        ||c - M0 phi^H s||^2 relative to its mean for this noise, 2 tr C - tr F^-1 Re(J^H C J): 1 where model and noise
        are right. Without noise, and where nothing is left for a residual, NaN.
    """

    theta: NDArray[np.float64]
    m0: NDArray[np.float64]
    residual: NDArray[np.float64]
    chi2: NDArray[np.float64]


def spread(
    maps: Maps,
    coeff: NDArray[Any],
    *,
    tangents: Tangents,
    fitted: Sequence[int],
    noise: Noise,
) -> Spread:
    """Return standard deviations of the estimates of an unweighted fit, and its residuals.

    Parameters
    ----------
    maps : Maps
        Estimates.
    coeff : complex array (K, *X)
        Coefficient images that they were fitted to.
    tangents : callable
        Signals and derivatives at the estimates; called once, with the distinct ones.
    fitted : sequence of I ints
        The parameters that were fitted; the others count as known.
    noise : Noise
        That of the coefficients.

    Raises
    ------
    ValueError
        The shapes do not fit.
    """
    rank, shape = len(coeff), maps.mask.shape
    if coeff.shape[1:] != shape:
        raise ValueError(f"coeff has shape {coeff.shape}, expected (K, {', '.join(map(str, shape))})")
    voxels = np.flatnonzero(maps.mask)
    values = maps.theta.reshape(len(maps.parameters), -1)[:, voxels].T.astype(np.float64)
    distinct, atom = np.unique(values, axis=0, return_inverse=True)
    theta = np.zeros((len(fitted), maps.mask.size))
    m0, residual = np.zeros(maps.mask.size), np.zeros(maps.mask.size)
    chi2 = np.full(maps.mask.size, np.nan)
    if len(voxels):
        signal, jac = tangents(distinct)
        jac = jac[:, list(fitted)]
        unit, norm, span = _directions(signal, jac)
        flat, scale = coeff.reshape(rank, -1), maps.m0.reshape(-1)
        for start in range(0, len(voxels), _VOXELS):
            part, at = voxels[start : start + _VOXELS], atom.reshape(-1)[start : start + _VOXELS]
            matrix = noise.at(part, shape, rank)
            with np.errstate(divide="ignore", invalid="ignore"):
                deviation = np.where(norm[at] > 0, np.sqrt(variances(unit[at], matrix)) / norm[at], np.inf)
                theta[:, part] = (deviation[:, :-1] / np.abs(scale[part])[:, None]).T
            m0[part] = deviation[:, -1]
            voxel = flat[:, part].T
            left = np.linalg.norm(voxel - scale[part][:, None] * signal[at], axis=1)
            residual[part] = left / np.linalg.norm(voxel, axis=1)
            whole = 2 * np.trace(matrix, axis1=1, axis2=2).real
            expected = whole - variances(span[at], matrix).sum(axis=1)
            # with as many unknowns as numbers, what remains is rounding
            remains = expected > crb.DEPENDENT * whole
            chi2[part] = np.where(remains, left**2 / np.where(remains, expected, 1), np.nan)
    parts = (theta.reshape(-1, *shape), m0.reshape(shape), residual.reshape(shape), chi2.reshape(shape))
    return Spread(*parts)


def _directions(
    signal: NDArray[Any], jac: NDArray[Any]
) -> tuple[NDArray[np.complex128], NDArray[np.float64], NDArray[np.complex128]]:
    """Return unit parts (B, I + 1, K) and norms of I derivatives and of s, and a real-orthonormal basis of all columns.

    Each part is orthogonal to all other columns; those that depend on others have the norm 0.
    """
    columns = np.concatenate([jac, 1j * signal[:, None], signal[:, None]], axis=1)
    targets = [*range(jac.shape[1]), jac.shape[1] + 1]
    # M0 is among the columns, so that its bound comes out too; there is no other scale
    found = crb.orthogonalise(np.zeros_like(signal), columns, targets=targets)
    size = np.linalg.norm(columns, axis=2, keepdims=True)
    scaled = columns / np.where(size > 0, size, 1)
    singular, right = np.linalg.svd(np.concatenate([scaled.real, scaled.imag], axis=2), full_matrices=False)[1:]
    right = right * (singular > crb.DEPENDENT * singular[:, :1])[..., None]
    rank = signal.shape[1]
    return found.unit, found.norm, right[..., :rank] + 1j * right[..., rank:]


def variances(vectors: NDArray[np.complex128], matrix: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return v^H C v (V, I) of vectors (V, I, K) and C (V, K, K): the variance of Re(v^H n)."""
    applied = np.einsum("vkl,vil->vik", matrix, vectors)
    return np.maximum(np.einsum("vik,vik->vi", vectors.conj(), applied).real, 0)
