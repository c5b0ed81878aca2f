"""Spokes of a koosh ball: through the centre of 3-D k-space, in directions all over a half sphere.

References
----------
Chan et al., Magn Reson Med 61:354 (2009), doi 10.1002/mrm.21837: two golden means.
Flassbeck and Asslaender, Magn Reson Med 91:1067 (2024), doi 10.1002/mrm.29945: why successive spokes shall be close.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROOT = 1.4655712318767680  # of x^3 = x^2 + 1
GOLDEN_MEANS = (1 / _ROOT**2, 1 / _ROOT)
"""0.4656 and 0.6823: the steps of the height and of the turn."""


def directions(n: int) -> NDArray[np.float64]:
    """Compute n unit vectors (n, 3), in the order z, y, x: heights and turns proceed by the two golden means.

    z = {0.4656 i}, and the turn about z is 2 pi {0.6823 i}, {} being the fractional part.
    """
    number = np.arange(n)
    z, turn = (np.mod(number * mean, 1) for mean in GOLDEN_MEANS)
    across = np.sqrt(1 - z**2)
    return np.stack([z, across * np.sin(2 * np.pi * turn), across * np.cos(2 * np.pi * turn)], axis=1)


def reshuffled(spokes: NDArray[np.float64], n_frames: int) -> NDArray[np.float64]:
    """Order spokes such that those of a frame cover k-space evenly, and successive ones are close.

    The n successive directions of the golden means, which cover the half sphere best, go to the n shots of one frame,
    to each of them the one nearest to what it had in the frame before (all of them together: least sum of squares).

    Parameters
    ----------
    spokes : array (T n, 3)
        Directions, those of a frame next to each other.
    n_frames : int
        Frames T.

    Returns
    -------
    array (n, T, 3)
        Direction of every shot and frame. A spoke may be run through the other way, which covers the same.
    """
    from scipy.optimize import linear_sum_assignment

    frames = spokes.reshape(n_frames, -1, 3).copy()
    for before, now in pairwise(frames):
        along = before @ now.T
        shot, chosen = linear_sum_assignment(-np.abs(along))
        now[:] = now[chosen] * np.where(along[shot, chosen] < 0, -1.0, 1.0)[:, None]
    return frames.swapaxes(0, 1).copy()


def koosh_ball(n_frames: int, n_shots: int, matrix: int, *, oversampling: int = 2) -> NDArray[np.float64]:
    """Compute the spokes of a scan, `reshuffled`.

    Sample s lies at k = (s - S//2) / oversampling on its spoke.

    Parameters
    ----------
    n_frames, n_shots : int
        Frames T, and spokes n of each.
    matrix : int
        Voxels along every side of the field of view; S = oversampling x matrix.
    oversampling : int
        Samples per cycle per field of view.

    Returns
    -------
    array (n, T, S, 3)
        Positions (z, y, x) in cycles per field of view.
    """
    n_samples = oversampling * matrix
    radius = (np.arange(n_samples) - n_samples // 2) / oversampling
    return reshuffled(directions(n_frames * n_shots), n_frames)[..., None, :] * radius[:, None]
