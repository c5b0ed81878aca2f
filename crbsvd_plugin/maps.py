"""Parameter maps as NIfTI files with BIDS-like sidecars and pictures.

X is (y, x) or (z, y, x) inside, (x, y, z) in NIfTI, where a single slice has z = 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import display, files
from .errors import UserError
from .mapfile import MapFile, checked_mask, file_stem, map_files, write_into

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .fit.result import Maps

FORMAT = "crbsvd-maps/1"


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
    affine = checked_affine(affine)
    volumes = map_files(maps)
    windows = _checked_windows(windows or {}, volumes)
    _check_folder(folder)
    if not pictures:
        volumes = [replace(volume, drawn_as=None) for volume in volumes]
    names = [f"{volume.name}{suffix}" for volume in volumes for suffix in volume.suffixes]
    sidecar = folder / "maps.json"
    mask = checked_mask(maps)
    with files.product(sidecar, names, kind=FORMAT, force=force) as product:
        write_into(product, volumes, affine, mask=mask, info=info, windows=windows)
        product.prepare(summary(maps, affine, info) | dict(details or {}))

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


def summary(maps: Maps, affine: NDArray[np.float64], info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `maps.json` says: the parameters, the geometry and how much was fitted."""
    mask = checked_mask(maps)
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


def checked_affine(affine: ArrayLike) -> NDArray[np.float64]:
    """Return an affine (4, 4) in double precision; anything else is a defect."""
    matrix = np.array(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) == 0:
        raise ValueError(f"affine is {matrix.tolist()}, expected an invertible matrix (4, 4)")
    return matrix


def _checked_windows(windows: Mapping[str, display.Window], volumes: list[MapFile]) -> dict[str, display.Window]:
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
