"""A digital brain for magnetisation transfer: a volume of three tissues with two pools, in uneven fields.

As in `phantom`, all varies in steps, so that the signal of each combination is computed once: m0s and Rx follow
smooth waves within the tissues, w0 and B1 are smooth over the head, the other parameters are those of the tissue.

References
----------
White and grey matter at 3 T: Asslaender et al., Imaging Neurosci 2 (2024), doi 10.1162/imag_a_00177. The fluid has
the means of Table I of Mao et al., arXiv 2305.00326, and a little of the second pool, whose derivatives would vanish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import anatomy
from .geometry import Geometry
from .phantom import TISSUES, Phantom, occurring

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARAMETERS = ("m0s", "R1f", "R2f", "Rx", "R1s", "T2s", "w0", "B1")
"""What the phantom knows: 1, 1/s, 1/s, 1/s, 1/s, s, rad/s, 1."""

TABLE = {
    "GM": (0.098, 1 / 2.46, 1 / 0.083, 14.0, 1 / 0.42, 14.4e-6),
    "WM": (0.212, 1 / 1.84, 1 / 0.0769, 13.6, 1 / 0.34, 12.5e-6),
    "CSF": (1e-3, 1 / 4.0, 1 / 2.0, 30.0, 4.0, 10e-6),
}
"""m0s, R1f, R2f, Rx, R1s [1/s] and T2s [s] of the tissues."""

_SPREAD = {"m0s": (0.15, 5), "Rx": (0.15, 3)}  # relative, and steps
_W0 = (2 * np.pi * 30.0, 12)  # rad/s, and steps
_B1 = (0.75, 1.1, 6)


def brain(matrix: int, *, fov: float = 240.0, factor: int = 2) -> Phantom:
    """Make the brain phantom: matrix x matrix x matrix voxels.

    Parameters
    ----------
    matrix : int
        Voxels of the image grid along every side.
    fov : float
        Field of view [mm] along every side.
    factor : int
        Fine voxels per voxel of the image grid, along every side.
    """
    geometry = Geometry((matrix,) * 3, (fov / matrix,) * 3, anatomy.CENTRE_LPS)
    where = anatomy.places(matrix, fov=fov, factor=factor, n_dims=3)
    fraction, source = anatomy.fractions(where)
    z, y, x = where
    within = [_steps(anatomy.wave(where, number), n) for number, (_, n) in enumerate(_SPREAD.values())]
    # a field that falls off from the sinuses in front and below, and one that is strongest in the middle
    shim = np.tanh(((y + 60) / 90 + (z + 30) / 120) - 0.3 + x / 400)
    mode = 2 * np.exp(-(x**2 + y**2 + z**2) / 90.0**2) - 1
    levels = [*within, _steps(shim, _W0[1]), _steps(mode, _B1[2])]
    sizes = [*(n for _, n in _SPREAD.values()), _W0[1], _B1[2]]
    theta = np.concatenate([_combinations(*TABLE[name], sizes) for name in anatomy.TISSUES])
    combination = np.ravel_multi_index(levels, sizes)
    pair = combination + np.arange(len(TABLE)).reshape(-1, 1, 1, 1) * int(np.prod(sizes))
    theta, rows = occurring(theta, pair, fraction)
    m0 = np.broadcast_to(np.array([tissue.m0 for tissue in TISSUES]).reshape(-1, 1, 1, 1), fraction.shape)
    return Phantom(fraction, theta, rows, m0, factor, geometry, source, PARAMETERS)


def _steps(wave: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Return in which of n equal steps a function between -1 and 1 lies."""
    return np.clip(((wave + 1) / 2 * n).astype(np.intp), 0, n - 1)


def _combinations(
    m0s: float, r1f: float, r2f: float, rx: float, r1s: float, t2s: float, sizes: list[int]
) -> NDArray[np.float64]:
    """Return theta (N, 8) of a tissue, at the middle of all steps of m0s, Rx, w0 and B1, the last one fastest."""
    relative = [1 + spread * (2 * (np.arange(n) + 0.5) / n - 1) for spread, n in _SPREAD.values()]
    w0 = _W0[0] * (2 * (np.arange(sizes[2]) + 0.5) / sizes[2] - 1)
    b1 = _B1[0] + (_B1[1] - _B1[0]) * (np.arange(sizes[3]) + 0.5) / sizes[3]
    grid = np.meshgrid(m0s * relative[0], rx * relative[1], w0, b1, indexing="ij")
    of_m0s, of_rx, of_w0, of_b1 = (axis.ravel() for axis in grid)
    same = np.ones_like(of_m0s)
    return np.stack([of_m0s, r1f * same, r2f * same, of_rx, r1s * same, t2s * same, of_w0, of_b1], axis=1)
