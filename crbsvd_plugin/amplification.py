r"""What a scan makes of the noise, and of the energy outside of the subspace: errors of the parameters, rank by rank.

The scan is y = A s + n: A takes the signals s (T, *X) of all frames to k-space, n is circular noise of sigma per real
component. For rank K let phi be the first K columns of a basis, A_K = A phi, and R_K the reconstruction, least squares
by some iterations of conjugate gradients from zero. It gives coefficients

    c = R_K y = phi^H s + delta + e,    delta = R_K A s - phi^H s,    e = R_K (A s + n) - R_K A s

- e is the noise, by pseudo-replicas (`recon.replicas`): one draw of n, the same for all ranks, gives one of e.
- delta is the leak. With r = (1 - phi phi^H) s it is R_K A r + (R_K A_K - 1) phi^H s. The first part is what the
  energy outside of the subspace becomes: phi^H r = 0 over all frames, so of fully sampled frames nothing, but over the
  few frames that a cell of k-space was sampled in, it does not cancel. The second is what the iterations leave, zero
  once they have converged. Together with the noise, which early stopping lowers, they are the error of that
  reconstruction; with many iterations the first remains.

A fit that weighs all coefficients alike (matching, least squares) is moved, to first order (`fit.spread`), by

    d theta = F^-1 Re(J^H dc),    F = Re(J^H J),

J the compressed derivatives of s(theta) with respect to theta, and to the complex M0. Row i of F^-1 J^H is
j_i^H / ||j_i||^2, j_i the part of column i that is orthogonal to all others. So in each voxel the noise is
sqrt(j_i^H C j_i) / ||j_i||^2 with C = E[e e^H] / 2, per real component: for C = sigma^2 the exact compressed
Cramer-Rao bound, sigma sqrt(B_ec); and the bias is Re(j_i^H delta) / ||j_i||^2. All parameters of the model
count as unknown, as in the bounds. Both are relative to the value of the parameter in the voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import crb
from .basis import Basis
from .encoding import SubspaceOperator, coefficient_noise
from .recon import solve
from .recon.replicas import white_noise
from .sampling import Sampling
from .still import Still
from .tangents import compressed_tangents
from .toeplitz import Toeplitz

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 8


@dataclass(frozen=True)
class Errors:
    """Relative errors of I parameters in V voxels, at one rank; infinite where the coefficients are too few.

    Parameters
    ----------
    noise : array (N, V, I)
        Variances that N replicas say; their mean is the variance.
    bias : array (V, I)
        Bias.
    """

    noise: NDArray[np.float64]
    bias: NDArray[np.float64]


class Ranks:
    """Least squares in the first 1, 2, .. K columns of a basis, from one right-hand side and one kernel.

    Those of fewer columns are the first ones of A^H y, and a part of the kernel.

    Parameters
    ----------
    operator : SubspaceOperator
        That of all K columns.
    iterations : int
        Of conjugate gradients.
    tolerance : float
        Of `recon.solve`.
    """

    def __init__(self, operator: SubspaceOperator, *, iterations: int, tolerance: float = 0.0):
        self.operator = operator
        self._solve = partial(solve, iterations=iterations, tolerance=tolerance)
        self._column = np.triu_indices(operator.rank)[1]

    def images(self, right: NDArray[Any], rank: int) -> NDArray[Any]:
        """Return the coefficient images (rank, *X) of A^H y (K, *X)."""
        return self._solve(self._normal(rank), np.ascontiguousarray(right[:rank]))

    def _normal(self, rank: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        whole = self.operator.toeplitz
        if rank < self.operator.rank:
            # the upper triangle is row by row, so what is left of it is too
            whole = Toeplitz(np.ascontiguousarray(whole.parts[:, self._column < rank]), rank)
        return partial(whole.normal, sens=self.operator.sens)

    def changes(
        self, right: NDArray[Any], noises: Sequence[NDArray[Any]], rank: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the images of A^H y, and how they change (N, rank, *X) where A^H n is added.

        A difference about these data, because iterations that stop early depend on them, see `recon.replicas`.
        """
        coeff = self.images(right, rank)
        return coeff, np.array([self.images(right + noise, rank) - coeff for noise in noises])


