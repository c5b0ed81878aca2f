r"""The fast iterative shrinkage-thresholding algorithm.

.. math:: z = x_k + \beta_k (x_k - x_{k-1}), \quad
          x_{k+1} = \operatorname{prox}_{\tau \lambda R}(z - \tau (A^H W A z - A^H W y))

References
----------
Beck and Teboulle, doi 10.1137/080716542 (beta_k).
O'Donoghue and Candes, doi 10.1007/s10208-013-9150-3 (restart where the last step points uphill).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .eigenvalue import step_size
from .penalty import Penalty

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fista(
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
    """Return the minimiser of 1/2 sum w |A x - y|^2 + lam R(x).

    Parameters
    ----------
    normal : callable
        x -> A^H W A x, a new array.
    right : array (K, *X)
        A^H W y.
    penalty : Penalty
        R.
    lam : float
        Weight of the penalty, at least 0.
    iterations : int
        Largest number of iterations.
    tolerance : float
        Stop where x changes by less than this share of its norm in one iteration.
    start : array, optional
        First x; zero if not given.
    callback : callable, optional
        Called with the number of iterations done and the current x, which it must not change.

    Raises
    ------
    ArithmeticError
        The operator gives values that are not finite.
    """
    real = right.real.dtype.type
    step = step_size(normal, right.shape, right.dtype)
    x = np.zeros_like(right) if start is None else start.astype(right.dtype)
    z, momentum = x, 1.0
    for iteration in range(1, iterations + 1):
        moved = normal(z)
        moved -= right
        moved *= real(-step)
        moved += z
        new = penalty.prox(moved, step * lam, iteration)
        np.subtract(new, x, out=moved)
        x = new
        if np.vdot(z - x, moved).real > 0:
            z, momentum = x, 1.0
        else:
            last, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            z = x + real((last - 1) / momentum) * moved
        if callback is not None:
            callback(iteration, x)
        if np.linalg.norm(moved) <= tolerance * np.linalg.norm(x):
            break
    return x
