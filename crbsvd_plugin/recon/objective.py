"""What a reconstruction minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoding import SubspaceOperator
from .penalty import Penalty

if TYPE_CHECKING:
    from numpy.typing import NDArray


def objective(
    operator: SubspaceOperator, ksp: NDArray[Any], coeff: NDArray[Any], *, penalty: Penalty, lam: float
) -> float:
    """Return 1/2 sum w |A c - y|^2 + lam R(c), summed in double precision.

    Parameters
    ----------
    operator : SubspaceOperator
        A and w.
    ksp : complex array (C, R, S)
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
