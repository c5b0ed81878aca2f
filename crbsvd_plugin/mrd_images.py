"""Maps as images of MRD, for what reconstructs on a scanner or in a stream.

References
----------
ISMRM Raw Data Format, "Image" and "Meta attributes": a DataRole of Quantitative says that values are to be shown as
they are, with no normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, display
from .geometry import Geometry, array_shape
from .mapfile import MapFile, map_files

if TYPE_CHECKING:
    from ismrmrd import Acquisition, Image

    from .fit.result import Maps

_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")
_MAGNITUDE, _PHASE = 1, 2  # ISMRMRD_IMTYPE_*


def images_of(
    maps: Maps,
    geometry: Geometry,
    *,
    key: Mapping[str, int] | None = None,
    digest: str = "",
    acquisition: Acquisition | None = None,
    windows: Mapping[str, display.Window] | None = None,
) -> list[Image]:
    """Return one image of float32 for every map of one slice or volume.

    Parameters
    ----------
    maps : Maps
        Maps (*X), X = (y, x) or (z, y, x).
    geometry : Geometry
        Where they lie; its position, directions and field of view become those of the images.
    key : mapping of str to int, optional
        Counters of the group, e.g. ``{"slice": 3}``.
    digest : str
        `Basis.digest` of the basis; Meta ``BasisDigest``.
    acquisition : Acquisition, optional
        A readout of the group, of which the images keep time stamps, table position and the like.
    windows : mapping of parameter name to (low, high), optional
        Limits of the colours, SI units; without an entry those of `display.default_window`.

    Returns
    -------
    list of ismrmrd.Image
        Data (1, z, y, x) in SI units, 0 where nothing was fitted. Every map is a series of its own, from 1, and a
        slice the image of its number, from 1. Meta: ``DataRole`` Quantitative, ``Units``, ``WindowCenter``,
        ``WindowWidth``, ``LUTFileName`` of relaxation times and rates, directions, ``BasisDigest``.

    Raises
    ------
    UserError
        Two parameters have the same name.
    ValueError
        Maps and geometry have different sizes.
    """
    if np.shape(maps.mask) not in (array_shape(geometry.shape), geometry.shape[::-1]):
        raise ValueError(f"maps have shape {np.shape(maps.mask)}, the geometry {geometry.shape} (x, y, z)")
    return [
        _image(volume, geometry, number, key or {}, digest, acquisition, windows or {})
        for number, volume in enumerate(map_files(maps), 1)
    ]


def _image(
    volume: MapFile,
    geometry: Geometry,
    number: int,
    key: Mapping[str, int],
    digest: str,
    acquisition: Acquisition | None,
    windows: Mapping[str, display.Window],
) -> Image:
    from ismrmrd import Acquisition, Image

    fov = np.array(geometry.shape) * geometry.voxel_size
    place = {name: getattr(geometry, name) for name in ("position", "read_dir", "phase_dir", "slice_dir")}
    # those of the readout that are not of the group are frames and shots
    counters = {name: key.get(name, 0) for name in _COUNTERS}
    image = Image.from_array(
        np.ascontiguousarray(volume.array, np.float32).reshape(1, *geometry.shape[::-1]),
        Acquisition() if acquisition is None else acquisition,
        field_of_view=tuple(fov),
        image_type=_PHASE if volume.name == "M0phase" else _MAGNITUDE,
        image_index=1 + key.get("slice", 0),
        image_series_index=number,
        **place,
        **counters,
    )
    image.meta = _meta(volume, geometry, digest, windows)
    return image


def _meta(volume: MapFile, geometry: Geometry, digest: str, windows: Mapping[str, display.Window]) -> dict[str, Any]:
    """Return what Meta says; numbers as text in full precision."""
    name = volume.drawn_as or volume.name
    low, high = windows.get(name) or display.default_window(name, volume.array)
    meta: dict[str, Any] = {
        "DataRole": "Quantitative",
        "ImageProcessingHistory": f"crbsvd-plugin {__version__}",
        "SeriesDescription": volume.name,
        "ImageComments": f"{volume.name} [{volume.unit}]: {volume.description}",
        "Units": volume.unit,
        "WindowCenter": repr(float(low + high) / 2),
        "WindowWidth": repr(float(high - low)),
        "ImageRowDir": [repr(value) for value in geometry.read_dir],
        "ImageColumnDir": [repr(value) for value in geometry.phase_dir],
        "Keep_image_geometry": "1",
        "BasisDigest": digest,
    }
    table = display.table_name(name)
    return meta if table is None else meta | {"LUTFileName": f"{table}.pal"}
