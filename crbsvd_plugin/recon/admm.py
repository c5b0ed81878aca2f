r"""The alternating direction method of multipliers.

.. math:: x &= \arg\min \tfrac12 \sum w |A x - y|^2 + \tfrac\rho2 \|x - z + u\|^2 \\
          z &= \operatorname{prox}_{\lambda R / \rho}(x + u), \qquad u \mathrel{+}= x - z

The quadratic problem for x is solved by conjugate gradients from the last x, only as far as the
outer iteration needs it. u begins at the value that it has at the solution, -(A^H W A x - A^H W y)
/ rho, so that a start at the solution stays there.

References
----------
Boyd et al., doi 10.1561/2200000016 (section 3.4.1: balancing of the residuals).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .cg import conjugate_gradients
from .eigenvalue import step_size
from .penalty import Penalty

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RHO = 0.05  # first rho, as a share of the largest eigenvalue
_INNER_ITERATIONS, _INNER_TOLERANCE = 10, 0.1
_IMBALANCE, _FACTOR = 10, 2


def admm(
    normal: Callable[[NDArray[Any]], NDArray[Any]],
    right: NDArray[Any],
    *,
    penalty: Penalty,
    lam: float,
    iterations: int,
    tolerance: float = 0.0,
    start: NDArray[Any] | None = None,
    callback: Callable[[int, NDArray[Any]], object] | None = None,
) -> NDArray[Any]:
    """Return the minimiser of 1/2 sum w |A z - y|^2 + lam R(z).

    Parameters
    ----------
    normal : callable
        x -> A^H W A x.
    right : array (K, *X)
        A^H W y.
    penalty : Penalty
        R.
    lam : float
        Weight of the penalty, at least 0.
    iterations : int
        Largest number of outer iterations, of up to ten products with the operator each.
    tolerance : float
        Stop where x and z differ, and z changes in one iteration, by less than this share of its norm.
    start : array, optional
        First z; zero if not given.
    callback : callable, optional
        Called with the number of iterations done and the current z, which it must not change.

    Raises
    ------
    ArithmeticError
        The operator is not positive, or a value is not finite.
    """
    real = right.real.dtype.type
    rho = _RHO / step_size(normal, right.shape, right.dtype)
    if start is None:
        x, u = np.zeros_like(right), right / real(rho)
    else:
        x = start.astype(right.dtype)
        u = (right - normal(x)) / real(rho)
    z = x
    for iteration in range(1, iterations + 1):
        x = conjugate_gradients(
            normal, right + real(rho) * (z - u), lam=rho, start=x,
            iterations=_INNER_ITERATIONS, tolerance=_INNER_TOLERANCE,
        )  # fmt: skip
        u += x
        new = penalty.prox(u, lam / rho, iteration)
        u -= new
        size, primal, dual = (float(np.linalg.norm(a)) for a in (new, x - new, new - z))
        z = new
        if callback is not None:
            callback(iteration, z)
        if max(primal, dual) <= tolerance * size:
            break
        if primal > _IMBALANCE * dual:
            rho *= _FACTOR
            u /= real(_FACTOR)
        elif dual > _IMBALANCE * primal:
            rho /= _FACTOR
            u *= real(_FACTOR)
    return z
