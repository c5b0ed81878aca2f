"""Parameter maps as NIfTI files with BIDS-like sidecars and pictures.

X is (y, x) or (z, y, x) inside, (x, y, z) in NIfTI, where a single slice has z = 1.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import display, files
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .fit.result import Maps
    from .model import Parameter

FORMAT = "crbsvd-maps/1"
_ESTIMATE = 1001  # NIFTI_INTENT_ESTIMATE: each voxel is the estimate of a parameter
_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT


@dataclass(frozen=True)
class _Volume:
    """One NIfTI file: `name` without suffix, its array (*X), unit and what it says in words."""

    name: str
    array: NDArray[Any]
    unit: str
    description: str
    drawn_as: str | None = None  # name for the picture; None: no picture


def save_maps(
    maps: Maps,
    affine: ArrayLike,
    directory: str | Path,
    *,
    info: Mapping[str, Any],
    windows: Mapping[str, display.Window] | None = None,
    force: bool = False,
    pictures: bool = True,
) -> list[Path]:
    """Write parameter maps into a folder: all of them or none.

    ``NAMEmap.nii.gz`` per parameter (float32, SI units), ``M0map.nii.gz`` (magnitude),
    ``M0phase.nii.gz`` (rad), ``EDGEmap.nii.gz`` (uint8), where known ``CONVERGEDmap.nii.gz`` (uint8) and
    ``RESIDUALmap.nii.gz``, one for each of `Maps.extra`, a JSON sidecar beside each, a PNG of every parameter and
    of M0, and last ``maps.json``, which lists the hashes of all of them.
    Voxels with nothing to fit, and what is not finite, hold 0.

    Parameters
    ----------
    maps : Maps
        theta (P, *X) SI units, m0 (*X), edge and mask (*X), X = (y, x) or (z, y, x).
    affine : array (4, 4)
        RAS millimetres of voxel (x, y, z).
    directory : path
        The folder; it is made. Files that are not ours stay in it.
    info : mapping, ready for JSON
        What every sidecar repeats, in the words of BIDS: ``EstimationReference``,
        ``EstimationAlgorithm``, ``Sources``, ...
    windows : mapping of parameter name to (low, high), optional
        Limits of the colours, SI units; without an entry those of `display.default_window`.
    force : bool
        Replace the maps written there before; other files are never touched.
    pictures : bool
        Draw the PNG files.

    Returns
    -------
    list of Path
        The files written, ``maps.json`` last.

    Raises
    ------
    UserError
        Something of these names is there already, the folder cannot be written, two parameters
        would have the same file, or a window is not valid or of an unknown parameter.
    """
    with staged_maps(maps, affine, directory, info=info, windows=windows, force=force, pictures=pictures) as commit:
        return commit()


@contextmanager
def staged_maps(
    maps: Maps, affine: ArrayLike, directory: str | Path, *, info: Mapping[str, Any],
    windows: Mapping[str, display.Window] | None = None, force: bool = False, pictures: bool = True,
    details: Mapping[str, Any] | None = None,
) -> Iterator[Callable[[], list[Path]]]:  # fmt: skip
    """Write maps under temporary names, and give what renames them: for several that shall all appear or none.

    Arguments, result of the renaming and errors are those of `save_maps`; `details` is what ``maps.json`` alone says.
    """
    folder = Path(directory)
    affine = _checked_affine(affine)
    mask = _checked_mask(maps)
    volumes = _volumes(maps, mask)
    windows = _checked_windows(windows or {}, volumes)
    _check_folder(folder)

    names = [f"{volume.name}{suffix}" for volume in volumes for suffix in (".nii.gz", ".json")]
    drawn = [volume for volume in volumes if pictures and volume.drawn_as is not None]
    names += [f"{volume.name}.png" for volume in drawn]
    sidecar = folder / "maps.json"
    with files.product(sidecar, names, kind=FORMAT, force=force) as product:
        for volume in volumes:
            product.path(f"{volume.name}.nii.gz").write_bytes(_nifti(volume, affine))
            content = {"Description": volume.description, "Units": volume.unit}
            text = json.dumps({**info, **content}, indent=1, allow_nan=False, ensure_ascii=False)
            product.path(f"{volume.name}.json").write_text(text + "\n", encoding="utf-8")
        for volume in drawn:
            name = str(volume.drawn_as)
            display.save_png(
                product.path(f"{volume.name}.png"),
                volume.array,
                parameter=name,
                window=windows.get(name),
                unit=volume.unit,
                affine=affine,
                mask=mask,
            )
        product.prepare(_summary(maps, mask, affine, info) | dict(details or {}))

        def commit() -> list[Path]:
            product.commit()
            return [folder / name for name in [*names, sidecar.name]]

        yield commit


def load_map(path: str | Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read a map, or a mask, from NIfTI.

    Returns
    -------
    array (y, x) or (z, y, x)
        The values; a file of a single slice gives (y, x).
    affine : float64 array (4, 4)
        RAS millimetres of voxel (x, y, z).

    Raises
    ------
    UserError
        The file is missing, is not NIfTI, is damaged, or is not one real map of 2 or 3 dimensions.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"map {path} {what}: expected a NIfTI file (.nii or .nii.gz); check the name")
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Pair):
            raise UserError(f"map {path} is a file of another format: expected NIfTI (.nii or .nii.gz)")
        array = np.asanyarray(image.dataobj)
    except ImageFileError:
        raise UserError(f"map {path} is not a NIfTI file: expected .nii or .nii.gz; check the name") from None
    except (OSError, EOFError, zlib.error, HeaderDataError) as error:
        reason = " ".join(str(error).split())  # nibabel's texts have several lines
        raise UserError(f"map {path} cannot be read ({reason}): expected a whole NIfTI file; make it again") from None
    shape = array.shape
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or array.size == 0:
        raise UserError(
            f"map {path} has shape {shape} of {array.dtype}: expected one map of real numbers, (x, y) or (x, y, z); "
            "split the file first"
        )
    # a copy of its own: of an uncompressed file nibabel gives a view of the disk
    values = np.array(array.T, array.dtype.newbyteorder("="), order="C")
    return values, np.array(image.affine, np.float64)


def file_stem(parameter: str) -> str:
    """Return the name of the file of a parameter, in the manner of BIDS: ``T2*`` is ``T2starmap``."""
    return re.sub(r"[^0-9A-Za-z]", "", parameter.replace("*", "star")) + "map"


def _volumes(maps: Maps, mask: NDArray[np.bool_]) -> list[_Volume]:
    volumes = [
        _Volume(file_stem(p.name), _cleared(theta, mask), p.unit, _describe(p), p.name)
        for p, theta in zip(maps.parameters, np.asarray(maps.theta), strict=True)
    ]
    m0 = np.asarray(maps.m0)
    phase = np.where(m0 == 0, 0, np.angle(m0))
    volumes += [
        _Volume("M0map", _cleared(np.abs(m0), mask), "arbitrary", "magnitude of the complex scale M0", "M0"),
        _Volume("M0phase", _cleared(phase, mask), "rad", "phase of the complex scale M0"),
        _Volume("EDGEmap", _flags(maps.edge, mask), "1", "1 where the estimate lies on the edge of its range, else 0"),
    ]
    if maps.converged is not None:
        done = _flags(maps.converged, mask)
        volumes.append(_Volume("CONVERGEDmap", done, "1", "1 where the fit came to a minimum, else 0"))
    if maps.residual is not None and "RESIDUALmap" not in maps.extra:
        left = _cleared(maps.residual, mask)
        volumes.append(_Volume("RESIDUALmap", left, "arbitrary", "norm of what the fit leaves of the coefficients"))
    for name, extra in maps.extra.items():
        volumes.append(_Volume(name, _cleared(extra.array, mask), extra.unit, extra.description))
    # compared as a file system that ignores case would
    stems = [volume.name.casefold() for volume in volumes]
    for volume, stem in zip(volumes, stems, strict=True):
        if stem == "map" or stems.count(stem) > 1:
            raise UserError(
                f"parameter {volume.drawn_as!r} would be written as {volume.name}.nii.gz, which is no name or taken: "
                "expected names that differ in letters and digits; rename it in the model"
            )
    return volumes


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


def _nifti(volume: _Volume, affine: NDArray[np.float64]) -> bytes:
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


def _summary(
    maps: Maps, mask: NDArray[np.bool_], affine: NDArray[np.float64], info: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `maps.json` says: the parameters, the geometry and how much was fitted."""
    finite = np.isfinite(np.asarray(maps.theta)).all(axis=0) & np.isfinite(np.asarray(maps.m0))
    return {
        "parameters": [{**asdict(p), "file": f"{file_stem(p.name)}.nii.gz"} for p in maps.parameters],
        "shape": list(mask.shape),
        "affine": affine.tolist(),
        "voxels_fitted": int(mask.sum()),
        "voxels_on_edge": int((np.asarray(maps.edge, bool) & mask).sum()),
        "voxels_not_finite": int((mask & ~finite).sum()),
        **({} if maps.converged is None else {"voxels_not_converged": int((mask & ~maps.converged).sum())}),
        "info": dict(info),
    }


