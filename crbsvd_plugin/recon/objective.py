"""What a reconstruction minimises, and the right-hand side of its normal equations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .penalty import Penalty

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from . import Encoding


def right_hand_side(operator: Encoding, ksp: NDArray[Any]) -> NDArray[Any]:
    """Return A^H W y.

    Raises
    ------
    UserError
        K-space holds values that are not finite where weights are not 0.
    """
    return finite(operator.adjoint(ksp))


def finite(right: NDArray[Any]) -> NDArray[Any]:
    """Return A^H W y if it is finite.

    Raises
    ------
    UserError
        As for `right_hand_side`.
    """
    if not np.isfinite(right).all():
        raise UserError("k-space holds values that are not finite; leave these samples out, or give them weight 0")
    return right


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