def rows(signal: NDArray[Any], jac: NDArray[Any], targets: Sequence[int]) -> NDArray[np.complex128]:
    """Return the rows j_i / ||j_i||^2 (B, I, K) of F^-1 J^H, conjugated, for M0 = 1; NaN where there is no estimate.

    Parameters
    ----------
    signal, jac : arrays (B, K), (B, P, K)
        Compressed signals and derivatives.
    targets : sequence of I ints
        The parameters of interest.
    """
    found = crb.orthogonalise(signal, jac, targets=targets)
    there = found.norm[..., None] > 0
    return np.divide(found.unit, found.norm[..., None], out=np.full(found.unit.shape, np.nan + 0j), where=there)


def sigma_of(sampling: Sampling, snr: float, *, n_frames: int) -> float:
    """Return the noise of k-space per real component for an SNR of the coefficients, M0 / sigma_coeff, of M0 = 1."""
    return 1 / (snr * coefficient_noise(sampling.n_samples, sampling.shape, n_frames=n_frames))


def errors(
    sampling: Sampling,
    still: Still,
    basis: Basis,
    *,
    targets: Sequence[int],
    snr: float,
    n_replicas: int,
    iterations: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
    dtype: Any = np.complex64,
    tolerance: float = 0.0,
) -> dict[int, Errors]:
    """Return the errors of ranks 1 to K.

    Parameters
    ----------
    sampling : Sampling
        Where and when is sampled.
    still : Still
        What is scanned.
    basis : Basis
        Of rank K; says what sequence it is for.
    targets : sequence of I ints
        The parameters of interest.
    snr : float
        M0 / sigma_coeff for M0 = 1.
    n_replicas, iterations, seed
        Replicas N; iterations of the reconstruction; seed of the noise.
    progress : callable, optional
        Called with 1 after each rank.
    dtype, tolerance
        Of operator and iterations, for references.
    """
    at = partial(
        SubspaceOperator, sampling.traj, frame=sampling.frame, sens=still.sens, weights=sampling.weights, dtype=dtype
    )
    ranks = Ranks(at(phi=basis.phi), iterations=iterations, tolerance=tolerance)
    operator, right = ranks.operator, np.zeros(ranks.operator.coeff_shape, dtype)
    for start in range(0, len(still.coeff), _BLOCK):
        part = slice(start, start + _BLOCK)
        right += operator.adjoint(at(phi=still.phi[:, part]).forward(still.coeff[part]))
    truth = np.tensordot(basis.phi.conj().T @ still.phi, still.coeff, axes=1)
    rng = np.random.default_rng(seed)
    sigma = sigma_of(sampling, snr, n_frames=basis.n_frames)
    noises = [sigma * operator.adjoint(white_noise(rng, operator.ksp_shape)) for _ in range(n_replicas)]
    signal, jac = compressed_tangents(still.theta, basis=basis)
    found = {}
    for rank in range(1, basis.rank + 1):
        moves = (
            rows(signal[:, :rank], jac[:, :, :rank], targets) / (still.m0[:, None] * still.theta[:, targets])[..., None]
        )
        if np.isnan(moves).all():
            n_voxels = len(still.voxels)
            nothing = np.full((n_replicas, n_voxels, len(targets)), np.inf)
            found[rank] = Errors(nothing, nothing[0])
        else:
            coeff, changes = ranks.changes(right, noises, rank)
            found[rank] = Errors(*_moved(moves, coeff - truth[:rank], changes, still.voxels))
        if progress is not None:
            progress(1)
    return found


def _moved(
    moves: NDArray[np.complex128], change: NDArray[Any], changes: NDArray[Any], voxels: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variances (N, V, I) of what noise does, and the bias (V, I)."""
    systematic = np.einsum("vik,kv->vi", moves.conj(), change.reshape(len(change), -1)[:, voxels]).real
    noise = np.einsum("vik,nkv->nvi", moves.conj(), changes.reshape(*changes.shape[:2], -1)[..., voxels])
    # both quadratures: a phase of M0 would turn one into the other
    variance = np.abs(noise) ** 2 / 2
    return np.where(np.isnan(variance), np.inf, variance), np.where(np.isnan(systematic), np.inf, systematic)
