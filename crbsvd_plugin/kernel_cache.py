"""Convolution kernels on disk, for the next scan with the same trajectory, weights, basis and matrix."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__
from .checkpoint import Checkpoint
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_SUFFIX = ".kernel"
_OTHERS = 0o022  # what lets the group or all write


class KernelCache:
    """A private folder of kernels, of which the ones used last are kept.

    Parameters
    ----------
    folder : str or Path
        The folder; made, for this user alone, if it is not there.
    n_bytes : int
        What all kernels may take; those that were not used for the longest time go first, and
        one that is larger is not kept.

    Raises
    ------
    UserError
        `folder` is not a folder of this user's that nobody else can write to, or cannot be made.
    """

    def __init__(self, folder: str | Path, *, n_bytes: int = 20 * 2**30):
        self.folder = Path(folder)
        self.n_bytes = n_bytes
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.folder.stat()
        except OSError as error:
            raise UserError(
                f"kernel cache: {self.folder} is no folder and cannot be made one ({error.strerror}); "
                "choose another place"
            ) from None
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
            raise UserError(f"kernel cache: {self.folder} can be written by others, expected a folder of your own")

    def get(self, facts: Sequence[Any], make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return the kernel that `make` makes of `facts`: from its file, or else made, and then kept.

        Parameters
        ----------
        facts : sequence of arrays, text and numbers
            All that the kernel depends on; the file is named by their SHA-256.
        make : callable
            Makes the kernel.

        Notes
        -----
        A file that is damaged is made anew, and a place that is full is no reason to fail: both are logged.
        """
        found = self.find(facts)
        if found is None:
            found = make()
            self.keep(facts, found)
        return found

    def find(self, facts: Sequence[Any]) -> NDArray[Any] | None:
        """Return the kernel that is kept for `facts`, or None."""
        file = self._file(facts)
        try:
            found = file.load()
        except UserError as error:
            logger.warning("%s: it is made anew", error)
            with suppress(OSError):
                file.path.unlink()
            return None
        if found is None:
            return None
        logger.info("kernel from %s", file.path)
        with suppress(OSError):
            os.utime(file.path)
        return found[1]["kernel"]

    def keep(self, facts: Sequence[Any], kernel: NDArray[Any]) -> None:
        """Keep the kernel of `facts`, if there is room."""
        if kernel.nbytes > self.n_bytes:
            sizes = kernel.nbytes / 2**20, self.n_bytes / 2**20
            logger.info("kernel of %.0f MiB is not kept: the cache may have %.0f", *sizes)
            return
        self._make_room(kernel.nbytes)
        try:
            self._file(facts).save({}, {"kernel": kernel})
        except UserError as error:
            logger.warning("kernel cache: %s", error)

    def _file(self, facts: Sequence[Any]) -> Checkpoint:
        digest = _digest(facts)
        key = {"software": f"crbsvd-plugin {__version__}", "of": digest}
        return Checkpoint(self.folder / f"{digest}{_SUFFIX}", key)

    def _make_room(self, n_bytes: int) -> None:
        """Remove the kernels that were not used for the longest time until there is room for so many bytes."""
        files = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process may have removed it
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        taken = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if taken + n_bytes <= self.n_bytes:
                break
            with suppress(OSError):
                path.unlink()
            taken -= size


def _digest(facts: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        array = np.asarray(fact)
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()
