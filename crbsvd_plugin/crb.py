r"""Cramer-Rao bounds of tissue parameters, before and after compression to a subspace.

With unit noise and M0 = 1, the bound of parameter i is B_u = 1 / ||j_i||^2, where j_i is the part
of ds/dtheta_i that is orthogonal to the signal (the derivative with respect to M0) and to all
other derivatives (Eq. 2-3 of the paper). In a subspace phi there are two compressed bounds:

    B_ac = 1 / ||phi^H j_i||^2                        approximate: orthogonalise, then compress
    B_ec = 1 / ||(phi^H ds/dtheta)_i,orthogonal||^2   exact: compress, then orthogonalise

B_u <= B_ac <= B_ec. The loss of a bound is Delta B = 1 - B_u / B, from 0 to 1 (Eq. 8), that of the
signal's energy 1 - ||phi^H s||^2 / ||s||^2 (Eq. 6).

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

from .jit import kernel, prange
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
        Shapes do not fit, a value is not finite, or `fisher` is neither of the two.

    Notes
    -----
    Columns are normalised, then orthogonalised by modified Gram-Schmidt, twice; a column that
    is zero or dependent (see `DEPENDENT`) is left out of the projection.
    """
    if fisher not in ("real", "complex"):
        raise ValueError(f"fisher is {fisher!r}, expected 'real' or 'complex'")
    signal, jac = np.asarray(signal, np.complex128), np.asarray(jac, np.complex128)
    if signal.ndim != 2 or jac.ndim != 3 or jac.shape[0] != len(signal) or jac.shape[2] != signal.shape[1]:
        raise ValueError(f"signal {signal.shape} and jac {jac.shape} do not fit, expected (B, T) and (B, P, T)")
    if not (np.isfinite(signal).all() and np.isfinite(jac).all()):
        bad = np.flatnonzero(~(np.isfinite(signal).all(-1) & np.isfinite(jac).all((-2, -1))))
        raise ValueError(f"signal or jac is not finite for {len(bad)} atoms, the first being atom {bad[0]}")
    targets = list(range(jac.shape[1])) if targets is None else list(targets)
    others = [i for i in range(jac.shape[1]) if i not in targets]
    head = [signal] if fisher == "complex" else [signal, 1j * signal]
    # stacking follows the memory layout of its inputs, and a view as real numbers needs C order
    columns = np.ascontiguousarray(np.stack([*head, *(jac[:, i] for i in [*others, *targets])], axis=1))
    work = columns if fisher == "complex" else columns.view(np.float64)
    unit, norm = np.zeros((len(signal), len(targets), work.shape[2]), work.dtype), np.zeros((len(signal), len(targets)))
    _orthogonalise(work, len(targets), DEPENDENT, unit, norm)
    return Orthogonal(unit.view(np.complex128), norm)


@dataclass(frozen=True)
class Bounds:
    """Cramer-Rao bounds (B, I) of a batch: uncompressed, approximately and exactly compressed."""

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
        Orthonormal basis. With fewer coefficients than unknowns the exact bound is infinite.

    Raises
    ------
    ValueError
        Shapes do not fit, or a value is not finite.
    """
    full = orthogonalise(signal, jac, targets=targets, fisher=fisher)
    compressed = orthogonalise(signal @ phi.conj(), jac @ phi.conj(), targets=targets, fisher=fisher)
    kept = np.linalg.norm(full.unit @ phi.conj(), axis=-1)
    with np.errstate(divide="ignore"):
        return Bounds(full.bound, full.bound / kept**2, compressed.bound)


def crb_loss(uncompressed: NDArray[Any], compressed: NDArray[Any]) -> NDArray[np.float64]:
    """Return the loss of a bound by compression, 1 - B_u / B (Eq. 8), from 0 to 1.

    Where the parameter cannot be estimated even without compression (B_u infinite) nothing can
    be lost; the result is NaN there, to be left out of means.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - uncompressed / compressed)


def energy_loss(signal: NDArray[Any], phi: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of the energy of each signal (B, T) outside of phi (T, K) (Eq. 6); NaN for a zero signal."""
    kept = np.sum(np.abs(signal @ phi.conj()) ** 2, axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - kept / np.sum(np.abs(signal) ** 2, axis=-1))


@kernel(inline=True)
def _project_out(x, basis, n):  # type: ignore[no-untyped-def]
    """Remove the span of the first n orthonormal rows of `basis` from x, twice; return the norm."""
    for _ in range(2):
        for j in range(n):
            overlap = x[0] * 0
            for t in range(len(x)):
                overlap += np.conj(basis[j, t]) * x[t]
            for t in range(len(x)):
                x[t] -= overlap * basis[j, t]
    return np.sqrt(np.sum(np.abs(x) ** 2))


@kernel(parallel=True)
def _orthogonalise(columns, n_targets, tolerance, unit, norm):  # type: ignore[no-untyped-def]
    n_columns, length = columns.shape[1], columns.shape[2]
    n_fixed = n_columns - n_targets
    for atom in prange(columns.shape[0]):
        basis = np.empty((n_columns, length), columns.dtype)
        x = np.empty(length, columns.dtype)
        n_kept = 0
        for target in range(-1, n_targets):
            # the fixed columns once, then for each target all other targets, itself last
            count = n_fixed if target < 0 else n_targets
            n = 0 if target < 0 else n_kept
            for step in range(count):
                j = step if target < 0 else n_fixed + (target + 1 + step) % n_targets
                size = np.sqrt(np.sum(np.abs(columns[atom, j]) ** 2))
                if size == 0:
                    continue
                for t in range(length):
                    x[t] = columns[atom, j, t] / size
                rest = _project_out(x, basis, n)
                if rest <= tolerance:
                    continue
                if target >= 0 and step == count - 1:
                    for t in range(length):
                        unit[atom, target, t] = x[t] / rest
                    norm[atom, target] = rest * size
                else:
                    for t in range(length):
                        basis[n, t] = x[t] / rest
                    n += 1
            if target < 0:
                n_kept = n
