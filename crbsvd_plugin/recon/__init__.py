"""Coefficient images from k-space: one problem, several solvers.

minimise over c   1/2 sum w |A c - y|^2 + lam/2 ||c||^2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ..errors import UserError
from .cg import conjugate_gradients

if TYPE_CHECKING:
    from numpy.typing import NDArray

Backend = Literal["native", "sigpy", "bart"]
BACKENDS: tuple[Backend, ...] = ("native", "sigpy", "bart")


class Encoding(Protocol):
    """What a solver needs of a linear operator A with weights W, for any kind of k-space.

    `SubspaceOperator` and `CartesianOperator` have it; so may an operator of your own.
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of images and k-space, complex64 or complex128."""

    @property
    def coeff_shape(self) -> tuple[int, ...]:
        """Shape (K, *X) of the coefficient images."""

    @property
    def ksp_shape(self) -> tuple[int, ...]:
        """Shape of k-space, coils first."""

    @property
    def weights(self) -> NDArray[Any]:
        """Weights of the samples of one coil, bool or real and at least 0; 0: missing."""

    def forward(self, coeff: NDArray[Any], /) -> NDArray[Any]:
        """Return A c, a new array."""

    def adjoint(self, ksp: NDArray[Any], /) -> NDArray[Any]:
        """Return A^H W y."""

    def normal(self, coeff: NDArray[Any], /) -> NDArray[Any]:
        """Return A^H W A c."""


def reconstruct(
    operator: Encoding,
    ksp: NDArray[Any],
    *,
    lam: float = 0.0,
    iterations: int = 30,
    backend: Backend = "native",
    callback: Callable[[int, NDArray[Any]], object] | None = None,
) -> NDArray[Any]:
    """Return coefficient images (K, *X), of the type of the operator (bart: complex64).

    Parameters
    ----------
    operator : SubspaceOperator or CartesianOperator
        A: where and when was sampled, weights, basis and coils. An operator of your own must have the attributes
        of `Encoding`; bart does not take it.
    ksp : complex array (C, R, S), Cartesian (C, T, *X)
        Measured k-space y.
    lam : float
        Weight of the penalty, at least 0; means the same in every backend.
    iterations : int
        Iterations of conjugate gradients from zero, at least 1.
    backend : {"native", "sigpy", "bart"}
        Ours, SigPy's, or BART's ``pics``.
    callback : callable, optional
        Called with the iteration and the current images; not by bart.

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
    if backend == "sigpy":
        from . import sigpy_app

        return sigpy_app.solve(operator, ksp, lam=lam, iterations=iterations, callback=callback)
    if backend == "bart":
        from .bart_pics import pics

        return np.asarray(pics(operator, ksp, lam=lam, iterations=iterations))
    raise UserError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
