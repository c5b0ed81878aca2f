"""The folder in which BART's files lie while it works: private, and removed, by a later run if need be."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UserError
from ..interrupt import held
from ..staging import lock, make_locked, unwritable

_PREFIX = "crbsvd-bart-"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that only this user can enter, and remove it with its content at the end.

    It lies where `tempfile` puts it: ``TMPDIR=/dev/shm`` keeps BART's files in memory. It is locked while this
    process lives; those of this user's runs that were killed are removed first.

    Raises
    ------
    UserError
        Temporary files cannot be written.
    """
    place: Path | None = None
    folder: Path | None = None
    handle: int | None = None
    try:
        place = Path(tempfile.gettempdir())
        _sweep(place)
        # named before it is made, so that no moment is left at which Ctrl-C could orphan it
        folder = place / f"{_PREFIX}{secrets.token_hex(8)}"
        handle = make_locked(folder)
        yield folder
    except OSError as error:
        # where there is no place at all, tempfile says so by FileNotFoundError
        reason = unwritable(error) if place else error.strerror
        elsewhere = error.filename is not None and folder is not None and not _within(folder, Path(error.filename))
        if reason is None or elsewhere:
            raise
        where = place or "the folder for temporary files"
        raise UserError(f"cannot write in {where}: {reason}; free some or set TMPDIR to another place") from error
    finally:
        if folder is not None:
            with held():
                shutil.rmtree(folder, ignore_errors=True)
                if handle is not None:
                    os.close(handle)


def _within(folder: Path, path: Path) -> bool:
    return path == folder or folder in path.parents


def _sweep(place: Path) -> None:
    """Remove what this user's runs left there when they were killed; a folder that is locked has one that lives."""
    for old in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = old.lstat()
            # anyone may put a link, or a folder of theirs, into a place for temporary files
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
        handle = lock(old)
        if handle is not None:
            try:
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(handle)
