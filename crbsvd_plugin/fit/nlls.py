"""Nonlinear least squares in the compressed domain, all voxels at once.

min 1/2 ||c - M0 phi^H s(theta)||^2 over a complex M0 and the parameters theta within their ranges, by
Levenberg-Marquardt steps (`levenberg`) in the scaled coordinates of `box.Box`, from given starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..cluster import Pool
from ..errors import UserError
from . import levenberg
from .blocks import in_blocks
from .forward import CompressedModel
from .result import Maps

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_VOXELS = 8192
_DAMPING = 1e-3
# beyond this no step is left, and its square is still a number
_MOST = 1e100
_TRUSTED = 0.25


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a voxel is done, in the words of `scipy.optimize.least_squares`, for voxels of unit norm.

    Parameters
    ----------
    ftol : float
        A step lowers the cost by less than this share of it, and by a quarter of what was predicted or more.
    xtol : float
        A step is shorter than this, in coordinates of which 2 is the whole range.
    gtol : float
        No derivative of the cost, times the distance to the bound that it points to, is larger.
    iterations : int
        Largest number of steps tried.
    """

    ftol: float = 1e-8
    xtol: float = 1e-8
    gtol: float = 1e-8
    iterations: int = 100


class Minima(NamedTuple):
    """What was found for B voxels.

    Attributes
    ----------
    u : float64 array (B, P)
        Scaled coordinates.
    m0 : complex128 array (B,)
        Complex scale.
    cost : float64 array (B,)
        1/2 ||c - M0 s||^2.
    converged : bool array (B,)
        A stopping rule was met.
    """

    u: NDArray[np.float64]
    m0: NDArray[np.complex128]
    cost: NDArray[np.float64]
    converged: NDArray[np.bool_]


def fit(
    coeff: NDArray[Any],
    forward: CompressedModel,
    start: Maps,
    *,
    others: NDArray[Any] | None = None,
    bounds: Mapping[str, Sequence[float]] | None = None,
    fixed: Mapping[str, ArrayLike] | None = None,
    stopping: Stopping | None = None,
    progress: Callable[[int], object] | None = None,
    pool: Pool | None = None,
) -> Maps:
    """Return the parameters of the least sum of squares for every voxel.

    Parameters
    ----------
    coeff : complex array (K, *X)
        Coefficient images.
    forward : CompressedModel
        Signals in the same basis, and the box that theta may move in.
    start : Maps
        Where to start, as by `matching.match`, and which voxels to fit.
    others : array (S, P, *X), optional
        More starts; the least sum of squares counts.
    bounds : mapping of parameter name to (low, high), optional
        Narrower ranges, SI units.
    fixed : mapping of parameter name to array (*X) or float, optional
        Parameters that are known in every voxel, such as a map of B1; they replace those of the starts.
    stopping : Stopping, optional
        When a voxel is done.
    progress : callable, optional
        Called with the number of voxels after each block.
    pool : Pool, optional
        Workers to spread the blocks over; the maps are the same, bit for bit.

    Returns
    -------
    Maps
        With `converged` and `residual`; `edge` is True where a parameter ends at one of its bounds.

    Raises
    ------
    UserError
        There are too few coefficients for the parameters, a name is unknown, or bounds, starts or fixed values
        lie outside of each other.
    ValueError
        The arrays do not fit.
    """
    shape, box = coeff.shape[1:], forward.box
    if len(coeff) != forward.rank or start.mask.shape != shape or start.parameters != box.parameters:
        raise ValueError(f"coeff {coeff.shape}, starts {start.theta.shape} and {forward.rank} coefficients do not fit")
    allowed, held = box.narrowed(bounds or {}), dict(fixed or {})
    moving = allowed.free & ~np.isin([parameter.name for parameter in box.parameters], list(held))
    check_rank(len(coeff), int(moving.sum()))
    chosen = np.flatnonzero(start.mask)
    starts = np.stack([start.theta, *([] if others is None else others)]).astype(np.float64)
    starts = np.moveaxis(starts.reshape(*starts.shape[:2], -1)[..., chosen], 1, -1)  # (S, V, P)
    for name, values in held.items():
        known = np.broadcast_to(np.asarray(values, np.float64), shape).ravel()[chosen]
        box.check(name, known, "the fixed value")
        starts[..., box.index(name)] = known
    for i in np.flatnonzero(moving):
        allowed.check(box.parameters[i].name, starts[..., i].ravel(), "the start")
    limits = np.where(moving, [box.unit(allowed.low), box.unit(allowed.high)], 0)

    # cut before the cast: a volume is larger in double precision
    voxels = coeff.reshape(len(coeff), -1).T[chosen]
    one = partial(_fit_block, forward=forward, limits=limits, stopping=stopping or Stopping())
    theta = np.zeros((len(box.parameters), start.mask.size), np.float32)
    m0, residual = np.zeros(start.mask.size, np.complex64), np.zeros(start.mask.size, np.float32)
    edge, converged = np.zeros((2, start.mask.size), bool)
    for part, found in in_blocks(
        one, lambda part: (voxels[part], starts[:, part]), len(chosen), size=_VOXELS, progress=progress, pool=pool
    ):
        at = chosen[part]
        theta[:, at] = box.theta(found.u).T
        m0[at], residual[at], converged[at] = found.m0, np.sqrt(2 * found.cost), found.converged
        edge[at] = np.any(moving & ((found.u <= limits[0]) | (found.u >= limits[1])), axis=1)
    return Maps(
        box.parameters, theta.reshape(-1, *shape), m0.reshape(shape), edge.reshape(shape), start.mask,
        converged.reshape(shape), residual.reshape(shape),
    )  # fmt: skip


