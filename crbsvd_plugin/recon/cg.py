"""Conjugate gradients for the regularised least-squares problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def conjugate_gradients(
    normal: Callable[[NDArray[Any]], NDArray[Any]],
    right: NDArray[Any],
    *,
    lam: float,
    iterations: int,
    tolerance: float = 0.0,
    callback: Callable[[int, NDArray[Any]], object] | None = None,
) -> NDArray[Any]:
    """Return the minimiser of 1/2 sum w |A x - y|^2 + lam/2 ||x||^2, from x = 0.

    That is the solution of (A^H W A + lam) x = A^H W y (Hestenes and Stiefel 1952).

    Parameters
    ----------
    normal : callable
        x -> A^H W A x.
    right : array
        A^H W y.
    lam : float
        Weight of the penalty, at least 0.
    iterations : int
        Largest number of iterations; without a penalty, stopping early is the regularisation.
    tolerance : float
        Stop where the residual falls below this share of its start; 0: never.
    callback : callable, optional
        Called with the number of iterations done and the current x, which it must not change.

    Raises
    ------
    ArithmeticError
        The normal operator is not positive, or a value is not finite.
    """
    x = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    energy = start = _energy(residual)
    for iteration in range(1, iterations + 1):
        if energy <= tolerance**2 * start:
            break
        applied = normal(direction)
        if lam:
            applied = applied + np.asarray(lam, dtype=right.real.dtype) * direction
        curvature = float(np.vdot(direction, applied).real)
        if not curvature > 0:
            raise ArithmeticError(f"normal operator is not positive: curvature {curvature:g} at iteration {iteration}")
        step = right.real.dtype.type(energy / curvature)
        x += step * direction
        residual -= step * applied
        before, energy = energy, _energy(residual)
        direction = residual + right.real.dtype.type(energy / before) * direction
        if callback is not None:
            callback(iteration, x)
    return x


def _energy(x: NDArray[Any]) -> float:
    return float(np.vdot(x, x).real)
