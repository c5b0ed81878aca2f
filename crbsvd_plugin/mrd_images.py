"""Maps as images of MRD, for what reconstructs on a scanner or in a stream.

References
----------
ISMRM Raw Data Format, "Image" and "Meta attributes": a DataRole of Quantitative says that values are to be shown as
they are, with no normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import __version__, display
from .geometry import Geometry, array_shape
from .mapfile import MapFile, map_files

if TYPE_CHECKING:
    from ismrmrd import Acquisition, AcquisitionHeader, Image
    from numpy.typing import NDArray

    from .fit.result import Maps

_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")
_MAGNITUDE, _PHASE, _COMPLEX = 1, 2, 5  # ISMRMRD_IMTYPE_*
# Gadgetron's words for what an image is
_ROLES = {"T1map": "T1MAP", "T2map": "T2MAP", "T2starmap": "T2STARMAP"}
BITS_STORED = 12
"""Bits of a pixel of uint16 that a scanner keeps if nobody says otherwise."""


def images_of(
    maps: Maps,
    geometry: Geometry,
    *,
    key: Mapping[str, int] | None = None,
    digest: str = "",
    acquisition: Acquisition | AcquisitionHeader | None = None,
    windows: Mapping[str, display.Window] | None = None,
    pixels: Literal["float32", "uint16"] = "float32",
    bits: int = BITS_STORED,
    index: int | None = None,
) -> list[Image]:
    """Return one image for every map of one slice or volume.

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
    pixels : str
        float32: SI units. uint16: whole numbers from 0 to 2^bits - 1, of which the Meta ``RescaleSlope`` and
        ``RescaleIntercept`` make SI units, so that slope times the largest is the upper end of the parameter's range
        (the same in all slices), or the largest value of a map that has no range. Values beyond are clipped.
    bits : int
        For uint16, as `BITS_STORED`.
    index : int, optional
        Number of the images in their series, from 1; else that of the slice.

    Returns
    -------
    list of ismrmrd.Image
        Data (1, z, y, x), 0 in SI units where nothing was fitted. Every map is a series of its own, from 1. Meta:
        ``DataRole`` Quantitative, ``Units``, ``WindowCenter`` and ``WindowWidth`` (SI units), ``LUTFileName`` of
        relaxation times and rates, directions, ``BasisDigest``; what Gadgetron knows also under its names.

    Raises
    ------
    UserError
        Two parameters have the same name.
    ValueError
        Maps and geometry have different sizes.
    """
    if np.shape(maps.mask) not in (array_shape(geometry.shape), geometry.shape[::-1]):
        raise ValueError(f"maps have shape {np.shape(maps.mask)}, the geometry {geometry.shape} (x, y, z)")
    ranges = {parameter.name: (min(parameter.low, 0.0), parameter.high) for parameter in maps.parameters}
    place = _Place(geometry, key or {}, acquisition, index)
    images = []
    for number, volume in enumerate(map_files(maps), 1):
        values: NDArray[Any] = np.asarray(volume.array, np.float32)
        meta = _meta(volume, geometry, digest, windows or {})
        if pixels == "uint16":
            values, slope, intercept = _whole(values, ranges.get(volume.drawn_as or ""), bits)
            meta |= {"RescaleSlope": repr(slope), "RescaleIntercept": repr(intercept)}
            # Gadgetron's way round: pixel = value x ratio + offset
            meta |= {"GADGETRON_ScaleRatio": repr(1 / slope), "GADGETRON_ScaleOffset": repr(-intercept / slope)}
        kind = _PHASE if volume.name == "M0phase" else _MAGNITUDE
        images.append(place.image(values, meta, image_type=kind, image_series_index=number))
    return images


def coefficient_images(
    coeff: NDArray[Any],
    geometry: Geometry,
    *,
    series: int,
    key: Mapping[str, int] | None = None,
    digest: str = "",
    sigma: float = 0.0,
    acquisition: Acquisition | AcquisitionHeader | None = None,
    index: int = 1,
) -> list[Image]:
    """Return one complex image for every coefficient (K, *X), all of one series.

    Parameters
    ----------
    coeff : array (K, *X)
        Coefficient images.
    series : int
        Number of the series.
    sigma : float
        Noise of a coefficient, see `group.Reconstruction`; Meta ``CoefficientSigma``.
    index : int
        Number of this slice or volume, from 1: coefficient k is image (index - 1) K + k + 1 of the series.
    geometry, key, digest, acquisition
        As for `images_of`.

    Returns
    -------
    list of ismrmrd.Image
        Data (1, z, y, x), complex64; the counter ``contrast`` is the number of the coefficient, from 0.
    """
    meta = {
        "DataRole": "Quantitative",
        "ImageProcessingHistory": f"crbsvd-plugin {__version__}",
        "SeriesDescription": "coefficients",
        "Units": "arbitrary",
        "Keep_image_geometry": "1",
        "BasisDigest": digest,
        "CoefficientSigma": repr(float(sigma)),
    }
    images = []
    for k, values in enumerate(np.asarray(coeff, np.complex64)):
        comment = f"coefficient {k} of {len(coeff)}"
        place = _Place(geometry, {**(key or {}), "contrast": k}, acquisition, (index - 1) * len(coeff) + k + 1)
        told = meta | {"ImageComment": comment, "ImageComments": comment}
        images.append(place.image(values, told, image_type=_COMPLEX, image_series_index=series))
    return images


class _Place:
    """What images of one slice or volume have in common."""

    def __init__(
        self,
        geometry: Geometry,
        key: Mapping[str, int],
        acquisition: Acquisition | AcquisitionHeader | None,
        index: int | None,
    ):
        from ismrmrd import AcquisitionHeader

        self._shape = (1, *geometry.shape[::-1])
        self._acquisition = AcquisitionHeader() if acquisition is None else acquisition
        place = {name: getattr(geometry, name) for name in ("position", "read_dir", "phase_dir", "slice_dir")}
        # those of the readout that are not of the group are frames and shots
        counters = {name: key.get(name, 0) for name in _COUNTERS}
        fov = tuple(np.array(geometry.shape) * geometry.voxel_size)
        number = 1 + key.get("slice", 0) if index is None else index
        self._fields = {"field_of_view": fov, "image_index": number, **place, **counters}

    def image(self, values: NDArray[Any], meta: Mapping[str, Any], **fields: int) -> Image:
        from ismrmrd import Image

        image = Image.from_array(
            np.ascontiguousarray(values).reshape(self._shape), self._acquisition, transpose=False, **self._fields,
            **fields,
        )  # fmt: skip
        image.meta = dict(meta)
        return image


def _whole(
    values: NDArray[Any], limits: tuple[float, float] | None, bits: int
) -> tuple[NDArray[np.uint16], float, float]:
    """Return whole numbers, slope and intercept: values = slope x number + intercept, to half a slope."""
    top = 2**bits - 1
    low, high = limits or (min(float(values.min()), 0.0), float(values.max()))
    slope = (high - low) / top if high > low else 1.0
    return np.clip(np.rint((values.astype(np.float64) - low) / slope), 0, top).astype(np.uint16), slope, low


def _meta(volume: MapFile, geometry: Geometry, digest: str, windows: Mapping[str, display.Window]) -> dict[str, Any]:
    """Return what Meta says; numbers as text in full precision."""
    name = volume.drawn_as or volume.name
    low, high = windows.get(name) or display.default_window(name, volume.array)
    comment = f"{volume.name} [{volume.unit}]: {volume.description}"
    centre, width = repr(float(low + high) / 2), repr(float(high - low))
    meta: dict[str, Any] = {
        "DataRole": "Quantitative",
        "ImageProcessingHistory": f"crbsvd-plugin {__version__}",
        "SeriesDescription": volume.name,
        # FIRE reads the one or the other
        "ImageComment": comment,
        "ImageComments": comment,
        "Units": volume.unit,
        "WindowCenter": centre,
        "WindowWidth": width,
        "ImageRowDir": [repr(value) for value in geometry.read_dir],
        "ImageColumnDir": [repr(value) for value in geometry.phase_dir],
        "Keep_image_geometry": "1",
        "BasisDigest": digest,
        "GADGETRON_ImageComment": comment,
        "GADGETRON_WindowCenter": centre,
        "GADGETRON_WindowWidth": width,
    }
    if volume.name in _ROLES:
        meta["GADGETRON_DataRole"] = _ROLES[volume.name]
    table = display.table_name(name)
    return meta if table is None else meta | {"LUTFileName": f"{table}.pal", "GADGETRON_ColorMap": f"{table}.pal"}
