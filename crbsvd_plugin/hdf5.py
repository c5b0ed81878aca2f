"""Writing HDF5 where the disk may be full, and reading it where it may reach into other files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Sink(io.FileIO):
    """A file for HDF5 that keeps its first failure for the end.

    HDF5 cannot close a file that it cannot write: it fails again and again, and at last on
    standard error, where no exception can be caught. So it is left in the belief that all went well.
    """

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, unless a write has failed before; say that it went well."""
        rest = memoryview(data)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Change the size; a failure is kept."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def __exit__(self, *_: object) -> None:
        self.close()
        if self.error is not None:
            raise self.error


def dataset(file: Any, key: str, path: Path) -> NDArray[Any]:
    """Read one dataset, refusing all three ways by which HDF5 reaches into other files.

    Raises
    ------
    UserError
        It reaches there.
    """
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink) or not isinstance(file[key], h5py.Dataset):
        raise UserError(f"{path}: {key!r} is not a plain dataset; links to other files are refused")
    if file[key].is_virtual or file[key].external:
        raise UserError(f"{path}: {key!r} keeps its data in other files, which is refused")
    return np.asarray(file[key][()])