def _checked_affine(affine: ArrayLike) -> NDArray[np.float64]:
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) == 0:
        raise ValueError(f"affine is {matrix.tolist()}, expected an invertible matrix (4, 4)")
    return matrix


def _checked_mask(maps: Maps) -> NDArray[np.bool_]:
    mask = np.asarray(maps.mask, bool)
    shapes = {"theta": np.shape(maps.theta), "m0": np.shape(maps.m0), "edge": np.shape(maps.edge)}
    expected = {"theta": (len(maps.parameters), *mask.shape), "m0": mask.shape, "edge": mask.shape}
    for name, extra in maps.extra.items():
        shapes[name], expected[name] = np.shape(extra.array), mask.shape
    if mask.ndim not in (2, 3) or shapes != expected:
        raise ValueError(f"maps have shapes {shapes}, expected {expected} with X = (y, x) or (z, y, x)")
    return mask


def _checked_windows(windows: Mapping[str, display.Window], volumes: list[_Volume]) -> dict[str, display.Window]:
    known = [volume.drawn_as for volume in volumes if volume.drawn_as is not None]
    for name, window in windows.items():
        if name not in known:
            raise UserError(f"window of {name}: there is no such map; the maps are {', '.join(known)}")
        display.position((), window, parameter=name)  # refuses a bad one before the work
    return dict(windows)


def _check_folder(folder: Path) -> None:
    """Refuse a path that runs through a file, which making the folder would trip over."""
    there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not there.is_dir():
        raise UserError(f"output {folder}: {there} is a file, expected a folder; choose another name")