def check_rank(rank: int, n_parameters: int) -> None:
    """Refuse fewer coefficients than there are unknowns: M0, and parameters that are not fixed.

    Raises
    ------
    UserError
        There are fewer. (Of complex coefficients about half as many would do, but not of those of a real basis,
        which for most sequences differ from real numbers by one phase.)
    """
    if rank <= n_parameters:
        raise UserError(
            f"{rank} coefficients cannot tell M0 and {n_parameters} parameters, expected at least {n_parameters + 1}; "
            "take a basis of larger rank, or fix parameters"
        )


def _fit_block(
    block: tuple[NDArray[Any], NDArray[np.float64]],
    *,
    forward: CompressedModel,
    limits: NDArray[np.float64],
    stopping: Stopping,
) -> Minima:
    """Return the best of the minima from several starts (S, V, P) for voxels (V, K)."""
    voxels, starts = block
    exact: NDArray[np.complex128] = voxels.astype(np.complex128)
    size = np.linalg.norm(exact, axis=1)
    unit: NDArray[np.complex128] = exact / np.where(size > 0, size, 1)[:, None]
    u = forward.box.unit(starts)
    # a start may lie outside by the rounding of single precision; what is fixed has limits of no width
    u = np.where(limits[0] < limits[1], np.clip(u, *limits), np.clip(u, -1, 1))
    best, *more = (minimise(unit, forward, one, limits, stopping=stopping) for one in u)
    for found in more:
        better = found.cost < best.cost
        best = Minima(*(_chosen(better, a, b) for a, b in zip(found, best, strict=True)))
    return best._replace(m0=best.m0 * size, cost=best.cost * size**2)


def _chosen(better: NDArray[np.bool_], a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.where(better.reshape(-1, *(1,) * (a.ndim - 1)), a, b)


def minimise(
    voxels: NDArray[np.complex128],
    forward: CompressedModel,
    u: NDArray[np.float64],
    limits: NDArray[np.float64],
    *,
    stopping: Stopping,
) -> Minima:
    """Return the minima that Levenberg-Marquardt steps reach.

    Parameters
    ----------
    voxels : complex128 array (B, K)
        Coefficients, of unit norm if the tolerances are to mean the same for all.
    forward : CompressedModel
        The signals.
    u : float64 array (B, P)
        Starts in scaled coordinates, within the limits.
    limits : float64 array (2, P)
        Lowest and highest; where they are the same, u stays as it is.
    stopping : Stopping
        When a voxel is done.

    Notes
    -----
    All voxels step together; those that are done leave. One whose start is not finite stays there, not converged.
    """
    now = _evaluated(voxels, forward, u)
    damping, growth = np.full(len(u), _DAMPING), np.full(len(u), 2.0)
    finite = np.isfinite(now.cost) & np.isfinite(now.grad).all(axis=1)
    converged = _slope(now, limits) < stopping.gtol
    left = np.flatnonzero(finite & ~converged)
    for _ in range(stopping.iterations):
        if not len(left):
            break
        here = now.at(left)
        step, predicted = np.empty_like(here.u), np.empty(len(left))
        levenberg.steps(here.u, here.grad, here.hess, damping[left], limits[0], limits[1], step, predicted)
        there = _evaluated(voxels[left], forward, here.u + step)
        gain = here.cost - there.cost
        ratio = gain / np.where(predicted > 0, predicted, np.inf)
        better = gain > 0
        now.put(left[better], there.at(better))
        # Nielsen: the better the prediction the less damping, and ever faster more of it where it fails
        less = np.maximum(1 / 3, 1 - (2 * np.minimum(ratio, 1) - 1) ** 3)
        damping[left] = np.minimum(damping[left] * np.where(better, less, growth[left]), _MOST)
        growth[left] = np.where(better, 2.0, np.minimum(2 * growth[left], _MOST))
        done = np.linalg.norm(step, axis=1) < stopping.xtol
        done |= (gain < stopping.ftol * here.cost) & (ratio > _TRUSTED)
        done |= better & (_slope(there, limits) < stopping.gtol)
        converged[left[done]] = True
        left = left[~done]
    return Minima(now.u, now.m0, now.cost, converged)


class _State(NamedTuple):
    """Where voxels are, and what `levenberg` needs to know there."""

    u: NDArray[np.float64]
    m0: NDArray[np.complex128]
    cost: NDArray[np.float64]
    grad: NDArray[np.float64]
    hess: NDArray[np.float64]

    def at(self, which: NDArray[Any]) -> _State:
        return _State(*(array[which] for array in self))

    def put(self, which: NDArray[np.intp], new: _State) -> None:
        for array, values in zip(self, new, strict=True):
            array[which] = values


def _evaluated(voxels: NDArray[np.complex128], forward: CompressedModel, u: NDArray[np.float64]) -> _State:
    theta = forward.box.theta(u)
    signal, jac = forward.value_and_jacobian(theta)
    jac = jac * forward.box.slope(theta)[..., None]
    n, p = u.shape
    found = _State(u, np.empty(n, np.complex128), np.empty(n), np.empty((n, p)), np.empty((n, p, p)))
    levenberg.normal_equations(voxels, np.ascontiguousarray(signal), jac, *found[1:])
    return found


def _slope(state: _State, limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest derivative times the distance to the bound that it points to, as in scipy's "trf"."""
    low, high = limits
    room = np.where(state.grad < 0, high - state.u, state.u - low)
    return np.abs(state.grad * np.where(low < high, room, 0)).max(axis=1)
