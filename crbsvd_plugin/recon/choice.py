"""Which backend and solver, and what goes together with them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..errors import UserError
from .bart_options import PLAIN, BartOptions
from .penalty import Regulariser, Shift
from .scaling import SCALINGS, Scaling

Backend = Literal["native", "sigpy", "bart"]
BACKENDS: tuple[Backend, ...] = ("native", "sigpy", "bart")
Solver = Literal["cg", "fista", "admm"]
SOLVERS: tuple[Solver, ...] = ("cg", "fista", "admm")
Preconditioner = Literal["none", "circulant"]
PRECONDITIONERS: tuple[Preconditioner, ...] = ("none", "circulant")


def check_numbers(*, lam: float, iterations: int, tolerance: float, scaling: Scaling) -> None:
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
    preconditioner: Preconditioner = "none",
    start: str = "zero",
) -> Solver:
    """Return the solver that these options ask for, see `reconstruct`; `start` is a name, or "images".

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
    if preconditioner not in PRECONDITIONERS:
        raise UserError(f"preconditioner is {preconditioner!r}, expected one of {', '.join(PRECONDITIONERS)}")
    if preconditioner != "none" and (solver != "cg" or backend != "native"):
        raise UserError(f"preconditioner is {preconditioner}, which is for cg in the backend native; leave it out")
    if backend == "sigpy" and start != "zero":
        raise UserError(f"start is {start}, but sigpy begins with zero; leave it out, or take the backend native")
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
