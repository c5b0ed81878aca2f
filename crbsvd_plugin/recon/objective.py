"""What a reconstruction minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .penalty import Penalty

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from . import Encoding


def objective(operator: Encoding, ksp: NDArray[Any], coeff: NDArray[Any], *, penalty: Penalty, lam: float) -> float:
    """Return 1/2 sum w |A c - y|^2 + lam R(c), summed in double precision.

    Parameters
    ----------
    operator : SubspaceOperator or CartesianOperator
        A and w.
    ksp : complex array (C, R, S), Cartesian (C, T, *X)
        Measured k-space y; where weights are 0, any.
    coeff : complex array (K, *X)
        Images c.
    penalty : Penalty
        R, see `penalty.penalty`.
    lam : float
        Weight of the penalty.
    """
    present = operator.weights > 0
    misfit = (operator.forward(coeff) - ksp)[:, present]
    energy = np.sum(operator.weights[present] * np.abs(misfit) ** 2, dtype=np.float64)
    return 0.5 * float(energy) + lam * penalty.value(coeff)
