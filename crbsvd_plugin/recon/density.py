r"""Density weights of any trajectory, and a first image from them.

Samples that lie close together say the same thing several times; the weights d_j that undo it solve

.. math:: \sum_i d_i\, h(k_j - k_i) = 1 \quad \text{for every sample } j,

h a narrow positive function: here that whose transform falls in a straight line to zero one field of view off the
centre along each axis. They are found by dividing them by the left-hand side again and again (Pipe and Menon, doi
10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V), which is two NUFFTs.

They make a first image, and are no part of the objective: weights there would give up precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import threads
from ..fine_grid import upsampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..encoding import SubspaceOperator

_ROUNDS = 10
_ACCURACY = 1e-3


def density_weights(
    traj: NDArray[Any], shape: tuple[int, ...], *, present: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """Return the density weights (R, S), of mean 1 over the samples that are there.

    Parameters
    ----------
    traj : array (R, S, ndim)
        Positions in cycles per field of view.
    shape : tuple of int
        Image size X.
    present : bool array (R, S), optional
        Samples that are there; the others get the weight 0.
    """
    import finufft

    kept = np.ones(traj.shape[:2], bool) if present is None else present
    points = [(traj[kept][:, axis] * (2 * np.pi / n)).astype(np.float32) for axis, n in enumerate(shape)]
    grid = tuple(2 * n for n in shape)
    options = {
        "eps": _ACCURACY, "upsampfac": upsampling(grid, 1.25), "dtype": "complex64", "nthreads": threads.count(),
    }  # fmt: skip
    plans = [finufft.Plan(kind, grid, isign=sign, **options) for kind, sign in ((1, 1), (2, -1))]
    for plan in plans:
        plan.setpts(*points)
    window = np.ones(grid, np.float32)
    for axis, n in enumerate(shape):
        window *= (1 - np.abs(np.arange(-n, n)) / n).astype(np.float32).reshape(-1, *[1] * (len(shape) - axis - 1))
    density = np.ones(len(points[0]), np.float32)
    for _ in range(_ROUNDS):
        spread = plans[1].execute(plans[0].execute(density.astype(np.complex64)) * window).real
        # h is positive, but for the accuracy of the NUFFT
        density /= np.maximum(spread, _ACCURACY * spread.mean())
    found = np.zeros(traj.shape[:2], np.float32)
    found[kept] = density / density.mean()
    return found


def density_start(
    operator: SubspaceOperator, ksp: NDArray[Any], right: NDArray[Any], *, lam: float = 0.0
) -> NDArray[Any]:
    """Return a first image (K, *X): a A^H W D y, with the number a that fits the data best.

    a minimises 1/2 sum w |A c - y|^2 + lam/2 ||c||^2 along this image.

    Parameters
    ----------
    operator : SubspaceOperator
        A and w.
    ksp : complex array (C, R, S)
        Measured k-space y.
    right : array (K, *X)
        A^H W y.
    lam : float
        Weight of the penalty.
    """
    weights = density_weights(operator.traj, operator.shape, present=operator.weights > 0)
    image = operator.adjoint(np.where(weights > 0, ksp, 0) * weights)
    curvature = float(np.vdot(image, operator.normal(image)).real) + lam * float(np.vdot(image, image).real)
    if not curvature > 0:
        return image
    return np.asarray(image * (np.vdot(image, right) / curvature), operator.dtype)
