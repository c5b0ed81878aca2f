"""Measured maps of B1 and B0 as input: read, checked for their unit, brought onto the voxels of a reconstruction."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .files import read_json
from .maps import load_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_HERTZ = {"Hz": 1.0, "rad/s": 2 * np.pi}
_RELATIVE, _PERCENT = (0.1, 4.0), (10.0, 400.0)
_MOST_UNKNOWN = 0.5  # share of the eight neighbours, by weight, without which there is no value


@dataclass(frozen=True)
class FieldMap:
    """A measured map.

    Parameters
    ----------
    values : float64 array (*X)
        Its values, NaN where nothing was measured; X = (y, x) or (z, y, x).
    affine : array (4, 4)
        RAS millimetres of voxel (x, y, z).
    """

    values: NDArray[np.float64]
    affine: NDArray[np.float64]

    def on(self, affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the values on other voxels, linear in millimetres.

        Neighbours without a measurement do not count; where they have half of the weight or more, and outside of the
        map's field of view (half a voxel around the outermost centres), the value is NaN. A single slice stands for
        all of its thickness.

        Parameters
        ----------
        affine : array (4, 4)
            RAS millimetres of voxel (x, y, z) there.
        shape : tuple of int
            Their number, (y, x) or (z, y, x).
        """
        from scipy.ndimage import map_coordinates

        source = self.values if self.values.ndim == 3 else self.values[None]
        volume = (1,) * (3 - len(shape)) + shape
        z, y, x = np.indices(volume).reshape(3, -1)
        there = np.linalg.solve(self.affine, affine @ np.stack([x, y, z, np.ones_like(x)]))[2::-1]
        size = np.array(source.shape)[:, None]
        # the last digits of two affines are not to decide what is outside
        inside = np.all((there > -0.5 - 1e-6) & (there < size - 0.5 + 1e-6), axis=0)
        known = np.isfinite(source)
        place = np.clip(there, 0, size - 1)
        weight = map_coordinates(known.astype(np.float64), place, order=1)
        total = map_coordinates(np.where(known, source, 0), place, order=1)
        trusted = inside & (weight > _MOST_UNKNOWN)
        values = np.divide(total, weight, out=np.full(len(weight), np.nan), where=trusted)
        return values.reshape(shape)


def load(*, b1: str | None = None, b0: str | None = None) -> dict[str, FieldMap]:
    """Read measured maps; return them by the parameter that they tell, ``B1`` and ``w0``.

    Raises
    ------
    UserError
        See `load_b1` and `load_b0`.
    """
    found = {}
    if b1 is not None:
        found["B1"] = load_b1(b1)
    if b0 is not None:
        found["w0"] = load_b0(b0)
    return found


def load_b1(path: str | Path) -> FieldMap:
    """Read a map of B1, relative to the nominal (1) or in percent of it (100).

    The median of what is not 0 tells which of the two: 0.1 to 4, or 10 to 400. Percent are divided by 100, with a
    warning. 0 and what is not finite count as not measured.

    Raises
    ------
    UserError
        The file is no map, is empty, holds negative values, or its values fit neither unit.
    """
    raw, affine = load_map(path)
    values: NDArray[Any] = raw.astype(np.float64)
    values[~np.isfinite(values) | (values == 0)] = np.nan
    if np.isnan(values).all():
        raise UserError(f"B1 map {path} is empty: expected values about 1, or about 100 percent; choose another file")
    if np.nanmin(values) < 0:
        raise UserError(f"B1 map {path} has negative values, expected a share of the nominal flip angle; mend the file")
    median = float(np.nanmedian(values))
    if _PERCENT[0] <= median <= _PERCENT[1]:
        logger.warning("B1 map %s has a median of %.4g: taken as percent", path, median)
        values /= 100
    elif not _RELATIVE[0] <= median <= _RELATIVE[1]:
        raise UserError(
            f"B1 map {path} has a median of {median:.4g}, expected about 1 (relative) or about 100 (percent); "
            "convert it (flip angles in degrees: divide by the nominal one)"
        )
    return FieldMap(values, affine)


def load_b0(path: str | Path) -> FieldMap:
    """Read a map of the off-resonance in Hz, as BIDS has it; return it in rad/s.

    A JSON file beside it may say another unit as ``Units``: rad/s. What is not finite counts as not measured, 0 does
    not.

    Raises
    ------
    UserError
        The file is no map, is empty, or is in another unit.
    """
    raw, affine = load_map(path)
    values: NDArray[Any] = raw.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values).all():
        raise UserError(f"B0 map {path} is empty: expected the off-resonance in Hz; choose another file")
    name = Path(path).name.removesuffix(".gz").removesuffix(".nii")
    sidecar = Path(path).with_name(f"{name}.json")
    unit = str(read_json(sidecar, "B0 map").get("Units", "Hz")) if sidecar.is_file() else "Hz"
    if unit not in _HERTZ:
        raise UserError(f"B0 map {path} is in {unit!r} by its JSON file, expected {' or '.join(_HERTZ)}; convert it")
    values *= 2 * np.pi / _HERTZ[unit]
    return FieldMap(values, affine)
