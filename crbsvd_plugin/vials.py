"""Plates of vials with known T1 and T2, as in phantoms for quality assurance.

The plates are those of the ISMRM/NIST system phantom: fourteen vials, ten on a ring and four within, here without
the water around them.

References
----------
Stupic et al., Magn Reson Med 86:1194 (2021), doi 10.1002/mrm.28779: relaxation times at 3 T and 20 degrees Celsius.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .geometry import Geometry
from .phantom import Phantom

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# T1 and T2 [s] of vials 1 to 14 at 3 T: the plate of MnCl2 varies T2, that of NiCl2 varies T1
_T2_PLATE = (
    (0.0909, 0.1269, 0.1769, 0.2442, 0.3365, 0.4584, 0.6086, 0.8017, 1.044, 1.332, 1.604, 1.907, 2.173, 2.480),
    (0.00559, 0.00791, 0.01124, 0.01581, 0.02256, 0.03197, 0.04642, 0.06407, 0.09689, 0.13327, 0.19094, 0.2781,
     0.4035, 0.5813),
)  # fmt: skip
_T1_PLATE = (
    (0.021719, 0.03084, 0.04453, 0.0627, 0.089, 0.1259, 0.1753, 0.24713, 0.3515, 0.4967, 0.706, 0.9841, 1.454, 1.989),
    (0.01583, 0.02238, 0.03186, 0.0457, 0.0643, 0.0903, 0.1273, 0.1808, 0.2555, 0.3596, 0.5101, 0.7179, 1.077, 1.465),
)  # fmt: skip
NIST = {name: np.array(times).T for name, times in (("nist-t1", _T1_PLATE), ("nist-t2", _T2_PLATE))}
"""T1, T2 [s] (14, 2) of the vials of the NIST plates, by the name of the plate."""

_RINGS = ((10, 60.0), (4, 25.0))  # vials, radius [mm]
_RADIUS = 10.0
_THICKNESS = 5.0


def nist_plate(name: str, matrix: int, *, fov: float = 240.0) -> Phantom:
    """Make the phantom of a NIST plate, ``nist-t1`` or ``nist-t2``: a slice through the middle of its vials.

    Parameters
    ----------
    name : str
        The plate.
    matrix : int
        Voxels of the image grid along either side.
    fov : float
        Field of view [mm] along either side.
    """
    angles = [2 * np.pi * np.arange(n) / n - np.pi / 2 for n, _ in _RINGS]
    centres = [
        radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        for angle, (_, radius) in zip(angles, _RINGS, strict=True)
    ]
    return plate(NIST[name], np.concatenate(centres), matrix, fov=fov, radius=_RADIUS, source=name)


def plate(
    theta: ArrayLike,
    centres: ArrayLike,
    matrix: int,
    *,
    fov: float,
    radius: float,
    factor: int = 4,
    source: str = "vials",
) -> Phantom:
    """Make a phantom of round vials with M0 = 1 and nothing around them.

    Parameters
    ----------
    theta : array (N, 2)
        T1, T2 [s] of the vials.
    centres : array (N, 2)
        Their centres (y, x) from that of the image [mm].
    matrix, fov, factor
        As for `phantom.brain`.
    radius : float
        Inner radius of a vial [mm].
    source : str
        Name of the phantom.
    """
    theta, centres = np.asarray(theta, np.float64), np.asarray(centres, np.float64)
    voxel = fov / matrix
    n_fine = factor * matrix
    offset = (np.arange(n_fine) - n_fine // 2) * (voxel / factor)
    apart = np.hypot(offset[:, None] - centres[:, 0, None, None], offset - centres[:, 1, None, None])
    nearest = apart.argmin(axis=0)[None]
    fraction = (apart.min(axis=0) < radius).astype(np.float64)[None]
    geometry = Geometry((matrix, matrix, 1), (voxel, voxel, _THICKNESS))
    return Phantom(fraction, theta, nearest, np.ones_like(fraction), factor, geometry, source, tissues=())
