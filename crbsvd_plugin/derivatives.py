"""Derivatives of signals that are given without: on circles in the complex plane, or from differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .model import Parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

Signals = Callable[["NDArray[Any]"], "NDArray[Any]"]

_NODES = 8
_STEPS = 9
_SHRINK = 4.0
# below this share of the derivative a next smaller step is not needed
_GOOD = 1e-10
# weights of f(x + (k + offset) h), k = 0 .. 4, in the derivative at x, to fourth order
_CENTRAL = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12
_FORWARD = np.array([-25.0, 48.0, -36.0, 16.0, -3.0]) / 12
_STENCILS = {-2: _CENTRAL, 0: _FORWARD, -4: -_FORWARD[::-1]}


def complex_step(
    signals: Signals, theta: NDArray[np.float64], parameters: Sequence[Parameter]
) -> NDArray[np.complex128]:
    """Return ds/dtheta (B, P, T) of signals that are analytic in theta, from values on a circle around it.

    ds/dtheta = 1/(M h) sum_k s(theta + h e^(i phi_k)) e^(-i phi_k), phi_k = 2 pi k / M, M = 8 (Lyness and Moler, 1967).
    A step along the imaginary axis alone, Im s(theta + i h) / h, would lose the imaginary part of complex signals.
    The same values give the Taylor coefficients up to the seventh, whose size says whether h is small enough.

    Parameters
    ----------
    signals : callable
        theta (B, P), complex, to signals (B, T).
    theta : array (B, P)
        Where.
    parameters : sequence of Parameter
        Their ranges give the first step where theta is 0.
    """
    turns = np.exp(2j * np.pi * np.arange(_NODES) / _NODES)

    def at(i: int, step: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        values = []
        for turn in turns:
            moved = theta.astype(np.complex128)
            moved[:, i] += turn * step
            values.append(signals(moved))
        terms = np.tensordot(turns[:, None] ** -np.array([1, _NODES - 2, _NODES - 1]), values, axes=(0, 0)) / _NODES
        # what M nodes cannot tell from the first coefficient is the ninth, smaller than the last two
        return terms[0] / step[:, None], np.abs(terms[1:]).max(axis=(0, 2)) / step

    return _best(at, theta, parameters, first=1e-2)


def differences(
    signals: Signals, theta: NDArray[np.float64], parameters: Sequence[Parameter]
) -> NDArray[np.complex128]:
    """Return ds/dtheta (B, P, T) from differences of five points, each atom with its best step.

    Steps fall by four from 3 % of theta until two successive results agree to 1e-10, nine of them at most; of every
    atom the result counts that differs least from the one before. Where the points would leave the range of the
    parameter they lie to one side.

    Parameters
    ----------
    signals, theta, parameters
        As for `complex_step`; theta stays real.
    """

    def at(i: int, step: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        x, (low, high) = theta[:, i], (parameters[i].low, parameters[i].high)
        offset = np.where(x - 2 * step < low, 0, np.where(x + 2 * step > high, -4, -2))
        weights = np.stack([_STENCILS[int(o)] for o in offset])
        total: Any = 0.0
        for k in range(5):
            moved = theta.copy()
            moved[:, i] = np.clip(x + (k + offset) * step, low, high)
            total = total + weights[:, k, None] * signals(moved)
        found = total / step[:, None]
        change = np.abs(found - last.get(i, np.inf)).max(axis=1)
        last[i] = found
        return found, change

    last: dict[int, NDArray[Any]] = {}
    return _best(at, theta, parameters, first=3e-2)


def _best(
    at: Callable[[int, NDArray[np.float64]], tuple[NDArray[Any], NDArray[Any]]],
    theta: NDArray[np.float64],
    parameters: Sequence[Parameter],
    *,
    first: float,
) -> NDArray[np.complex128]:
    """Return the derivatives of least error (B, P, T); `at` gives those of parameter i and their errors, for steps."""
    found = []
    for i, parameter in enumerate(parameters):
        width = parameter.high - parameter.low
        step = first * np.where(theta[:, i] == 0, width if np.isfinite(width) else 1.0, np.abs(theta[:, i]))
        step = np.minimum(step, width / 8)  # five points to one side of the middle
        best, error = at(i, step)
        for _ in range(_STEPS - 1):
            size = np.abs(best).max(axis=1)
            if np.all(error <= _GOOD * size):
                break
            step = step / _SHRINK
            tried, its_error = at(i, step)
            better = its_error < error
            best, error = np.where(better[:, None], tried, best), np.where(better, its_error, error)
        found.append(best)
    return np.stack(found, axis=1).astype(np.complex128)
