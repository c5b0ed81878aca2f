"""Statistics of maps in regions of a label mask."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import files
from .errors import UserError
from .maps import load_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAME_PLACE = 0.01  # of a voxel
_NIFTI = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Region:
    """One map in one region, in the unit of the map.

    Parameters
    ----------
    map : str
        Name of the map, without suffix.
    label : int
        Value of the region in the mask.
    n_voxels : int
        Voxels of the region.
    n_fitted : int
        Those that count: finite, and in a map of floating-point numbers not 0, which means that nothing was fitted.
    median, low, high : float
        Quartiles 0.5, 0.25 and 0.75; NaN without such voxels.
    iqr : float
        Interquartile range, high - low.
    mean, sd : float
        Mean and standard deviation over the voxels (that of a sample, with n - 1).
    predicted_sd : float
        Mean of the predicted standard deviation over the same voxels, as far as it is known; NaN without a map of it.
    """

    map: str
    label: int
    n_voxels: int
    n_fitted: int
    median: float
    low: float
    high: float
    iqr: float
    mean: float
    sd: float
    predicted_sd: float


def regions(maps: Sequence[str | Path], mask: str | Path) -> list[Region]:
    """Return statistics of maps in every region of a mask.

    Parameters
    ----------
    maps : sequence of path
        NIfTI files. The predicted standard deviation of ``NAMEmap.nii.gz`` is ``NAMEstd.nii.gz`` beside it, in a BIDS
        tree ``desc-NAMEstd_map`` or ``desc-std_NAMEmap``.
    mask : path
        NIfTI file of whole numbers on the same voxels: 0 is outside, any other number a region of its own.

    Returns
    -------
    list of Region
        Map by map, labels in increasing order.

    Raises
    ------
    UserError
        A file is missing or no map, a map has other voxels than the mask, or the mask is empty or no label mask.
    """
    labels, place = _labels(mask)
    rows = []
    for path in maps:
        values = _on_voxels(path, labels.shape, place, mask)
        beside = predicted(path)
        deviation = None if beside is None else _on_voxels(beside, labels.shape, place, mask)
        name = _stem(path)[0]
        rows += [
            _region(name, int(label), values, deviation, labels == label) for label in np.unique(labels[labels > 0])
        ]
    return rows


def table(rows: Sequence[Region]) -> str:
    """Return the statistics as CSV, one line each; what is not known is left empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [field.name for field in fields(Region)]
    writer.writerow(names)
    writer.writerows([_cell(getattr(row, name)) for name in names] for row in rows)
    return stream.getvalue()


def save(text: str, path: str | Path, *, force: bool = False) -> None:
    """Write a table to a file.

    Raises
    ------
    UserError
        The file exists already, or cannot be written.
    """
    with files.single(Path(path), force=force) as part:
        part.write_text(text, encoding="utf-8")


def predicted(path: str | Path) -> Path | None:
    """Return the map of predicted standard deviations that lies beside a map, or None."""
    stem, suffix = _stem(path)
    head, _, last = stem.rpartition("_")
    if not last.endswith("map"):
        return None
    before = f"{head}_" if head else ""
    names = [f"{before}{last.removesuffix('map')}std", f"{before}desc-std_{last}"]
    head, _, described = head.rpartition("_desc-")
    if described and last == "map":
        names.append(f"{head}_desc-{described}std_map")
    return next((file for name in names if (file := Path(path).with_name(f"{name}{suffix}")).is_file()), None)


def _labels(mask: str | Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    values, affine = load_map(mask)
    whole = np.isfinite(values).all() and np.all(values == np.round(values)) and np.abs(values).max() < 2**31
    if not whole or values.min() < 0:
        raise UserError(f"mask {mask} holds other values than 0, 1, 2, ...: expected a label mask; round it first")
    if not values.any():
        raise UserError(f"mask {mask} is empty: expected voxels that are not 0; draw a region")
    return values.astype(np.int64), affine


def _on_voxels(path: str | Path, shape: tuple[int, ...], place: NDArray[np.float64], mask: str | Path) -> NDArray[Any]:
    values, affine = load_map(path)
    if values.shape != shape:
        there, here = (" x ".join(map(str, size[::-1])) for size in (values.shape, shape))
        raise UserError(f"map {path} has {there} voxels, mask {mask} has {here}: resample one of them")
    # where the corners lie says it all
    n_z, n_y, n_x = (1,) * (3 - len(shape)) + shape
    corners = np.array([(x, y, z, 1) for x in (0, n_x - 1) for y in (0, n_y - 1) for z in (0, n_z - 1)]).T
    apart = np.linalg.norm(((affine - place) @ corners)[:3], axis=0).max()
    if apart > _SAME_PLACE * np.linalg.norm(place[:3, :3], axis=0).min():
        raise UserError(f"map {path} and mask {mask} lie up to {apart:.3g} mm apart: resample one of them")
    return values


def _region(
    name: str, label: int, values: NDArray[Any], deviation: NDArray[Any] | None, inside: NDArray[np.bool_]
) -> Region:
    counted = inside & np.isfinite(values)
    if values.dtype.kind == "f":
        counted &= values != 0
    found = values[counted].astype(np.float64)
    n_voxels, n_fitted = int(inside.sum()), len(found)
    nan = float("nan")
    if not n_fitted:
        return Region(name, label, n_voxels, 0, nan, nan, nan, nan, nan, nan, nan)
    low, median, high = (float(value) for value in np.percentile(found, (25, 50, 75)))
    sd = float(found.std(ddof=1)) if n_fitted > 1 else nan
    known = np.zeros(0) if deviation is None else deviation[counted].astype(np.float64)
    known = known[np.isfinite(known) & (known > 0)]
    expected = float(known.mean()) if known.size else nan
    return Region(name, label, n_voxels, n_fitted, median, low, high, high - low, float(found.mean()), sd, expected)


def _stem(path: str | Path) -> tuple[str, str]:
    name = Path(path).name
    suffix = next((suffix for suffix in _NIFTI if name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    return str(value)
