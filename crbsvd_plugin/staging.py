"""The hidden folder in which files are made before they get their names.

It is locked while its process lives. A later run that finds an unlocked one sweeps it: a commit that had
begun (the sidecar is written) is finished, anything else is removed.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError
from .interrupt import held

_MARK = ".crbsvd-tmp-"
_ATTEMPTS = 10
_UNWRITABLE = {
    errno.ENOSPC: "no space is left there",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed there",
    errno.EACCES: "writing there is not permitted",
    errno.EPERM: "writing there is not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a folder of that path is a file",
}


@contextmanager
def staging_folder(sidecar: Path) -> Iterator[Path]:
    """Make a locked folder beside what is written; finish or remove it afterwards.

    Parameters
    ----------
    sidecar : Path
        What is written, or its commit mark: gives the folder its name. Its own folder is made, and
        removed again if nothing comes into it.

    Raises
    ------
    UserError
        The place cannot be written.
    """
    folder = sidecar.parent
    # named before it is made, so that no moment is left at which Ctrl-C could orphan it
    staging = folder / f".{sidecar.name}{_MARK}{secrets.token_hex(4)}"
    handle: int | None = None
    fresh: list[Path] = []
    try:
        fresh += [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            try:
                handle = make_locked(staging)
                yield staging
            finally:
                with held():
                    _finish(staging, sidecar)
        finally:
            # once more, for a Ctrl-C just before it was held
            with held():
                try:
                    _finish(staging, sidecar)
                finally:
                    if handle is not None:
                        os.close(handle)
                    # of a failure nothing is left: the innermost folder first, as far as they are empty
                    with suppress(OSError):
                        for one in fresh:
                            one.rmdir()
    except FileExistsError:
        raise UserError(f"{folder} is a file, expected a folder; choose another name") from None
    except OSError as error:
        raise refused(sidecar, error) from None


def refused(sidecar: Path, error: OSError) -> Exception:
    """Return what to raise: a message if it is about the place, else the error itself."""
    reason = unwritable(error)
    if reason is None:
        return error
    return UserError(f"cannot write {_named(sidecar)}: {reason}; free some or choose another place")


def _named(path: Path) -> Path:
    """Return what the user calls a product: its sidecar without the suffix of ours, or a single file as it is."""
    return path.with_name(path.name.removesuffix(".json"))


def unwritable(error: OSError) -> str | None:
    """Return why the place cannot be written, in words, or None for any other error."""
    if error.errno in _UNWRITABLE:
        return _UNWRITABLE[error.errno]
    # HDF5 reports the number of the system's error only in its text
    text = str(error)
    return next((why for code, why in _UNWRITABLE.items() if f"errno = {code}," in text), None)


def make_locked(folder: Path) -> int | None:
    """Make a folder that only this user can enter, and lock it; None where the file system has no locks."""
    for _ in range(_ATTEMPTS):
        folder.mkdir(mode=0o700, exist_ok=True)
        handle = lock(folder)
        # between the two lines, another run may have swept it, or be about to
        if handle is not None and folder.exists():
            return handle
        if handle is not None:
            os.close(handle)
    return None


def lock(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; None if another one holds it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None  # another user's, or gone in the meantime
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Let one run at a time rename its files in a folder, where the file system has locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def move_all(staging: Path, sidecar: Path) -> None:
    """Give all files in the staging folder their places, the sidecar last."""
    names = [path.name for path in staging.iterdir() if path.name != sidecar.name]
    for name in [*sorted(names), sidecar.name]:
        os.replace(staging / name, sidecar.parent / name)


def _finish(staging: Path, sidecar: Path) -> None:
    """Finish a commit that has begun; without one, there is nothing to keep."""
    if (staging / sidecar.name).is_file():
        move_all(staging, sidecar)
    shutil.rmtree(staging, ignore_errors=True)


def sweep(sidecar: Path) -> None:
    """Finish or remove what killed runs left behind for this product."""
    # the name may hold what means something else in a pattern
    for staging in sidecar.parent.glob(f"{glob.escape(f'.{sidecar.name}{_MARK}')}*"):
        handle = lock(staging)
        if handle is None:
            continue
        try:
            _finish(staging, sidecar)
        finally:
            os.close(handle)
