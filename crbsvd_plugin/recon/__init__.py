"""Coefficient images from k-space: one problem, several solvers.

minimise over c   1/2 sum w |A c - y|^2 + lam R(c)

R(c) = 1/2 ||c||^2 (l2), the nuclear norms of blocks (llr), or the l1 norm of wavelet coefficients (wavelet).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UserError
from .bart_options import PLAIN, BartOptions
from .choice import (
    BACKENDS,
    PRECONDITIONERS,
    SOLVERS,
    Backend,
    Preconditioner,
    Solver,
    check_numbers,
    choose_solver,
)  # fmt: skip
from .native import Start, first_images, preconditioner_of, solve
from .objective import right_hand_side
from .penalty import REGULARISERS, SHIFTS, Regulariser, Shift, penalty
from .scaling import SCALINGS, Scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BACKENDS", "PRECONDITIONERS", "REGULARISERS", "SCALINGS", "SHIFTS", "SOLVERS",
    "Backend", "BartOptions", "Encoding", "Preconditioner", "Regulariser", "Scaling", "Shift", "Solver", "Start",
    "choose_solver", "first_images", "preconditioner_of", "reconstruct", "solve",
]  # fmt: skip


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
    regulariser: Regulariser = "l2",
    block: int = 8,
    shift: Shift = "random",
    scaling: Scaling = "none",
    solver: Solver | None = None,
    iterations: int = 30,
    tolerance: float = 0.0,
    start: NDArray[Any] | Start = "zero",
    preconditioner: Preconditioner = "none",
    backend: Backend = "native",
    bart_options: BartOptions = PLAIN,
    callback: Callable[[int, Any], object] | None = None,
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
    regulariser : {"l2", "llr", "wavelet"}
        R.
    block : int
        Edge of the blocks of llr [voxels].
    shift : {"none", "random", "overlap"}
        Where the grid of blocks or wavelets lies: in one place, in another one in every iteration, or in all at
        once; see `penalty.Shifted`. Only with none do all solvers and backends find the same minimum.
    scaling : {"none", "bart"}
        Units of lam: those of the objective above, or those of ``bart pics`` without ``-w``; see `scaling`.
    solver : {"cg", "fista", "admm"}, optional
        cg for l2, else fista. cg solves l2 alone.
    iterations : int
        Largest number of iterations, at least 1.
    tolerance : float
        Stop early. cg: where the residual falls below this share of its start; fista and admm: where the images change
        by less than this share of their norm. Native only.
    start : array (K, *X), "zero" or "density"
        First images. density: the adjoint with density weights, see `density`, for a SubspaceOperator. Not for sigpy.
    preconditioner : {"none", "circulant"}
        circulant: cg needs half of the iterations, which regularise less; see `circulant`. Native only, and for
        a SubspaceOperator.
    backend : {"native", "sigpy", "bart"}
        Ours, SigPy's (l2 alone), or BART's ``pics``.
    bart_options : BartOptions
        What only bart can do: terms of its own instead of `regulariser` and `lam`, and less memory.
    callback : callable, optional
        Called with the iteration and the current images; by bart, which shows none, with None.

    Raises
    ------
    UserError
        An option is out of range or options do not go together, k-space is not finite, or BART is missing or fails.
    ValueError
        Shapes do not fit.
    """
    check_numbers(lam=lam, iterations=iterations, tolerance=tolerance, scaling=scaling)
    if backend not in BACKENDS:
        raise UserError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    penalty(regulariser, operator.coeff_shape[1:], block=block, shift=shift)  # refuses what it does not know
    solver = choose_solver(
        solver, regulariser=regulariser, lam=lam, shift=shift, tolerance=tolerance, backend=backend,
        bart_options=bart_options, preconditioner=preconditioner, start=start if isinstance(start, str) else "images",
    )  # fmt: skip
    if backend == "sigpy":
        from . import sigpy_app

        # lam means the same in any scaling of the data: l2 is all that sigpy is given
        return sigpy_app.solve(operator, ksp, lam=lam, iterations=iterations, callback=callback)
    if backend == "bart":
        from .bart_pics import solve as solve_by_bart

        return np.asarray(
            solve_by_bart(
                operator, ksp, lam=lam, regulariser=regulariser, block=block, shift=shift, scaling=scaling,
                solver=solver, iterations=iterations, start=start, options=bart_options, callback=callback,
            )
        )  # fmt: skip
    right = right_hand_side(operator, ksp)
    images = first_images(start, operator, ksp, right, lam=lam, regulariser=regulariser)
    return solve(
        operator.normal, right, lam=lam, regulariser=regulariser, block=block, shift=shift, scaling=scaling,
        solver=solver, iterations=iterations, tolerance=tolerance, start=images,
        preconditioner=preconditioner_of(preconditioner, operator, lam=lam), callback=callback,
    )  # fmt: skip
