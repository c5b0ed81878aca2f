r"""Cramer-Rao bounds of tissue parameters, before and after compression to a subspace.

With unit noise and M0 = 1, the bound of parameter i is B_u = 1 / ||j_i||^2, where j_i is the part
of ds/dtheta_i that is orthogonal to the signal (the derivative with respect to M0) and to all
other derivatives (Eq. 2-3 of the paper). In a subspace phi there are two compressed bounds:

    B_ac = 1 / ||phi^H j_i||^2                        approximate: orthogonalise, then compress
    B_ec = 1 / ||(phi^H ds/dtheta)_i,orthogonal||^2   exact: compress, then orthogonalise

B_u <= B_ac <= B_ec, and none of the three grows with the rank. What a subspace costs, as we read the paper:

    1 - ||phi^H s||^2 / ||s||^2    energy loss, Eq. (6), of each signal
    1 - B_u / B                    loss Delta B of a bound, Eq. (8), 0 to 1; B is B_ac or B_ec
    R = mean of B_u / B_ec         what is retained, Eq. (13): 1 minus the mean exact loss

A basis of rank K contains those of all lower ranks as its first columns. The ``by_rank`` functions give
the figures of all of them from one compression.

``fisher="complex"`` (the paper's) projects over the complex numbers, F = J^H J. ``fisher="real"``
projects over the reals with M0 as two real parameters, F = Re(J^H J) with the columns s and i s.
They differ where a parameter acts like a complex factor; for MRF-FISP they agree.

References
----------
Mao, Flassbeck, Gultekin, Asslaender, arXiv 2305.00326.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import orthogonal, threads
from .model import Parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

Fisher = Literal["real", "complex"]

DEPENDENT = 1e-8
"""A column whose orthogonal part is below this share of its norm depends on the others."""


@dataclass(frozen=True)
class Orthogonal:
    """Orthogonalised derivatives of a batch.

    Parameters
    ----------
    unit : complex array (B, I, T)
        Unit-norm orthogonal parts of the derivatives of the I parameters of interest;
        zero where the derivative depends on the others.
    norm : array (B, I)
        Their norms ||j_i||; zero where dependent.
    """

    unit: NDArray[np.complex128]
    norm: NDArray[np.float64]

    @property
    def bound(self) -> NDArray[np.float64]:
        """Cramer-Rao bounds (B, I) for unit noise and M0 = 1; infinite where dependent."""
        with np.errstate(divide="ignore"):
            return 1 / self.norm**2


def interesting(parameters: Sequence[Parameter]) -> list[int]:
    """Return the indices of the parameters that are not nuisances."""
    return [i for i, parameter in enumerate(parameters) if not parameter.nuisance]


def orthogonalise(
    signal: NDArray[Any], jac: NDArray[Any], *, targets: Sequence[int] | None = None, fisher: Fisher = "real"
) -> Orthogonal:
    """Return the parts of derivatives that are orthogonal to the signal and all other derivatives.

    Parameters
    ----------
    signal : complex array (B, T)
        Signals, in time or compressed.
    jac : complex array (B, P, T)
        Derivatives with respect to all parameters.
    targets : sequence of I ints, optional
        The parameters of interest; the others are projected out only. All if not given.
    fisher : {"real", "complex"}
        The field over which is projected.

    Raises
    ------
    ValueError
        Shapes do not fit, a value is not finite, `targets` are not distinct parameters, or `fisher` is
        neither of the two.

    Notes
    -----
    Columns are normalised first, so scales do not matter. A column that is zero or dependent (see
    `DEPENDENT`) is left out of the projection. An atom whose numbers are all imaginary (or real) has
    parts that are exactly so, at half the price. Arrays of complex128 in C order are not copied.
    """
    signal, jac = np.ascontiguousarray(signal, np.complex128), np.ascontiguousarray(jac, np.complex128)
    targets = _checked(signal, jac, targets, fisher)
    unit, norm = _solved(signal, jac, targets, fisher, signal.shape[1:], with_units=True)
    return Orthogonal(unit, norm[0])


@dataclass(frozen=True)
class Bounds:
    """Cramer-Rao bounds of a batch: uncompressed, approximately and exactly compressed.

    Arrays (B, I) for one basis, (K, B, I) for all ranks of a basis.
    """

    uncompressed: NDArray[np.float64]
    approximate: NDArray[np.float64]
    exact: NDArray[np.float64]


def bounds(
    signal: NDArray[Any],
    jac: NDArray[Any],
    phi: NDArray[Any],
    *,
    targets: Sequence[int] | None = None,
    fisher: Fisher = "real",
) -> Bounds:
    """Return B_u (Eq. 2-3), B_ac and B_ec of every atom in the subspace phi.

    Parameters
    ----------
    signal, jac, targets, fisher
        As in `orthogonalise`.
    phi : array (T, K)
        Orthonormal basis. With fewer coefficients than unknowns (M0, complex, and P real ones; over the reals
        a complex coefficient counts as two) the exact bound is infinite.

    Raises
    ------
    ValueError
        Shapes do not fit, or a value is not finite.
    """
    found = _bounds(signal, jac, phi, targets, fisher, np.shape(phi)[1:])
    return Bounds(found.uncompressed[0], found.approximate[0], found.exact[0])


def bounds_by_rank(
    signal: NDArray[Any],
    jac: NDArray[Any],
    phi: NDArray[Any],
    *,
    targets: Sequence[int] | None = None,
    fisher: Fisher = "real",
) -> Bounds:
    """Return what `bounds` does for phi[:, :1], phi[:, :2], .. phi, as arrays (K, B, I).

    Parameters, and what is raised, are those of `bounds`. Each rank is orthogonalised for itself: the
    inverse of a Fisher matrix would lose its condition, which is large when the rank is just sufficient.
    """
    return _bounds(signal, jac, phi, targets, fisher, range(1, np.shape(phi)[-1] + 1))


def coefficients(rows: NDArray[Any], phi: NDArray[Any]) -> NDArray[np.complex128]:
    """Return phi^H s for rows s (..., T) and phi (T, K), as (..., K); in real arithmetic where phi is real.

    Rows that are all imaginary (or real) have coefficients that are exactly so in a real phi. What is
    below eps T^(1/2) ||s|| is rounding, and comes out as zero: a row that is orthogonal to phi has no direction there.
    """
    flat = np.reshape(rows, (-1, len(phi)))
    found = np.zeros((len(flat), phi.shape[1]), np.complex128)
    if np.iscomplexobj(phi):
        found[...] = flat @ phi.conj()
    else:
        for source, out in ((flat.real, found.real), (flat.imag, found.imag)):
            if source.any():
                # a product with a strided factor would not be left to BLAS
                out[...] = np.ascontiguousarray(source) @ phi
    rounding = float(np.finfo(float).eps) * np.sqrt(len(phi) * energy(flat))[:, None]
    for out in (found.real, found.imag):
        out[np.abs(out) < rounding] = 0
    return found.reshape(*rows.shape[:-1], phi.shape[1])


def bounds_of_coefficients(
    uncompressed: NDArray[np.float64],
    unit: NDArray[Any],
    signal: NDArray[Any],
    jac: NDArray[Any],
    *,
    ranks: Sequence[int],
    targets: Sequence[int],
    fisher: Fisher,
) -> Bounds:
    """Return the bounds (N, B, I) at N ranks from the coefficients of a batch.

    Parameters
    ----------
    uncompressed : array (B, I)
        B_u.
    unit, signal, jac : arrays (B, I, K), (B, K), (B, P, K)
        `coefficients` of `Orthogonal.unit`, of the signals and of the derivatives.
    ranks : sequence of N ints
        Numbers of coefficients, 1 to K.
    targets, fisher
        As in `orthogonalise`.
    """
    signal, jac = np.ascontiguousarray(signal, np.complex128), np.ascontiguousarray(jac, np.complex128)
    targets = _checked(signal, jac, targets, fisher)
    norm = _solved(signal, jac, targets, fisher, ranks, with_units=False)[1]
    kept = _energy_by_rank(unit)[np.asarray(ranks, int) - 1]
    with np.errstate(divide="ignore"):
        return Bounds(np.broadcast_to(uncompressed, norm.shape), uncompressed / kept, 1 / norm**2)


def crb_loss(uncompressed: NDArray[Any], compressed: NDArray[Any]) -> NDArray[np.float64]:
    """Return the loss of a bound by compression, 1 - B_u / B (Eq. 8), from 0 to 1.

    Where the parameter cannot be estimated even without compression (B_u infinite) nothing can
    be lost; the result is NaN there, to be left out of means.
    """
    with np.errstate(invalid="ignore"):
        # rounding may leave the compressed bound finite
        return np.where(np.isfinite(uncompressed), 1 - uncompressed / compressed, np.nan)


def energy_loss(signal: NDArray[Any], phi: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of the energy of each signal (B, T) outside of phi (T, K) (Eq. 6); NaN for a zero signal."""
    return energy_loss_by_rank(signal, phi)[-1]


