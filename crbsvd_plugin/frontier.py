r"""Energy loss against approximate CRB loss: what CRB-SVD reaches, and what no basis goes below.

With energy loss E and approximate CRB loss L_ac, both as shares of their weighted totals, the least of a E + b L_ac
over bases of a rank is what the leading eigenvectors of a weighted Gram matrix leave (Ky Fan), and so is every point of
the convex frontier. As B_ac <= B_ec, that bounds the exact loss L from below as well:

    a E + b L >= min (a E + b L_ac),    and    L >= max over m >= 0 of min (L_ac + m E) - m e   where E <= e
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .fold import BasisAccumulator
from .gram import least
from .weighting import SIGNAL, Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

Weights = tuple[float, float]
"""What the energy loss and the CRB loss count, both as shares from 0 to 1."""

_LOW, _HIGH = -12.0, 12.0
"""Natural logarithm of the multiplier of the energy loss."""
_STEPS = 40
_TRIED = 12
_NEAR = 4.0


class Frontier:
    """The eigenvalue problems of one accumulator, one set of factors and one rank.

    Parameters
    ----------
    accumulator : BasisAccumulator
        All fingerprints.
    factors : mapping
        What the squared loss of every block counts, see `Weighting.factors`; where all signals or all parameters
        have none, they count nothing.
    rank : int
        Number of columns.
    columns : array (T, r)
        Orthonormal directions in which bases are looked for.
    """

    def __init__(
        self,
        accumulator: BasisAccumulator,
        factors: Mapping[Block, float],
        rank: int,
        columns: NDArray[np.float64],
    ):
        self.rank = rank
        kinds = [{key: f for key, f in factors.items() if (key[1] == SIGNAL) == signal} for signal in (True, False)]
        sums = [accumulator.weighed(kind) for kind in kinds]
        self._wholes = [whole for _, whole, _ in sums]
        self._grams = [gram / (whole or 1.0) for gram, whole, _ in sums]
        self._outside = [outside / (whole or 1.0) for _, whole, outside in sums]
        turn = accumulator.subspace.columns.T @ columns
        self._small = [turn.T @ gram @ turn for gram in self._grams]

    @property
    def shares(self) -> Weights:
        """What signals and parameters are of the weighted total: the weights of CRB-SVD."""
        return self._wholes[0] / sum(self._wholes), self._wholes[1] / sum(self._wholes)

    def least(self, weights: Weights) -> float:
        """Return what no basis costs less than, exact bounds or not."""
        gram = weights[0] * self._grams[0] + weights[1] * self._grams[1]
        outside = weights[0] * self._outside[0] + weights[1] * self._outside[1]
        return least(
            gram, sum(w for w, whole in zip(weights, self._wholes, strict=True) if whole), outside, [self.rank]
        )[0]

    def basis(self, weights: Weights) -> NDArray[Any]:
        """Return the basis (r, K) that costs least with approximate bounds."""
        vectors = np.linalg.eigh(weights[0] * self._small[0] + weights[1] * self._small[1])[1]
        return np.ascontiguousarray(vectors[:, : -self.rank - 1 : -1])

    def ordered(self, phi: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return the span of phi (r, K) with columns in the order of what they keep of the weighted total, and that."""
        gram = sum(whole * small for whole, small in zip(self._wholes, self._small, strict=True))
        values, vectors = np.linalg.eigh(phi.conj().T @ gram @ phi)
        return phi @ vectors[:, ::-1], np.maximum(values[::-1], 0)

    def energy_loss(self, phi: NDArray[Any]) -> float:
        """Return the energy loss of phi (r, K)."""
        return 1 - float(np.trace(phi.conj().T @ self._small[0] @ phi).real)

    def within(self, energy_loss: float) -> NDArray[Any]:
        """Return the basis (r, K) of least approximate CRB loss on the convex frontier with at most this energy loss.

        Raises
        ------
        UserError
            Every basis of the rank loses more.
        """
        low, high = _LOW, _HIGH
        found = self.basis((np.exp(high), 1.0))
        if self.energy_loss(found) > energy_loss:
            raise UserError(
                f"energy loss is to be at most {energy_loss:g}, but every basis of rank {self.rank} loses "
                f"{self.energy_loss(found):.3g} or more; allow more, or take a larger rank"
            )
        for _ in range(_STEPS):
            middle = (low + high) / 2
            tried = self.basis((np.exp(middle), 1.0))
            if self.energy_loss(tried) > energy_loss:
                low = middle
            else:
                high, found = middle, tried
        return found

    def least_within(self, energy_loss: float, multiplier: float) -> float:
        """Return what no basis with at most this energy loss has of CRB loss, trying multipliers near one."""
        from scipy.optimize import minimize_scalar

        centre = float(np.clip(np.log(max(multiplier, 1e-300)), _LOW, _HIGH))

        def above(logarithm: float) -> float:
            m = float(np.exp(logarithm))
            return m * energy_loss - self.least((m, 1.0))

        ends = (centre - _NEAR, centre + _NEAR)
        best = minimize_scalar(above, bounds=ends, method="bounded", options={"maxiter": _TRIED})
        return max(0.0, -float(best.fun))
