"""What is on disk of a map: a NIfTI file, a sidecar and a picture.

X is (y, x) or (z, y, x) inside, (x, y, z) in NIfTI, where a single slice has z = 1.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import display
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .files import Product
    from .fit.result import Maps
    from .model import Parameter

_ESTIMATE = 1001  # NIFTI_INTENT_ESTIMATE: each voxel is the estimate of a parameter
_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT


@dataclass(frozen=True)
class MapFile:
    """A map as it is written.

    Parameters
    ----------
    name : str
        Name of the file, without suffix.
    array : array (*X)
        float32, or whole numbers; 0 where nothing was fitted.
    unit : str
        SI unit.
    description : str
        What it is, in words.
    drawn_as : str, optional
        Parameter whose colours its picture has; None: no picture.
    """

    name: str
    array: NDArray[Any]
    unit: str
    description: str
    drawn_as: str | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of its files."""
        return (".nii.gz", ".json") if self.drawn_as is None else (".nii.gz", ".json", ".png")


def write_into(
    product: Product,
    volumes: Sequence[MapFile],
    affine: NDArray[np.float64],
    *,
    mask: NDArray[np.bool_],
    info: Mapping[str, Any],
    windows: Mapping[str, display.Window],
) -> None:
    """Write the files of all maps into a product, see `maps.save_maps` for what they are."""
    for volume in volumes:
        product.path(f"{volume.name}.nii.gz").write_bytes(_nifti(volume, affine))
        content = {**info, "Description": volume.description, "Units": volume.unit}
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        product.path(f"{volume.name}.json").write_text(text + "\n", encoding="utf-8")
        if volume.drawn_as is not None:
            display.save_png(
                product.path(f"{volume.name}.png"),
                volume.array,
                parameter=volume.drawn_as,
                window=windows.get(volume.drawn_as),
                unit=volume.unit,
                affine=affine,
                mask=mask,
            )


def map_files(maps: Maps) -> list[MapFile]:
    """Return what is written of maps: parameters, M0 (magnitude and phase), edges and what else there is.

    Raises
    ------
    UserError
        Two parameters would have the same file.
    ValueError
        The arrays do not have the same shape.
    """
    mask = checked_mask(maps)
    volumes = [
        MapFile(file_stem(p.name), _cleared(theta, mask), p.unit, _describe(p), p.name)
        for p, theta in zip(maps.parameters, np.asarray(maps.theta), strict=True)
    ]
    m0 = np.asarray(maps.m0)
    phase = np.where(m0 == 0, 0, np.angle(m0))
    volumes += [
        MapFile("M0map", _cleared(np.abs(m0), mask), "arbitrary", "magnitude of the complex scale M0", "M0"),
        MapFile("M0phase", _cleared(phase, mask), "rad", "phase of the complex scale M0"),
        MapFile("EDGEmap", _flags(maps.edge, mask), "1", "1 where the estimate lies on the edge of its range, else 0"),
    ]
    if maps.converged is not None:
        done = _flags(maps.converged, mask)
        volumes.append(MapFile("CONVERGEDmap", done, "1", "1 where the fit came to a minimum, else 0"))
    if maps.residual is not None and "RESIDUALmap" not in maps.extra:
        left = _cleared(maps.residual, mask)
        volumes.append(MapFile("RESIDUALmap", left, "arbitrary", "norm of what the fit leaves of the coefficients"))
    for name, extra in maps.extra.items():
        volumes.append(MapFile(name, _cleared(extra.array, mask), extra.unit, extra.description))
    # compared as a file system that ignores case would
    stems = [volume.name.casefold() for volume in volumes]
    for volume, stem in zip(volumes, stems, strict=True):
        if stem == "map" or stems.count(stem) > 1:
            raise UserError(
                f"parameter {volume.drawn_as!r} would be written as {volume.name}.nii.gz, which is no name or taken: "
                "expected names that differ in letters and digits; rename it in the model"
            )
    return volumes


def file_stem(parameter: str) -> str:
    """Return the name of the file of a parameter, in the manner of BIDS: ``T2*`` is ``T2starmap``."""
    return re.sub(r"[^0-9A-Za-z]", "", parameter.replace("*", "star")) + "map"


def _describe(parameter: Parameter) -> str:
    return f"{parameter.name}{' (nuisance parameter)' if parameter.nuisance else ''}; 0 where nothing was fitted"


def _cleared(array: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return float32 with 0 where the mask is False or the value is not finite."""
    with np.errstate(over="ignore"):  # too large for float32 is not finite either
        single = np.asarray(array).astype(np.float32)
    cleared: NDArray[np.float32] = np.where(mask & np.isfinite(single), single, np.float32(0))
    return cleared


def _flags(array: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return (np.asarray(array, bool) & mask).astype(np.uint8)


def _nifti(volume: MapFile, affine: NDArray[np.float64]) -> bytes:
    """Return the compressed NIfTI file; the same maps give the same bytes (no time in them)."""
    import nibabel as nib

    data = volume.array.T if volume.array.ndim == 3 else volume.array.T[..., None]
    create: Any = nib.Nifti1Image  # nibabel has no types
    image = create(data, affine)
    image.set_sform(affine, _SCANNER)
    image.set_qform(affine, _SCANNER)
    header = image.header
    header.set_xyzt_units("mm", "sec")
    header["descrip"] = f"{volume.name} [{volume.unit}]".encode("ascii", "replace")[:79]
    header.set_intent(_ESTIMATE, name=volume.name[:15])
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def checked_mask(maps: Maps) -> NDArray[np.bool_]:
    """Return where something was fitted (*X); arrays of another shape are a defect."""
    mask = np.asarray(maps.mask, bool)
    shapes = {"theta": np.shape(maps.theta), "m0": np.shape(maps.m0), "edge": np.shape(maps.edge)}
    expected = {"theta": (len(maps.parameters), *mask.shape), "m0": mask.shape, "edge": mask.shape}
    for name, extra in maps.extra.items():
        shapes[name], expected[name] = np.shape(extra.array), mask.shape
    if mask.ndim not in (2, 3) or shapes != expected:
        raise ValueError(f"maps have shapes {shapes}, expected {expected} with X = (y, x) or (z, y, x)")
    return mask
