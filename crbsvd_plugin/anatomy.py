"""Where grey matter, white matter and cerebrospinal fluid lie in a head: in a slice, or in a volume.

The anatomy is that of the MNI152 tissue maps; the slice is an axial one, through basal ganglia and ventricles.

References
----------
Tissue maps: MNI ICBM152 2009a nonlinear symmetric, as they lie in the wheel of nilearn.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

TISSUES = ("GM", "WM", "CSF")
"""The order of the shares."""
CENTRE_LPS = (0.0, 18.0, 14.0)
"""Centre of the images [mm]: among caudate, putamen, thalamus and both horns of the ventricles."""

_SHARPNESS = 8.0
_MAPS = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


def places(matrix: int, *, fov: float, factor: int, n_dims: int) -> list[NDArray[np.float64]]:
    """Return the positions (y, x) or (z, y, x) [mm] of all voxels of a fine grid, from the centre of the image."""
    n_fine = factor * matrix
    offset = (np.arange(n_fine) - n_fine // 2) * (fov / matrix / factor)
    return list(np.meshgrid(*[offset] * n_dims, indexing="ij"))


def fractions(where: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], str]:
    """Return the shares of the tissues (3, *F) at positions (y, x) or (z, y, x) [mm], and where they are from.

    Without nilearn (extra ``demo``) the anatomy is made of ellipsoids, and a warning is logged.
    """
    z, y, x = (np.zeros_like(where[-1]), *where)[-3:]
    shares = _mni152(z, y, x)
    source = "analytic" if shares is None else "mni152"
    return _sharpened(_ellipsoids(z, y, x) if shares is None else shares), source


def wave(where: Sequence[NDArray[np.float64]], number: int) -> NDArray[np.float64]:
    """Return a smooth function between -1 and 1 of positions [mm], another one for each number."""
    z, y, x = (np.zeros_like(where[-1]), *where)[-3:]
    turn = 0.7 + 2.1 * number
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    found: NDArray[np.float64] = 0.6 * np.sin((along + 0.7 * z) / 23.0 + turn) + 0.4 * np.cos(across / 31.0 - turn)
    return found


def _sharpened(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn probabilities (3, *F), means over many brains, into the fractions of one: nearly pure tissues."""
    power = shares**_SHARPNESS
    inside = shares.sum(axis=0) > 0.5
    fraction: NDArray[np.float64] = np.where(inside, power / np.maximum(power.sum(axis=0), 1e-12), 0.0)
    return fraction


def _mni152(z: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return GM, WM and CSF (3, *F) at LPS positions [mm] from the centre, or None without the files."""
    import nibabel
    from scipy.ndimage import map_coordinates

    spec = importlib.util.find_spec("nilearn")
    folder = Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else Path()
    files = [folder / _MAPS.format(kind) for kind in ("gm", "wm", "t1")]
    if not all(file.is_file() for file in files):
        _log.warning("nilearn's tissue maps are not installed (extra 'demo'): the phantom is made of ellipsoids")
        return None
    ras = np.stack([-(x + CENTRE_LPS[0]), -(y + CENTRE_LPS[1]), z + CENTRE_LPS[2], np.ones_like(x)])
    values = []
    for file in files:
        volume = nibabel.load(file)
        index = np.tensordot(np.linalg.inv(volume.affine)[:3], ras, axes=1)
        # the template's T1 image is zero outside of the brain: it is the mask
        voxels = np.asarray(volume.dataobj) / 255 if file is not files[2] else np.asarray(volume.dataobj) > 0
        values.append(map_coordinates(voxels.astype(np.float64), index, order=1))
    gm, wm, mask = values
    return np.stack([gm, wm, np.clip(mask - gm - wm, 0, 1)])


def _ellipsoids(z: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return GM, WM and CSF (3, *F) of nested ellipsoids, as high as long; the later cover the earlier ones."""
    gm, wm, csf = range(3)
    # tissue, centre y and x, half axes y and x [mm]
    layers = [(csf, 0, 0, 88, 70), (gm, 0, 0, 85, 67), (wm, 0, 0, 73, 55)]
    for side in (-1, 1):
        layers += [(gm, 4, side * 27, 22, 11), (csf, -14, side * 7, 15, 6), (csf, 28, side * 18, 14, 7)]
    shares = np.zeros((3, *x.shape))
    for tissue, centre_y, centre_x, half_y, half_x in layers:
        inside = ((y - centre_y) ** 2 + z**2) / half_y**2 + ((x - centre_x) / half_x) ** 2 < 1
        shares[:, inside] = 0
        shares[tissue, inside] = 1
    return shares
