"""Coefficient images from k-space: one problem, several solvers.

minimise over c   1/2 sum w |A c - y|^2 + lam R(c)

R(c) = 1/2 ||c||^2 (l2), the nuclear norms of blocks (llr), or the l1 norm of wavelet coefficients (wavelet).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from ..encoding import SubspaceOperator
from ..errors import UserError
from .admm import admm
from .cg import conjugate_gradients
from .circulant import Circulant
from .density import density_start
from .eigenvalue import step_size
from .fista import fista
from .penalty import REGULARISERS, SHIFTS, Regulariser, Shift, penalty
from .scaling import SCALINGS, Scaling, lam_of_bart

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BACKENDS", "PRECONDITIONERS", "REGULARISERS", "SCALINGS", "SHIFTS", "SOLVERS",
    "Backend", "Encoding", "Preconditioner", "Regulariser", "Scaling", "Shift", "Solver", "choose_solver",
    "reconstruct",
]  # fmt: skip

Backend = Literal["native", "sigpy", "bart"]
BACKENDS: tuple[Backend, ...] = ("native", "sigpy", "bart")
Solver = Literal["cg", "fista", "admm"]
SOLVERS: tuple[Solver, ...] = ("cg", "fista", "admm")
Preconditioner = Literal["none", "circulant"]
PRECONDITIONERS: tuple[Preconditioner, ...] = ("none", "circulant")


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
    start: NDArray[Any] | Literal["density"] | None = None,
    preconditioner: Preconditioner = "none",
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
    start : array (K, *X) or "density", optional
        First images; zero if not given. density: the adjoint with density weights, see `density`, for a
        SubspaceOperator. Not for sigpy.
    preconditioner : {"none", "circulant"}
        circulant: cg needs half of the iterations, which regularise less; see `circulant`. Native only, and for
        a SubspaceOperator.
    backend : {"native", "sigpy", "bart"}
        Ours, SigPy's (l2 alone), or BART's ``pics``.
    callback : callable, optional
        Called with the iteration and the current images; not by bart.

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
    _check_start(start, operator)
    function = penalty(regulariser, operator.coeff_shape[1:], block=block, shift=shift)
    solver = choose_solver(
        solver, regulariser=regulariser, shift=shift, tolerance=tolerance, preconditioner=preconditioner,
        backend=backend,
    )  # fmt: skip
    if backend == "sigpy":
        if start is not None:
            raise UserError("sigpy begins with zero; leave start out, or take the backend native")
        from . import sigpy_app

        # lam means the same in any scaling of the data: l2 is all that sigpy is given
        return sigpy_app.solve(operator, ksp, lam=lam, iterations=iterations, callback=callback)
    if backend == "native" or scaling == "bart" or start is not None:
        right = operator.adjoint(ksp)
        if not np.isfinite(right).all():
            raise UserError("k-space holds values that are not finite; leave these samples out, or give them weight 0")
        if scaling == "bart":
            lam = lam_of_bart(lam, right, regulariser=regulariser, block=block, shift=shift)
    images = None if isinstance(start, str) else start
    if start is not None and images is None:
        # `_check_start` knows that it is one
        images = density_start(cast(SubspaceOperator, operator), ksp, right, lam=lam if regulariser == "l2" else 0.0)
    if backend == "bart":
        from .bart_pics import pics

        step = 1.0
        if solver == "fista":
            step = step_size(operator.normal, operator.coeff_shape, operator.dtype)
            if images is not None:  # its iterations begin with the proximal map, ours with the gradient
                images = images - step * (operator.normal(images) - right)
        return np.asarray(
            pics(
                operator, ksp, lam=lam, iterations=iterations, regulariser=regulariser, block=block, shift=shift,
                step=step, start=images,
            )
        )  # fmt: skip
    if solver == "cg":
        inverse = None
        if preconditioner == "circulant":
            if not isinstance(operator, SubspaceOperator):
                raise UserError("preconditioner is circulant, which is for readouts (SubspaceOperator); leave it out")
            inverse = Circulant(operator, lam)
        return conjugate_gradients(
            operator.normal, right, lam=lam, iterations=iterations, tolerance=tolerance, start=images,
            preconditioner=inverse, callback=callback,
        )  # fmt: skip
    solve = fista if solver == "fista" else admm
    return solve(
        operator.normal, right, penalty=function, lam=lam, iterations=iterations, tolerance=tolerance, start=images,
        callback=callback,
    )  # fmt: skip


def _check_start(start: NDArray[Any] | str | None, operator: Encoding) -> None:
    if isinstance(start, str):
        if start != "density":
            raise UserError(f"start is {start!r}, expected density, or images")
        if not isinstance(operator, SubspaceOperator):
            raise UserError("start is density, which is for readouts (SubspaceOperator); leave it out")
    elif start is not None and start.shape != operator.coeff_shape:
        raise ValueError(f"start has shape {start.shape}, expected {operator.coeff_shape}")


def choose_solver(
    solver: Solver | None,
    *,
    regulariser: Regulariser,
    shift: Shift,
    tolerance: float,
    backend: Backend,
    preconditioner: Preconditioner = "none",
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
    if preconditioner not in PRECONDITIONERS:
        raise UserError(f"preconditioner is {preconditioner!r}, expected one of {', '.join(PRECONDITIONERS)}")
    if preconditioner != "none" and (solver != "cg" or backend != "native"):
        raise UserError(f"preconditioner is {preconditioner}, which is for cg in the backend native; leave it out")
    if backend == "sigpy" and (regulariser != "l2" or solver != "cg" or tolerance):
        raise UserError("sigpy solves l2 by cg, and stops by iterations alone; leave the other options out")
    if backend == "bart":
        if solver != usual:
            raise UserError(f"solver is {solver}, but bart solves l2 by cg and the others by fista; leave it out")
        if tolerance:
            raise UserError(f"tolerance is {tolerance}, but bart stops by iterations alone; leave it at 0")
        if regulariser == "wavelet" and shift == "overlap":
            raise UserError("shift is overlap, which bart has for llr only; use random or none, or the backend native")
    return solver
