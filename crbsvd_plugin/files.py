"""Files that appear whole or not at all.

A *product* is one or several files that make one thing (a basis is ``NAME.cfl``, ``NAME.hdr``,
``NAME.json``). They are written into a hidden staging folder beside their destination and
renamed at the end, the JSON last: it lists the SHA-256 of the others and is the commit mark.

The staging folder is locked while its process lives. A later run that finds an unlocked one
sweeps it: a commit that had begun (the JSON is written) is finished, anything else is removed.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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


def with_suffix(name: str | Path, suffix: str) -> Path:
    """Append `suffix`; unlike `Path.with_suffix`, ``basis_0.5`` keeps its ``.5``."""
    return Path(f"{name}{suffix}")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object, `what` being its name in messages.

    Raises
    ------
    UserError
        The file is missing, or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what}: {path} does not exist; check the name") from None
    except IsADirectoryError:
        raise UserError(f"{what}: {path} is a folder, expected a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what}: {path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{what}: {path} holds a {type(content).__name__}, expected an object")
    return content


def verify(sidecar: Path, content: dict[str, Any], what: str) -> None:
    """Check every file that a sidecar lists against its SHA-256.

    Raises
    ------
    UserError
        A file is missing or was changed after the sidecar was written.
    """
    if not isinstance(content.get("files", {}), dict):
        raise UserError(f"{what}: {sidecar} has no list of its files; make it again")
    for name, digest in content.get("files", {}).items():
        path = sidecar.parent / name
        if Path(name).name != name:
            raise UserError(f"{what}: {sidecar} lists {name!r}, expected a plain file name")
        if not path.is_file():
            raise UserError(f"{what}: {path} is missing, but {sidecar.name} lists it; restore or make it again")
        if sha256(path) != digest:
            raise UserError(
                f"{what}: the hash of {path} does not match {sidecar.name}; "
                "one of the two was changed or belongs to another run: restore or make it again"
            )


class Product:
    """The files of one product while they are being written."""

    def __init__(self, staging: Path, sidecar: Path, kind: str, *, force: bool):
        self._staging = staging
        self._sidecar = sidecar
        self._kind = kind
        self._force = force
        self._names: list[str] = []
        self._former = _members(sidecar, kind) or {}

    def path(self, name: str) -> Path:
        """Return the temporary path of the file that will be called `name`."""
        if Path(name).name != name or name in ("", "..", self._sidecar.name):
            raise ValueError(f"{name!r} is not the plain name of a member file")
        if name not in self._names:
            self._names.append(name)
        return self._staging / name

    def commit(self, content: dict[str, Any]) -> None:
        """Write the sidecar, with its kind and the hashes of all members, and rename everything.

        Files that only the replaced product had are removed, or they would pass for part of this
        one; not those that were changed since: they are the user's now.
        """
        hashes = {name: sha256(self._staging / name) for name in self._names}
        with _turn(self._sidecar.parent):
            # another run may have been as fast
            _check_free(self._sidecar, self._names, kind=self._kind, force=self._force)
            self._commit(content, hashes)

    def _commit(self, content: dict[str, Any], hashes: dict[str, str]) -> None:
        text = json.dumps({"format": self._kind, **content, "files": hashes}, indent=1, allow_nan=False)
        (self._staging / (self._sidecar.name + ".part")).write_text(text + "\n", encoding="utf-8")
        os.replace(self._staging / (self._sidecar.name + ".part"), self._staging / self._sidecar.name)
        _move_all(self._staging, self._sidecar)
        for name in self._former.keys() - hashes.keys():
            path = self._sidecar.parent / Path(name).name
            if path.is_file() and sha256(path) == self._former[name]:
                path.unlink()


@contextmanager
def product(sidecar: Path, names: list[str], *, kind: str, force: bool = False) -> Iterator[Product]:
    """Write the product that `sidecar` commits; `names` are its expected members.

    Parameters
    ----------
    sidecar : Path
        The JSON file, in the folder where all files go; the folder is made.
    names : list of str
        Names of the other files, so that a clash is found before the work begins.
    kind : str
        What it is, and the version of its format: written into the sidecar as ``format``.
    force : bool
        Replace an earlier product of the same name and kind: only files that its sidecar lists.

    Raises
    ------
    UserError
        A file exists already, or the folder cannot be written.
    """
    check_free(sidecar, names, kind=kind, force=force)
    with _staging_folder(sidecar) as staging:
        yield Product(staging, sidecar, kind, force=force)


@contextmanager
def single(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Write one file that needs no sidecar: give a temporary path, renamed to `path` if all went well.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    force : bool
        Replace a file of this name.

    Raises
    ------
    UserError
        The file exists already, or the folder cannot be written.
    """
    _sweep(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected the name of a file: choose another name")
    if path.exists() and not force:
        raise UserError(f"{path} exists already: choose another name, or say --force to replace it")
    with _staging_folder(path) as staging:
        # under another name than its own, which would be taken for a commit mark
        part = staging / f"{path.name}.part"
        yield part
        os.replace(part, path)


def check_free(sidecar: Path, names: list[str], *, kind: str, force: bool) -> None:
    """Refuse names that are taken (with `force`: by files that are not of this product)."""
    try:
        _sweep(sidecar)
        _check_free(sidecar, names, kind=kind, force=force)
    except OSError as error:
        raise _refused(sidecar, error) from None


def check_writable(path: Path) -> None:
    """Refuse a place where nothing can be written, while there is nothing to be lost yet; nothing is left there.

    Raises
    ------
    UserError
        The folder cannot be made, or holds no new file.
    """
    with _staging_folder(path) as staging:
        (staging / "x").touch()


def _check_free(sidecar: Path, names: list[str], *, kind: str, force: bool) -> None:
    present = [path for path in (sidecar.parent / name for name in [*names, sidecar.name]) if path.exists()]
    if not present:
        return
    if not force:
        raise UserError(f"{present[0]} exists already: choose another name, or say --force to replace it")
    members = _members(sidecar, kind)
    own = set() if members is None else {*members, sidecar.name}
    foreign = [path for path in present if path.name not in own]
    if foreign:
        owner = f"part of {sidecar}" if foreign[0] != sidecar else f"of the kind {kind}"
        raise UserError(f"{foreign[0]} exists and is not {owner}: --force does not replace it; remove it yourself")


def _members(sidecar: Path, kind: str) -> dict[str, str] | None:
    """Return names and hashes of a product's members; None if there is no product of this kind."""
    content = read_json(sidecar, "output") if sidecar.is_file() else {}
    members = content.get("files")
    return members if isinstance(members, dict) and content.get("format") == kind else None


@contextmanager
def _staging_folder(sidecar: Path) -> Iterator[Path]:
    folder = sidecar.parent
    # named before it is made, so that no moment is left at which Ctrl-C could orphan it
    staging = folder / f".{sidecar.name}{_MARK}{secrets.token_hex(4)}"
    lock: int | None = None
    fresh: list[Path] = []
    try:
        fresh += [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            try:
                for _ in range(_ATTEMPTS):
                    staging.mkdir(mode=0o700, exist_ok=True)
                    lock = _lock(staging)
                    # between the two lines, another run may have swept it, or be about to
                    if lock is not None and staging.exists():
                        break
                    if lock is not None:
                        os.close(lock)
                        lock = None
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
                    if lock is not None:
                        os.close(lock)
                    # of a failure nothing is left: the innermost folder first, as far as they are empty
                    with suppress(OSError):
                        for one in fresh:
                            one.rmdir()
    except FileExistsError:
        raise UserError(f"{folder} is a file, expected a folder; choose another name") from None
    except OSError as error:
        raise _refused(sidecar, error) from None


def _refused(sidecar: Path, error: OSError) -> Exception:
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


def _lock(folder: Path) -> int | None:
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
def _turn(folder: Path) -> Iterator[None]:
    """Let one run at a time rename its files in a folder, where the file system has locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _move_all(staging: Path, sidecar: Path) -> None:
    names = [path.name for path in staging.iterdir() if path.name != sidecar.name]
    for name in [*sorted(names), sidecar.name]:
        os.replace(staging / name, sidecar.parent / name)


def _finish(staging: Path, sidecar: Path) -> None:
    """Finish a commit that has begun; without one, there is nothing to keep."""
    if (staging / sidecar.name).is_file():
        _move_all(staging, sidecar)
    shutil.rmtree(staging, ignore_errors=True)


def _sweep(sidecar: Path) -> None:
    """Finish or remove what killed runs left behind for this product."""
    # the name may hold what means something else in a pattern
    for staging in sidecar.parent.glob(f"{glob.escape(f'.{sidecar.name}{_MARK}')}*"):
        lock = _lock(staging)
        if lock is None:
            continue
        try:
            _finish(staging, sidecar)
        finally:
            os.close(lock)
