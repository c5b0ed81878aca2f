r"""Minimise what depends on the span of orthonormal columns alone: a point of the Grassmannian.

Spans near that of phi0 are those of Y = phi0 + phi0_perp Z, with any Z (r - K, K): one chart, in which the
limited-memory quasi-Newton method of scipy runs without constraints. With Y = phi R, R upper triangular, and the
gradient G of the cost at phi,

    gradient in Z = phi0_perp^H (1 - phi phi^H) G R^-H

Measured against Riemannian conjugate gradients and trust regions (finite differences as Hessian) of pymanopt 2.2.1 on
MRF-FISP (r = 100, K = 3 to 5, to the same norm of the gradient): 24 to 36 evaluations against 57 to 114 of the former,
1.7 to 2.7 times faster; 1.1 to 1.8 times faster than the latter. So there is no dependency for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ITERATIONS = 500
_STORED = 20
# share of the cost that an iteration, or a whole chart, gains at least
_SMALL = 1e-7
_CHARTS = 5


def minimise(
    cost: Callable[[NDArray[Any]], tuple[float, NDArray[Any]]],
    start: NDArray[Any],
    *,
    progress: Callable[[int], object] | None = None,
) -> NDArray[Any]:
    """Return orthonormal columns (r, K) of a least cost near those that it starts from.

    Parameters
    ----------
    cost : callable
        Orthonormal phi (r, K), real or complex as `start`, to its cost and its gradient G: d cost = Re <G, d phi>. The
        cost is that of phi Q for every unitary Q.
    start : array (r, K)
        Orthonormal columns, K at most r, where there is one span alone.
    progress : callable, optional
        Called with 1 after each evaluation.
    """
    phi, before = start, np.inf
    # far from its centre a chart is distorted: begin anew where it led to, as long as that helps
    for _ in range(_CHARTS):
        phi, value = _in_chart(cost, phi, progress)
        if not before - value > _SMALL * abs(value):
            break
        before = value
    return phi


def _in_chart(
    cost: Callable[[NDArray[Any]], tuple[float, NDArray[Any]]],
    centre: NDArray[Any],
    progress: Callable[[int], object] | None,
) -> tuple[NDArray[Any], float]:
    from scipy.optimize import minimize

    r, k = centre.shape
    dtype = np.complex128 if np.iscomplexobj(centre) else np.float64
    beside = np.linalg.qr(centre, mode="complete")[0][:, k:]

    def factored(z: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.linalg.qr(centre + beside @ z.view(dtype).reshape(r - k, k))

    def at(z: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        phi, triangle = factored(z)
        value, gradient = cost(phi)
        if progress is not None:
            progress(1)
        gradient = gradient - phi @ (phi.conj().T @ gradient)
        pulled = np.linalg.solve(triangle, gradient.conj().T).conj().T
        return value, np.ascontiguousarray(beside.conj().T @ pulled, dtype).view(np.float64).ravel()

    origin = np.zeros((r - k) * k, dtype).view(np.float64)
    # scipy ends by a decrease relative to the cost only where that is above 1
    scale = abs(at(origin)[0]) or 1.0
    options = {"maxiter": _ITERATIONS, "maxcor": _STORED, "ftol": _SMALL, "gtol": 0.0}
    result = minimize(
        lambda z: tuple(part / scale for part in at(z)), origin, jac=True, method="L-BFGS-B", options=options
    )
    return factored(result.x)[0], scale * float(result.fun)