def energy_loss_by_rank(signal: NDArray[Any], phi: NDArray[Any]) -> NDArray[np.float64]:
    """Return the energy losses (K, B) outside of phi[:, :1], phi[:, :2], .. phi (T, K)."""
    return energy_loss_of_coefficients(energy(signal), coefficients(signal, phi))


def energy(signal: NDArray[Any]) -> NDArray[np.float64]:
    """Return the energies ||s||^2 (B,) of signals (B, T)."""
    return np.sum(signal.real**2 + signal.imag**2, axis=-1)


def energy_loss_of_coefficients(whole: NDArray[np.float64], coeff: NDArray[Any]) -> NDArray[np.float64]:
    """Return the energy losses (K, B) at each rank of signals with energies `whole` (B,) and `coefficients` (B, K)."""
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - _energy_by_rank(coeff) / whole)


def _energy_by_rank(coeff: NDArray[Any]) -> NDArray[np.float64]:
    """Return the energy (K, ...) of the first 1, 2, .. K of coefficients (..., K)."""
    return np.cumsum(np.moveaxis(coeff.real**2 + coeff.imag**2, -1, 0), axis=0)


def _checked(signal: NDArray[Any], jac: NDArray[Any], targets: Sequence[int] | None, fisher: Fisher) -> list[int]:
    if fisher not in ("real", "complex"):
        raise ValueError(f"fisher is {fisher!r}, expected 'real' or 'complex'")
    if signal.ndim != 2 or jac.ndim != 3 or jac.shape[0] != len(signal) or jac.shape[2] != signal.shape[1]:
        raise ValueError(f"signal {signal.shape} and jac {jac.shape} do not fit, expected (B, T) and (B, P, T)")
    known = list(range(jac.shape[1]))
    chosen = known if targets is None else [int(i) for i in targets]
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise ValueError(f"targets are {chosen}, expected distinct numbers below {len(known)}")
    return chosen


