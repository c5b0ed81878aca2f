r"""What bases lose with exact Cramer-Rao bounds, and how that changes with the basis.

CRB-SVD minimises sum_b factor_b loss_b over orthonormal phi (T, K), where a block b is the signals or a
parameter of a tissue class, and the loss of a parameter that of its approximate bound B_ac. Here it is that of
the exact one, B_ec, which has no singular value decomposition.

Let x_a = phi^H m_a be the compressed columns of a fingerprint (signal, i times the signal where Fisher matrices are
real, derivatives), and F_ab = x_a^H x_b. The part of x_i that is orthogonal to the others is o_i = sum_a v_a x_a,
v = F^-1 e_i / (F^-1)_ii, and h_i = ||o_i||^2 = 1 / B_ec. As o_i is orthogonal to all other x_a and v_i = 1,

    d h_i = 2 Re <o_i, sum_a v_a d x_a>,    so the gradient of the loss 1 - B_u h_i is -2 B_u (sum_a v_a m_a) o_i^H

The dual vectors d_a = X F^-1 e_a, which `orthogonal` gives for all columns at once, make v_a = h_i d_a^H d_i and
o_i = h_i d_i. The loss depends on the span of phi alone. Where K is too small for any column to be
independent of the others, it is 1 and its gradient 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import crb
from .gram import outer
from .model import Batch
from .weighting import SIGNAL, Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORST = 0.1
"""The share of the fingerprints that counts where the worst of them shall lose least."""

Price = Callable[[float, float], tuple[float, float, float]]
"""Energy loss and CRB loss to what they cost, and the derivatives of that."""

# fingerprints whose compressed columns are worked on at once
_PIECE = 2048


@dataclass(frozen=True)
class Reduced:
    """Fingerprints in a few dimensions: all that the bounds of bases within these need.

    Parameters
    ----------
    label : str
        Tissue class.
    columns : array (N, 1 + P, r)
        Signal and derivatives, each of unit norm, in r dimensions.
    unit : array (N, I, r) or None
        The orthogonalised derivatives of the parameters of interest, likewise.
    energy : array (N,)
        ||s||^2.
    kept : array (N, I)
        1 / B_u of derivatives of unit norm; 0 where a parameter cannot be estimated.
    weight : float
        How much each fingerprint counts.
    """

    label: str
    columns: NDArray[Any]
    unit: NDArray[Any] | None
    energy: NDArray[np.float64]
    kept: NDArray[np.float64]
    weight: float

    def every(self, step: int) -> Reduced:
        """Return every so-manieth fingerprint, which stands for so many."""
        unit = None if self.unit is None else self.unit[::step]
        parts = self.columns[::step], unit, self.energy[::step], self.kept[::step]
        return Reduced(self.label, *parts, self.weight * step)


def reduced(
    batch: Batch,
    columns: NDArray[np.float64],
    *,
    targets: Sequence[int],
    fisher: crb.Fisher,
    with_units: bool = False,
) -> Reduced:
    """Return a batch in the dimensions of orthonormal real columns (T, r).

    A fingerprint may be turned by any phase: those that are all imaginary become real, and real arrays take half.

    Raises
    ------
    ValueError
        The batch has no derivatives.
    """
    if batch.jac is None:
        raise ValueError("batch has no derivatives")
    rows = np.concatenate([batch.signal[:, None], batch.jac], axis=1)
    norm = np.sqrt(crb.energy(rows))
    found = crb.orthogonalise(batch.signal, batch.jac, targets=targets, fisher=fisher)
    small = crb.coefficients(rows, columns) / np.where(norm > 0, norm, 1.0)[..., None]
    turn = np.where(small.real.any(axis=(1, 2)), 1, -1j)[:, None, None]
    unit = _real_where(crb.coefficients(found.unit, columns) * turn) if with_units else None
    length = np.where(norm > 0, norm, np.inf)[:, 1:][:, targets]
    kept = (found.norm / length) ** 2
    return Reduced(batch.label, _real_where(small * turn), unit, norm[:, 0] ** 2, kept, batch.weight)


def _real_where(rows: NDArray[np.complex128]) -> NDArray[Any]:
    return rows if rows.imag.any() else rows.real.copy()


class ExactLoss:
    """Energy loss and mean exact CRB loss of bases, and what they cost together.

    Parameters
    ----------
    parts : sequence of Reduced
        The fingerprints.
    factors : mapping
        What the squared loss of every block counts, see `Weighting.factors`.
    names : sequence of I str
        The parameters of interest.
    targets : sequence of I ints
        Which derivatives are theirs.
    fisher : {"real", "complex"}
        See `crb`.
    worst : bool
        Of every parameter the worst `WORST` of all fingerprints count, in place of all.

    Raises
    ------
    ValueError
        There are no fingerprints.
    """

    def __init__(
        self,
        parts: Sequence[Reduced],
        factors: Mapping[Block, float],
        names: Sequence[str],
        *,
        targets: Sequence[int],
        fisher: crb.Fisher,
        worst: bool = False,
    ):
        if not parts:
            raise ValueError("there are no fingerprints to lose anything")
        self.fisher: crb.Fisher = fisher
        self.worst = worst
        self._targets = [1 + i for i in targets]
        self._columns = _halves([part.columns for part in parts])
        units = [part.unit for part in parts if part.unit is not None]
        self._units = _halves(units) if len(units) == len(parts) else None
        self._kept = np.concatenate([part.kept for part in parts])
        signal = np.concatenate([factors[part.label, SIGNAL] * part.weight * part.energy for part in parts])
        counts = [np.full(part.kept.shape, part.weight) * [factors[part.label, n] for n in names] for part in parts]
        weights = np.where(self._kept > 0, np.concatenate(counts), 0.0)
        self._signal, self._weights = signal / (signal.sum() or 1.0), weights / (weights.sum() or 1.0)

    @property
    def dimension(self) -> int:
        """Number of dimensions r."""
        return int(self._columns[0].shape[2])

    def losses(self, phi: NDArray[Any]) -> tuple[float, float]:
        """Return the share of energy outside of orthonormal phi (r, K), and the mean exact CRB loss."""
        return self._totals(*self._at(phi))

    def __call__(self, phi: NDArray[Any], price: Price) -> tuple[float, NDArray[Any]]:
        """Return what phi (r, K) costs, and the gradient G (r, K) of that.

        d cost = Re <G, d phi> for any change of phi that keeps it orthonormal, real where phi is real.
        """
        solved, weights = self._at(phi)
        cost, by_energy, by_crb = price(*self._totals(solved, weights))
        gradient = np.zeros_like(phi)
        share = by_crb * np.divide(weights, self._kept, out=np.zeros_like(weights), where=self._kept > 0)
        for piece, part in zip(self._pieces, solved, strict=True):
            factor = np.einsum("nai,ni,nik->nak", part.v, share[piece], part.o.conj(), optimize=True)
            factor[:, 0] += by_energy * self._signal[piece][:, None] * part.signal.conj()
            gradient -= 2 * _pulled(self._columns, piece, factor, np.iscomplexobj(phi))
        return cost, gradient

    def approximate_gram(self, at: NDArray[Any], shares: tuple[float, float]) -> tuple[NDArray[Any], float]:
        """Return the Gram matrix (r, r) of what counts at a basis, with approximate bounds, and the weighted total.

        Of the total a basis q keeps tr(q^H gram q), and costs no less than the rest. Where the worst fingerprints
        count, its own cost it no less than those of another basis.

        Raises
        ------
        ValueError
            The fingerprints were reduced without their orthogonalised derivatives.
        """
        if self._units is None:
            raise ValueError("fingerprints have no orthogonalised derivatives, expected `reduced(.., with_units=True)`")
        _, weights = self._at(at)
        signal = [half[:, 0] * np.sqrt(shares[0] * self._signal)[:, None] for half in self._columns]
        units = [(half * np.sqrt(shares[1] * weights)[..., None]).reshape(-1, self.dimension) for half in self._units]
        conjugate = not np.iscomplexobj(at)
        gram = outer(signal, self.dimension, conjugate) + outer(units, self.dimension, conjugate)
        return gram, float(shares[0] * self._signal.sum() + shares[1] * weights.sum())

    @property
    def _pieces(self) -> list[slice]:
        return [slice(start, start + _PIECE) for start in range(0, len(self._signal), _PIECE)]

    def _at(self, phi: NDArray[Any]) -> tuple[list[_Solved], NDArray[np.float64]]:
        """Return what is known of every piece at a basis, and what the losses (N, I) count there."""
        solved = [self._solved(piece, phi) for piece in self._pieces]
        return solved, self._counting(np.concatenate([part.loss for part in solved]))

    def _counting(self, loss: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what the loss of every fingerprint and parameter (N, I) counts, a sum of 1."""
        if not self.worst:
            return self._weights
        found = np.zeros_like(self._weights)
        for column, weights, out in zip(loss.T, self._weights.T, found.T, strict=True):
            order = np.argsort(-column, kind="stable")
            sorted_ = weights[order]
            before = np.cumsum(sorted_) - sorted_
            out[order] = np.clip(WORST * sorted_.sum() - before, 0, sorted_) / WORST
        return found

    def _totals(self, solved: Sequence[_Solved], weights: NDArray[np.float64]) -> tuple[float, float]:
        inside = sum(float(self._signal[p] @ crb.energy(s.signal)) for p, s in zip(self._pieces, solved, strict=True))
        lost = sum(float(np.sum(weights[p] * s.loss)) for p, s in zip(self._pieces, solved, strict=True))
        return max(0.0, float(self._signal.sum()) - inside), lost

    def _solved(self, piece: slice, phi: NDArray[Any]) -> _Solved:
        x = _compressed(self._columns, piece, phi)
        doubled = self.fisher == "real" and np.iscomplexobj(x)
        columns = np.concatenate([x, 1j * x[:, :1]], axis=1) if doubled else x
        # the signal is one of the columns: none is left that all others are orthogonalised to
        found = crb.orthogonalise(np.zeros(columns[:, 0].shape), columns, fisher=self.fisher)
        units = found.unit if np.iscomplexobj(x) else found.unit.real
        dual = units * np.divide(1, found.norm, out=np.zeros_like(found.norm), where=found.norm > 0)[..., None]
        h = found.norm[:, self._targets] ** 2
        mine = dual[:, self._targets]
        v = dual.conj() @ np.swapaxes(mine, 1, 2) * h[:, None]
        if self.fisher == "real":
            v = v.real
        if doubled:
            v = np.concatenate([v[:, :1] + 1j * v[:, -1:], v[:, 1:-1]], axis=1)
        kept = self._kept[piece]
        # rounding may leave a little more than there was
        loss = np.maximum(0.0, 1 - np.divide(h, kept, out=np.ones_like(h), where=kept > 0))
        return _Solved(x[:, 0], loss, v, mine * h[..., None])


