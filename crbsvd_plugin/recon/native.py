"""The solvers of ours, for a right-hand side A^H W y: k-space is not needed any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from ..encoding import SubspaceOperator
from ..errors import UserError
from .admm import admm
from .cg import conjugate_gradients
from .choice import Preconditioner, Solver, check_numbers, choose_solver
from .circulant import Circulant
from .density import density_start
from .fista import fista
from .objective import finite
from .penalty import Regulariser, Shift, penalty
from .scaling import Scaling, scaled_lam

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from . import Encoding

Start = Literal["zero", "density"]


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
    preconditioner: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    callback: Callable[[int, NDArray[Any]], object] | None = None,
) -> NDArray[Any]:
    """Return what `reconstruct` does natively, when its k-space is not needed any more.

    Parameters
    ----------
    normal : callable
        c -> A^H W A c, a new array.
    right : complex array (K, *X)
        A^H W y.
    lam, regulariser, block, shift, scaling, solver, iterations, tolerance, callback
        As for `reconstruct`.
    start : array (K, *X), optional
        First images, of `first_images`; zero if not given.
    preconditioner : callable, optional
        Of `preconditioner_of`; for cg.

    Raises
    ------
    UserError
        An option is out of range or options do not go together, or `right` is not finite.
    """
    check_numbers(lam=lam, iterations=iterations, tolerance=tolerance, scaling=scaling)
    function = penalty(regulariser, right.shape[1:], block=block, shift=shift)
    solver = choose_solver(solver, regulariser=regulariser, shift=shift, tolerance=tolerance, backend="native")
    right = finite(right)
    lam = scaled_lam(lam, right, scaling=scaling, regulariser=regulariser, block=block, shift=shift)
    if solver == "cg":
        return conjugate_gradients(
            normal, right, lam=lam, iterations=iterations, tolerance=tolerance, start=start,
            preconditioner=preconditioner, callback=callback,
        )  # fmt: skip
    method = fista if solver == "fista" else admm
    return method(
        normal, right, penalty=function, lam=lam, iterations=iterations, tolerance=tolerance, start=start,
        callback=callback,
    )  # fmt: skip


def first_images(
    start: NDArray[Any] | Start,
    operator: Encoding,
    ksp: NDArray[Any],
    right: NDArray[Any],
    *,
    lam: float,
    regulariser: Regulariser,
) -> NDArray[Any] | None:
    """Return the images that iterations begin with; None: zero.

    Parameters
    ----------
    start : array (K, *X), "zero" or "density"
        As for `reconstruct`.
    operator, ksp, lam, regulariser
        As for `reconstruct`.
    right : array (K, *X)
        A^H W y.

    Raises
    ------
    UserError
        The name is unknown, or density is asked for a grid.
    ValueError
        The shape is not that of coefficient images.
    """
    if not isinstance(start, str):
        if start.shape != operator.coeff_shape:
            raise ValueError(f"start has shape {start.shape}, expected {operator.coeff_shape}")
        return start
    if start == "zero":
        return None
    if start != "density":
        raise UserError(f"start is {start!r}, expected zero, density, or images")
    if not isinstance(operator, SubspaceOperator):
        raise UserError("start is density, which is for readouts (SubspaceOperator); leave it out")
    return density_start(operator, ksp, right, lam=lam if regulariser == "l2" else 0.0)


def preconditioner_of(
    name: Preconditioner, operator: Encoding, *, lam: float
) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    """Return the preconditioner of that name, for an operator and a penalty lam/2 ||c||^2; None: none.

    Raises
    ------
    UserError
        It is not for this operator.
    """
    if name == "none":
        return None
    if not isinstance(operator, SubspaceOperator):
        raise UserError(f"preconditioner is {name}, which is for readouts (SubspaceOperator); leave it out")
    return Circulant(operator.toeplitz, operator.sens, lam)
