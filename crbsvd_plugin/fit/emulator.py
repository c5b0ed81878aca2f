r"""Polynomials in the place of a signal model, in the compressed domain.

    phi^H s(theta) = sum_n a_n T_n1(u_1) .. T_nP(u_P)

with Chebyshev polynomials T_n of the scaled coordinates u of `box.Box`. Signals are analytic in the logarithm
of relaxation times, so the coefficients fall off geometrically: 20 x 32 simulated signals stand for all
of MRF-FISP, T1 = 0.1 to 5.5 s and T2 = 5 ms to 3 s, to 1e-7. The derivatives are those of the polynomial, so a fit
sees a function and its true gradient.

What an error does: if no signal is off by more than eps ||phi^H s||, the estimates of a voxel c are off by at most
eps ||c|| / sigma of their Cramer-Rao standard deviations, because a row of the pseudo-inverse of the Jacobian has the
norm sqrt(CRB) / sigma. At eps = 1e-5 that is a hundredth for ||c|| = 1000 sigma. The derivatives need not
be as good: they decide how fast, and not where, a fit ends.

References
----------
Trefethen, Approximation Theory and Approximation Practice, SIAM (2013), chapters 3, 4 and 8.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import threads
from ..distribution import even_points
from ..errors import UserError
from ..progress import Report, counted, silent
from .box import Box
from .forward import Simulated

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_LINE = (16, 32, 64, 128, 256)
_MOST = 50_000
_TESTED = 128
_AT_ONCE = 512
_GROWTH, _ATTEMPTS = 1.25, 3
MOST_PARAMETERS = 5
"""Beyond, a grid of `_MOST` points has fewer than seven in each parameter."""


@dataclass(frozen=True)
class Emulator:
    """A polynomial for phi^H s(theta); made by `emulate`.

    Parameters
    ----------
    box : Box
        Where it holds.
    rank : int
        Number of coefficients K.
    columns : int array (R,)
        Which of the 2 K real and imaginary parts (in turns) are not zero everywhere.
    polynomial : float64 array (n_1, .., n_P, R)
        Chebyshev coefficients a_n of these parts.
    error : float
        Largest error on held-out points, relative to ||phi^H s||.
    jac_errors : float64 array (P,)
        Those of the derivatives to u, relative to ||phi^H s|| too.
    """

    box: Box
    rank: int
    columns: NDArray[np.intp]
    polynomial: NDArray[np.float64]
    error: float
    jac_errors: NDArray[np.float64]

    def value_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return phi^H s (B, K) and its derivatives (B, P, K) of theta (B, P).

        Raises
        ------
        ValueError
            theta lies outside of the box, where polynomials mean nothing.
        """
        theta = np.asarray(theta, np.float64)
        if not np.all((theta >= self.box.low) & (theta <= self.box.high)):
            raise ValueError(f"theta runs from {theta.min(axis=0)} to {theta.max(axis=0)}, outside of {self.box}")
        value, jac = self._by_unit(self.box.unit(theta))
        slope = self.box.slope(theta)
        return value, jac / np.where(slope > 0, slope, np.inf)[..., None]

    def truncated(self, rank: int) -> Emulator:
        """Return the map to the first `rank` coefficients; errors stay those of all, relative to all of them."""
        kept = self.columns < 2 * rank
        polynomial = np.ascontiguousarray(self.polynomial[..., kept])
        return replace(self, rank=rank, columns=self.columns[kept], polynomial=polynomial)

    def _by_unit(self, u: NDArray[np.float64]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return the values (B, K) and derivatives (B, P, K) to u at u (B, P)."""
        from .chebyshev import evaluate

        n, p = u.shape
        rows = np.zeros((n, 1 + p, 2 * self.rank))
        parts = np.empty((n, 1 + p, len(self.columns)))
        sizes = np.array(self.polynomial.shape[:-1], np.int64)
        # more pieces than threads, for they share cores with others
        evaluate(np.ascontiguousarray(u), self.polynomial.ravel(), sizes, parts, max(1, min(n, 4 * threads.count())))
        rows[..., self.columns] = parts
        whole = rows.view(np.complex128)
        return whole[:, 0], whole[:, 1:]


def emulate(exact: Simulated, *, tolerances: Sequence[float] = (1e-5, 1e-4), report: Report = silent) -> Emulator:
    """Return a polynomial for a model in its box.

    The number of terms in each parameter is found on lines through the middle and the corners of the box, then the
    model is simulated at the Chebyshev points of all parameters, and the result compared with the model on
    points in between, on the faces and in the corners of the box.

    Parameters
    ----------
    exact : Simulated
        The model, which should be smooth (see `models.smooth`), with basis and box.
    tolerances : sequence of float
        Largest error of a signal, relative to ||phi^H s||; the next one where that takes too many signals.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        The model is too rough, or has too many parameters, for a polynomial of reasonable size.
    """
    check_parameters(exact.box)
    report("emulator", 0, 0)
    held_out = _held_out(exact.box)
    theta = exact.box.theta(held_out)
    value, jac = exact.value_and_jacobian(theta)
    jac = jac * exact.box.slope(theta)[..., None]
    norm = np.linalg.norm(value, axis=-1)
    if not norm.all() or not np.isfinite(norm).all():
        raise UserError("the model's signals are zero or not finite in some places, where nothing can be fitted")
    for tolerance in tolerances:
        sizes = [_size_along(exact, axis, tolerance) for axis in range(len(exact.box.parameters))]
        for _ in range(_ATTEMPTS):
            if math.prod(sizes) > _MOST:
                break
            found = _interpolated(exact, sizes, report)
            close, close_jac = found._by_unit(held_out)
            error = float((np.linalg.norm(close - value, axis=-1) / norm).max())
            jac_errors = (np.linalg.norm(close_jac - jac, axis=-1) / norm[:, None]).max(axis=0)
            if error <= tolerance:
                if tolerance > tolerances[0]:
                    logger.warning(
                        "the emulator is good to %.1e of a signal only, not to %.0e: narrow the ranges, or take exact "
                        "signals", error, tolerances[0],
                    )  # fmt: skip
                logger.info(
                    "emulator of %s signals: off by at most %.1e of a signal, and %s in the derivatives",
                    " x ".join(map(str, sizes)), error, ", ".join(f"{e:.1e}" for e in jac_errors),
                )  # fmt: skip
                return replace(found, error=error, jac_errors=jac_errors)
            sizes = [n if n == 1 else math.ceil(_GROWTH * n) for n in sizes]
    raise UserError(
        f"signals cannot be emulated to {max(tolerances):g} by polynomials of {' x '.join(map(str, sizes))} terms, "
        f"expected at most {_MOST} in all to be enough: narrow the ranges, or take exact signals (--signals exact)"
    )


def check_parameters(box: Box) -> None:
    """Refuse more free parameters than a polynomial of reasonable size can have.

    Raises
    ------
    UserError
        There are more.
    """
    n_free = int(box.free.sum())
    if n_free > MOST_PARAMETERS:
        raise UserError(
            f"signals of {n_free} parameters cannot be emulated, expected at most {MOST_PARAMETERS}; take exact "
            "signals (--signals exact)"
        )


def _size_along(exact: Simulated, axis: int, tolerance: float) -> int:
    """Return how many points a parameter needs, from lines through the middle and all corners of the others."""
    box = exact.box
    if not box.free[axis]:
        return 1
    others = [(-1.0, 1.0) if free and i != axis else (0.0,) for i, free in enumerate(box.free)]
    places = np.unique([*itertools.product(*others), (0.0,) * len(others)], axis=0)
    for n in _LINE:
        u = np.repeat(places[:, None], n, axis=1)
        u[..., axis] = _points(n)
        lines = _signals(exact, u.reshape(-1, u.shape[-1])).reshape(*u.shape[:2], -1)
        least = np.linalg.norm(lines, axis=-1).min(axis=1)
        size = np.linalg.norm(_transformed(lines, 1), axis=-1) / least[:, None]
        # terms that are left out add up like noise, and the points mistake them for as much again
        tails = np.sqrt(np.cumsum(size[:, ::-1] ** 2, axis=1)[:, ::-1].max(axis=0))
        count = max(1, int((2 * tails > tolerance).sum()))
        if count <= n - 2:
            break
    return count


def _interpolated(exact: Simulated, sizes: list[int], report: Report) -> Emulator:
    """Return the polynomial through the model at the Chebyshev points."""
    total = math.prod(sizes)
    step = counted(report, "emulator", total)
    u = np.stack(np.meshgrid(*map(_points, sizes), indexing="ij"), axis=-1).reshape(total, len(sizes))
    parts = []
    for start in range(0, total, _AT_ONCE):
        parts.append(_signals(exact, u[start : start + _AT_ONCE]))
        step(len(parts[-1]))
    whole = np.concatenate(parts)
    columns = np.flatnonzero(whole.any(axis=0))
    polynomial = whole[:, columns].reshape(*sizes, -1)
    for axis in range(len(sizes)):
        polynomial = _transformed(polynomial, axis)
    unknown = np.full(len(sizes), np.nan)
    return Emulator(exact.box, exact.rank, columns, np.ascontiguousarray(polynomial), math.nan, unknown)


def _signals(exact: Simulated, u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return phi^H s of coordinates (B, P) as real and imaginary parts in turns (B, 2 K)."""
    signal = exact.model.signal(exact.box.theta(u))
    return np.ascontiguousarray(signal @ exact.phi.conj(), np.complex128).view(np.float64)


def _points(n: int) -> NDArray[np.float64]:
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


def _transformed(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the Chebyshev coefficients along an axis of values at its `_points`."""
    from scipy.fft import dct

    n = values.shape[axis]
    found = np.moveaxis(dct(values, type=2, axis=axis) / n, axis, 0)
    found[0] /= 2
    return np.moveaxis(found, 0, axis)


def _held_out(box: Box) -> NDArray[np.float64]:
    """Return points (B, P) inside of the box, on its faces and in its corners."""
    p = len(box.parameters)
    inside = 2 * even_points(_TESTED, p) - 1
    faces = inside.copy()
    at = np.arange(_TESTED)
    faces[at, at % p] = np.sign(faces[at, at % p])
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=p)))
    return np.concatenate([inside, faces, corners]) * box.free
