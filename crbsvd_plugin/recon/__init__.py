"""Coefficient images from k-space: one problem, several solvers.

minimise over c   1/2 sum w |A c - y|^2 + lam/2 ||c||^2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..encoding import SubspaceOperator
from ..errors import UserError
from .cg import conjugate_gradients

if TYPE_CHECKING:
    from numpy.typing import NDArray

Backend = Literal["native", "bart"]
BACKENDS: tuple[Backend, ...] = ("native", "bart")


def reconstruct(
    operator: SubspaceOperator,
    ksp: NDArray[Any],
    *,
    lam: float = 0.0,
    iterations: int = 30,
    backend: Backend = "native",
    callback: Callable[[int, NDArray[Any]], object] | None = None,
) -> NDArray[Any]:
    """Return coefficient images (K, *X), complex64 (native: of the type of the operator).

    Parameters
    ----------
    operator : SubspaceOperator
        A: trajectory, frames, weights, basis and coils.
    ksp : complex array (C, R, S)
        Measured k-space y.
    lam : float
        Weight of the penalty, at least 0; means the same in every backend.
    iterations : int
        Iterations of conjugate gradients from zero, at least 1.
    backend : {"native", "bart"}
        Ours, or BART's ``pics``.
    callback : callable, optional
        Called with the iteration and the current images; native only.

    Raises
    ------
    UserError
        An option is out of range, or BART is missing or fails.
    ValueError
        Shapes do not fit.
    """
    if not 0 <= lam < np.inf:
        raise UserError(f"lam is {lam}, expected at least 0")
    if iterations < 1:
        raise UserError(f"iterations is {iterations}, expected at least 1")
    if backend == "native":
        right = operator.adjoint(ksp)
        return conjugate_gradients(operator.normal, right, lam=lam, iterations=iterations, callback=callback)
    if backend == "bart":
        from .bart_pics import pics

        return np.asarray(pics(operator, ksp, lam=lam, iterations=iterations))
    raise UserError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
