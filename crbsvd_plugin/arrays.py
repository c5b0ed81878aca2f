"""Arrays in the files of other programs: .mat of any version, .npz, .npy, .h5 and BART's .cfl."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import bart
from .errors import UserError
from .hdf5 import dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".mat", ".npz", ".h5", ".npy", ".cfl")
ONLY = ""
"""Name of the array in a file that has one without a name: .npy and .cfl."""

BROKEN = (OSError, ValueError, NotImplementedError, zipfile.BadZipFile)
"""What `load` raises for damaged files, besides `UserError`."""


def load(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name, numbers and texts; those of `names` if it is given.

    Arrays of .mat files have the shape that they have in MATLAB, those of .h5 files the shape that h5py shows; a .cfl
    has its dimensions without the singleton ones.
    """
    if path.suffix == ".mat":
        found = _mat(path, names)
    elif path.suffix == ".npz":
        # a stream of our own is closed even where the file is broken
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            found = {name: content[name] for name in content.files if names is None or name in names}
    elif path.suffix == ".h5":
        found = _hdf5(path, names, matlab=False)
    elif path.suffix == ".npy":
        found = {ONLY: np.load(path, allow_pickle=False)}
    else:
        found = {ONLY: np.ascontiguousarray(bart.read_cfl(str(path)[: -len(".cfl")]).squeeze())}
    return {name: array for name, array in found.items() if array.dtype.kind in "fciubU"}


def read(path: Path, what: str) -> dict[str, NDArray[Any]]:
    """Return all arrays of a file, see `load`.

    Raises
    ------
    UserError
        It is missing, damaged or of another kind.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{what} {path} is of an unknown kind, expected one of: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist; check the path")
    try:
        return load(path)
    except BROKEN as error:
        raise UserError(f"{what} {path} cannot be read ({error}); expected arrays of numbers") from None


def one(content: Mapping[str, NDArray[Any]], key: str | None, usual: Sequence[str], where: str) -> NDArray[Any]:
    """Return the array that is meant: that of the key, else the only one, else the first that has a usual name.

    Raises
    ------
    UserError
        There is none of that name, or several that may be meant, which are listed.
    """
    arrays = {name: array for name, array in content.items() if array.dtype.kind in "fciu" and array.size > 1}
    if key is not None:
        if key not in arrays:
            raise UserError(f"{where} has no array {key!r}; it has {listed(arrays)}")
        return arrays[key]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    for name in usual:
        if name in arrays:
            return arrays[name]
    raise UserError(
        f"{where} has {listed(arrays)}: say which one, expected FILE:NAME, or one called {' or '.join(usual)}"
    )


def listed(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return names and shapes in words."""
    return ", ".join(f"{name or 'one'} {array.shape}" for name, array in arrays.items()) or "no arrays"


def _mat(path: Path, names: Collection[str] | None) -> dict[str, NDArray[Any]]:
    import h5py

    if h5py.is_hdf5(path):
        return _hdf5(path, names, matlab=True)
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=None if names is None else list(names))
    except (MatReadError, TypeError) as error:  # damaged files raise either
        raise ValueError(error) from None
    return {name: _cells(array) for name, array in content.items() if not name.startswith("__")}


def _cells(array: Any) -> NDArray[Any]:
    """Return a cell array of texts as an array of texts, and anything else as it is."""
    array = np.asarray(array)
    if array.dtype == object:
        texts = [item.item() if isinstance(item, np.ndarray) and item.size == 1 else item for item in array.flat]
        if all(isinstance(text, str) for text in texts):
            return np.array(texts)
        if all(isinstance(text, str) or (isinstance(text, np.ndarray) and not text.size) for text in texts):
            return np.array([text if isinstance(text, str) else "" for text in texts])  # '' is an empty array
    return array


def _hdf5(path: Path, names: Collection[str] | None, *, matlab: bool) -> dict[str, NDArray[Any]]:
    """Read version 7.3 of .mat, whose arrays HDF5 has transposed and whose texts are numbers; or plain HDF5."""
    import h5py

    found: dict[str, NDArray[Any]] = {}
    with h5py.File(path, "r") as file:
        for name in file if names is None else [name for name in names if name in file]:
            plain = isinstance(file.get(name, getlink=True), h5py.HardLink)
            if names is None and plain and isinstance(file[name], h5py.Group):
                continue
            array = dataset(file, name, path)
            if array.dtype.names == ("real", "imag"):
                array = array["real"] + 1j * array["imag"]
            if h5py.check_string_dtype(file[name].dtype) is not None:
                array = np.array([str(text, "utf-8") if isinstance(text, bytes) else text for text in array.flat])
            if matlab:
                array = array.T
                if file[name].attrs.get("MATLAB_class") == b"char":
                    array = np.array(["".join(map(chr, row)).rstrip() for row in array])
            found[name] = array
    return found
