"""Coefficient images from k-space: one problem, several solvers.

minimise over c   1/2 sum w |A c - y|^2 + lam R(c)

R(c) = 1/2 ||c||^2 (l2), the nuclear norms of blocks (llr), or the l1 norm of wavelet coefficients (wavelet).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ..errors import UserError
from .admm import admm
from .bart_options import PLAIN, BartOptions
from .cg import conjugate_gradients
from .fista import fista
from .objective import finite
from .penalty import REGULARISERS, SHIFTS, Regulariser, Shift, penalty
from .scaling import SCALINGS, Scaling, lam_of_bart

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BACKENDS", "REGULARISERS", "SCALINGS", "SHIFTS", "SOLVERS",
    "Backend", "BartOptions", "Encoding", "Regulariser", "Scaling", "Shift", "Solver", "choose_solver", "reconstruct",
    "solve",
]  # fmt: skip

Backend = Literal["native", "sigpy", "bart"]
BACKENDS: tuple[Backend, ...] = ("native", "sigpy", "bart")
Solver = Literal["cg", "fista", "admm"]
SOLVERS: tuple[Solver, ...] = ("cg", "fista", "admm")


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
    start: NDArray[Any] | None = None,
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
    start : array (K, *X), optional
        First images; zero if not given. Not for sigpy.
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
    _check_numbers(lam=lam, iterations=iterations, tolerance=tolerance, scaling=scaling)
    if backend not in BACKENDS:
        raise UserError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if start is not None and start.shape != operator.coeff_shape:
        raise ValueError(f"start has shape {start.shape}, expected {operator.coeff_shape}")
    penalty(regulariser, operator.coeff_shape[1:], block=block, shift=shift)  # refuses what it does not know
    solver = choose_solver(
        solver, regulariser=regulariser, lam=lam, shift=shift, tolerance=tolerance, backend=backend,
        bart_options=bart_options,
    )  # fmt: skip
    if backend == "native":
        return solve(
            operator.normal, operator.adjoint(ksp), lam=lam, regulariser=regulariser, block=block, shift=shift,
            scaling=scaling, solver=solver, iterations=iterations, tolerance=tolerance, start=start, callback=callback,
        )  # fmt: skip
    if backend == "sigpy":
        if start is not None:
            raise UserError("sigpy begins with zero; leave start out, or take the backend native")
        from . import sigpy_app

        # lam means the same in any scaling of the data: l2 is all that sigpy is given
        return sigpy_app.solve(operator, ksp, lam=lam, iterations=iterations, callback=callback)
    from .bart_pics import solve as solve_by_bart

    return np.asarray(
        solve_by_bart(
            operator, ksp, lam=lam, regulariser=regulariser, block=block, shift=shift, scaling=scaling, solver=solver,
            iterations=iterations, start=start, options=bart_options, callback=callback,
        )
    )  # fmt: skip


def solve(
    normal: Callable[[NDArray[Any]], NDArray[Any]],
    right: NDArray[Any],
    *,
    lam: float = 0.0,
    regulariser: Regulariser = "l2",
    block: int = 8,
    shift: Shift = "random",
    scaling: Scaling = "none",
    solver: Solver | None = None,
    iterations: int = 30,
    tolerance: float = 0.0,
    start: NDArray[Any] | None = None,
    callback: Callable[[int, NDArray[Any]], object] | None = None,
) -> NDArray[Any]:
    """Return what `reconstruct` does natively, when its k-space is not needed any more.

    Parameters
    ----------
    normal : callable
        c -> A^H W A c, a new array.
    right : complex array (K, *X)
        A^H W y.
    lam, regulariser, block, shift, scaling, solver, iterations, tolerance, start, callback
        As for `reconstruct`.

    Raises
    ------
    UserError
        An option is out of range or options do not go together, or `right` is not finite.
    """
    _check_numbers(lam=lam, iterations=iterations, tolerance=tolerance, scaling=scaling)
    function = penalty(regulariser, right.shape[1:], block=block, shift=shift)
    solver = choose_solver(solver, regulariser=regulariser, shift=shift, tolerance=tolerance, backend="native")
    right = finite(right)
    if scaling == "bart":
        lam = lam_of_bart(lam, right, regulariser=regulariser, block=block, shift=shift)
    if solver == "cg":
        return conjugate_gradients(
            normal, right, lam=lam, iterations=iterations, tolerance=tolerance, start=start, callback=callback
        )
    method = fista if solver == "fista" else admm
    return method(
        normal, right, penalty=function, lam=lam, iterations=iterations, tolerance=tolerance, start=start,
        callback=callback,
    )  # fmt: skip


def _check_numbers(*, lam: float, iterations: int, tolerance: float, scaling: Scaling) -> None:
    """Refuse numbers that are out of range, see `reconstruct`.

    Raises
    ------
    UserError
        One is.
    """
    if not 0 <= lam < np.inf:
        raise UserError(f"lam is {lam}, expected at least 0")
    if iterations < 1:
        raise UserError(f"iterations is {iterations}, expected at least 1")
    if not 0 <= tolerance < np.inf:
        raise UserError(f"tolerance is {tolerance}, expected at least 0")
    if scaling not in SCALINGS:
        raise UserError(f"scaling is {scaling!r}, expected one of {', '.join(SCALINGS)}")


def choose_solver(
    solver: Solver | None,
    *,
    regulariser: Regulariser,
    shift: Shift,
    tolerance: float,
    backend: Backend,
    lam: float = 0.0,
    bart_options: BartOptions = PLAIN,
) -> Solver:
    """Return the solver that these options ask for, see `reconstruct`.

    Raises
    ------
    UserError
        They do not go together.
    """
    bart_options.check(backend=backend, regulariser=regulariser, lam=lam, shift=shift)
    usual: Solver = "cg" if regulariser == "l2" else "fista"
    if bart_options.terms:
        usual = bart_options.solver()
    solver = solver or usual
    if solver not in SOLVERS:
        raise UserError(f"solver is {solver!r}, expected one of {', '.join(SOLVERS)}")
    if solver == "cg" and regulariser != "l2":
        raise UserError(f"solver is cg, which cannot solve {regulariser}; use fista or admm")
    if backend == "sigpy" and (regulariser != "l2" or solver != "cg" or tolerance):
        raise UserError("sigpy solves l2 by cg, and stops by iterations alone; leave the other options out")
    if backend == "bart":
        if solver != usual:
            raise UserError(f"solver is {solver}, but bart solves this by {usual}; leave it out")
        if tolerance:
            raise UserError(f"tolerance is {tolerance}, but bart stops by iterations alone; leave it at 0")
        if regulariser == "wavelet" and shift == "overlap":
            raise UserError("shift is overlap, which bart has for llr only; use random or none, or the backend native")
    return solver
