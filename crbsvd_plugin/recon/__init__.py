"""Coefficient images from k-space: one problem, several solvers.

minimise over c   1/2 sum w |A c - y|^2 + lam R(c)

R(c) = 1/2 ||c||^2 (l2), the nuclear norms of blocks (llr), or the l1 norm of wavelet coefficients (wavelet).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..encoding import SubspaceOperator
from ..errors import UserError
from .admm import admm
from .cg import conjugate_gradients
from .eigenvalue import step_size
from .fista import fista
from .penalty import REGULARISERS, SHIFTS, Regulariser, Shift, penalty
from .scaling import SCALINGS, Scaling, lam_of_bart

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BACKENDS", "REGULARISERS", "SCALINGS", "SHIFTS", "SOLVERS",
    "Backend", "Regulariser", "Scaling", "Shift", "Solver", "choose_solver", "reconstruct",
]  # fmt: skip

Backend = Literal["native", "bart"]
BACKENDS: tuple[Backend, ...] = ("native", "bart")
Solver = Literal["cg", "fista", "admm"]
SOLVERS: tuple[Solver, ...] = ("cg", "fista", "admm")


def reconstruct(
    operator: SubspaceOperator,
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
        First images; zero if not given.
    backend : {"native", "bart"}
        Ours, or BART's ``pics``.
    callback : callable, optional
        Called with the iteration and the current images; native only.

    Raises
    ------
    UserError
        An option is out of range or options do not go together, k-space is not finite, or BART is missing or fails.
    ValueError
        Shapes do not fit.
    """
    if not 0 <= lam < np.inf:
        raise UserError(f"lam is {lam}, expected at least 0")
    if iterations < 1:
        raise UserError(f"iterations is {iterations}, expected at least 1")
    if not 0 <= tolerance < np.inf:
        raise UserError(f"tolerance is {tolerance}, expected at least 0")
    if backend not in BACKENDS:
        raise UserError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if scaling not in SCALINGS:
        raise UserError(f"scaling is {scaling!r}, expected one of {', '.join(SCALINGS)}")
    if start is not None and start.shape != operator.coeff_shape:
        raise ValueError(f"start has shape {start.shape}, expected {operator.coeff_shape}")
    function = penalty(regulariser, operator.shape, block=block, shift=shift)
    solver = choose_solver(solver, regulariser=regulariser, shift=shift, tolerance=tolerance, backend=backend)

    if backend == "native" or scaling == "bart" or start is not None:
        right = operator.adjoint(ksp)
        if not np.isfinite(right).all():
            raise UserError("k-space holds values that are not finite; leave these samples out, or give them weight 0")
        if scaling == "bart":
            lam = lam_of_bart(lam, right, regulariser=regulariser, block=block, shift=shift)
    if backend == "bart":
        from .bart_pics import pics

        step = 1.0
        if solver == "fista":
            step = step_size(operator.normal, operator.coeff_shape, operator.dtype)
            if start is not None:  # its iterations begin with the proximal map, ours with the gradient
                start = start - step * (operator.normal(start) - right)
        return np.asarray(
            pics(
                operator, ksp, lam=lam, iterations=iterations, regulariser=regulariser, block=block, shift=shift,
                step=step, start=start,
            )
        )  # fmt: skip
    if solver == "cg":
        return conjugate_gradients(
            operator.normal, right, lam=lam, iterations=iterations, tolerance=tolerance, start=start, callback=callback
        )
    solve = fista if solver == "fista" else admm
    return solve(
        operator.normal, right, penalty=function, lam=lam, iterations=iterations, tolerance=tolerance, start=start,
        callback=callback,
    )  # fmt: skip


def choose_solver(
    solver: Solver | None, *, regulariser: Regulariser, shift: Shift, tolerance: float, backend: Backend
) -> Solver:
    """Return the solver that these options ask for, see `reconstruct`.

    Raises
    ------
    UserError
        They do not go together.
    """
    usual: Solver = "cg" if regulariser == "l2" else "fista"
    solver = solver or usual
    if solver not in SOLVERS:
        raise UserError(f"solver is {solver!r}, expected one of {', '.join(SOLVERS)}")
    if solver == "cg" and regulariser != "l2":
        raise UserError(f"solver is cg, which cannot solve {regulariser}; use fista or admm")
    if backend == "bart":
        if solver != usual:
            raise UserError(f"solver is {solver}, but bart solves l2 by cg and the others by fista; leave it out")
        if tolerance:
            raise UserError(f"tolerance is {tolerance}, but bart stops by iterations alone; leave it at 0")
        if regulariser == "wavelet" and shift == "overlap":
            raise UserError("shift is overlap, which bart has for llr only; use random or none, or the backend native")
    return solver