@dataclass(frozen=True)
class _Solved:
    """Compressed signals (N, K), losses (N, I), and v (N, 1 + P, I) and o (N, I, K) of the module's docstring."""

    signal: NDArray[Any]
    loss: NDArray[np.float64]
    v: NDArray[Any]
    o: NDArray[Any]


def _halves(arrays: Sequence[NDArray[Any]]) -> list[NDArray[np.float64]]:
    """Return the real and, where any is complex, the imaginary part of all arrays, one after the other."""
    halves = [np.concatenate([array.real for array in arrays])]
    if any(np.iscomplexobj(array) for array in arrays):
        halves.append(np.concatenate([array.imag for array in arrays]))
    return halves


def _compressed(halves: Sequence[NDArray[np.float64]], piece: slice, phi: NDArray[Any]) -> NDArray[Any]:
    """Return phi^H m (n, a, K) of rows m (n, a, r), by real products."""
    rank = phi.shape[1]
    pair = [phi.real, phi.imag] if np.iscomplexobj(phi) else [phi]
    stacked = np.ascontiguousarray(np.concatenate(pair, axis=1))
    found = [half[piece] @ stacked for half in halves]
    if len(found) == len(pair) == 1:
        return found[0]
    x = found[0][..., :rank] + 0j
    if len(pair) == 2:
        x.imag -= found[0][..., rank:]
    if len(found) == 2:
        x.imag += found[1][..., :rank]
        if len(pair) == 2:
            x.real += found[1][..., rank:]
    return x


def _pulled(halves: Sequence[NDArray[np.float64]], piece: slice, factor: NDArray[Any], whole: bool) -> NDArray[Any]:
    """Return sum m f^T (r, K) over rows m (n, a, r) and f (n, a, K), or its real part, by real products."""
    rows = [half[piece].reshape(-1, half.shape[2]).T for half in halves]
    parts = [np.ascontiguousarray(part).reshape(-1, factor.shape[2]) for part in (factor.real, factor.imag)]
    found = rows[0] @ parts[0]
    if len(rows) == 2:
        found -= rows[1] @ parts[1]
    if not whole:
        return found
    imaginary = rows[0] @ parts[1]
    if len(rows) == 2:
        imaginary += rows[1] @ parts[0]
    return found + 1j * imaginary
