"""Conjugate gradients for the regularised least-squares problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


_ROUNDING = 2 / 3  # power of the machine's eps: 2e-5 in single and 4e-11 in double precision, the accuracy of a NUFFT


def conjugate_gradients(
    normal: Callable[[NDArray[Any]], NDArray[Any]],
    right: NDArray[Any],
    *,
    lam: float,
    iterations: int,
    tolerance: float = 0.0,
    start: NDArray[Any] | None = None,
    preconditioner: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    callback: Callable[[int, NDArray[Any]], object] | None = None,
) -> NDArray[Any]:
    """Return the minimiser of 1/2 sum w |A x - y|^2 + lam/2 ||x||^2.

    That is the solution of (A^H W A + lam) x = A^H W y (Hestenes and Stiefel 1952).

    Parameters
    ----------
    normal : callable
        x -> A^H W A x, a new array.
    right : array
        A^H W y.
    lam : float
        Weight of the penalty, at least 0.
    iterations : int
        Largest number of iterations; without a penalty, stopping early is the regularisation.
    tolerance : float
        Stop where the residual falls below this share of its start; below the rounding of the
        right-hand side it always stops. It also stops where the curvature falls below the
        accuracy of a NUFFT, as without a penalty it does at last.
    start : array, optional
        First x; zero if not given, which saves one product with the operator.
    preconditioner : callable, optional
        r -> M r, a new array; M is Hermitian and positive, and near the inverse of A^H W A + lam. It changes the way
        to the minimum, not the minimum; where the way is stopped early, it changes the result.
    callback : callable, optional
        Called with the number of iterations done and the current x, which it must not change.

    Raises
    ------
    ArithmeticError
        The normal operator is not positive, or a value is not finite.
    """
    weight = right.real.dtype.type(lam)
    x = np.zeros_like(right) if start is None else start.astype(right.dtype)
    residual = right.copy() if start is None else right - normal(x) - weight * x
    direction = residual.copy() if preconditioner is None else preconditioner(residual)
    energy = first = _energy(residual)
    product = energy if preconditioner is None else float(np.vdot(residual, direction).real)
    eps = float(np.finfo(right.dtype).eps)
    largest, rounding = 0.0, eps**_ROUNDING
    # the residual would fall on, until its square is no number any more
    end = max(tolerance**2 * first, eps**2 * _energy(right))
    for iteration in range(1, iterations + 1):
        if energy <= end:
            break
        applied = normal(direction)
        if lam:
            applied += weight * direction
        curvature = float(np.vdot(direction, applied).real)
        size = _energy(direction)
        largest = max(largest, curvature / size)
        if iteration > 1 and abs(curvature) <= rounding * largest * size:
            break  # what is left lies where A sees nothing
        if not curvature > 0:
            raise ArithmeticError(f"normal operator is not positive: curvature {curvature:g} at iteration {iteration}")
        step = right.real.dtype.type(product / curvature)
        x += step * direction
        residual -= step * applied
        before, energy = product, _energy(residual)
        moved = residual if preconditioner is None else preconditioner(residual)
        product = energy if preconditioner is None else float(np.vdot(residual, moved).real)
        direction *= right.real.dtype.type(product / before)
        direction += moved
        if callback is not None:
            callback(iteration, x)
    return x


def _energy(x: NDArray[Any]) -> float:
    return float(np.vdot(x, x).real)