def _solved(
    signal: NDArray[Any],
    jac: NDArray[Any],
    targets: Sequence[int],
    fisher: Fisher,
    lengths: Sequence[int],
    *,
    with_units: bool,
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Return the unit parts (B, I, T), or none, and norms (N, B, I) with the first so many frames alone."""
    n, n_targets = len(signal), len(targets)
    unit = np.zeros((n, n_targets if with_units else 0, signal.shape[1]), np.complex128)
    norm, valid = np.zeros((len(lengths), n, n_targets)), np.ones(n, bool)
    if n and signal.shape[1]:
        # numba compiles anew for arrays that cannot be written to: let them all be such
        pairs, jac_pairs = signal.view(np.float64), jac.view(np.float64)
        pairs.flags.writeable = jac_pairs.flags.writeable = False
        order = np.array([*(i for i in range(jac.shape[1]) if i not in targets), *targets], np.int64)
        problem = pairs, jac_pairs, order, n_targets, fisher == "complex", np.array(lengths, np.int64)
        # more pieces than threads, for atoms differ in price
        orthogonal.orthogonalise(*problem, DEPENDENT, min(n, 4 * threads.count()), unit.view(np.float64), norm, valid)
    if not valid.all():
        bad = np.flatnonzero(~valid)
        raise ValueError(f"signal or jac, squared, is not finite for {len(bad)} atoms, the first being atom {bad[0]}")
    return unit, norm


def _bounds(
    signal: NDArray[Any],
    jac: NDArray[Any],
    phi: NDArray[Any],
    targets: Sequence[int] | None,
    fisher: Fisher,
    ranks: Sequence[int],
) -> Bounds:
    full = orthogonalise(signal, jac, targets=targets, fisher=fisher)
    if np.ndim(phi) != 2 or len(phi) != np.shape(signal)[1] or not np.shape(phi)[1]:
        raise ValueError(f"phi has shape {np.shape(phi)}, expected (T, K) with T = {np.shape(signal)[1]}")
    parts = (coefficients(np.asarray(rows), np.asarray(phi)) for rows in (full.unit, signal, jac))
    chosen = range(np.shape(jac)[1]) if targets is None else targets
    return bounds_of_coefficients(full.bound, *parts, ranks=ranks, targets=chosen, fisher=fisher)
