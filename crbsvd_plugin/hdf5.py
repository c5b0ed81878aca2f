"""Writing HDF5 where the disk may be full."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any


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
