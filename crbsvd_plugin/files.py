"""Files that appear whole or not at all.

A *product* is one or several files that make one thing (a basis is ``NAME.cfl``, ``NAME.hdr``,
``NAME.json``). They are written into a hidden staging folder beside their destination and
renamed at the end, the JSON last: it lists the SHA-256 of the others and is the commit mark.

See `staging` for what a killed run leaves, and what becomes of it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError
from .staging import move_all, refused, staging_folder, sweep, turn


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
        content = json.loads(path.read_text(encoding="utf-8"), parse_int=_integer, parse_constant=_no_number)
    except FileNotFoundError:
        raise UserError(f"{what}: {path} does not exist; check the name") from None
    except IsADirectoryError:
        raise UserError(f"{what}: {path} is a folder, expected a JSON file") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{what}: {path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{what}: {path} holds a {type(content).__name__}, expected an object")
    return content


def _integer(text: str) -> int:
    """Return an integer that a double could hold."""
    float(value := int(text))
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


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
        self._hashes: dict[str, str] = {}
        self._part = staging / f"{sidecar.name}.part"
        self._former = _members(sidecar, kind) or {}

    def path(self, name: str) -> Path:
        """Return the temporary path of the file that will be called `name`."""
        if Path(name).name != name or name in ("", "..", self._sidecar.name):
            raise ValueError(f"{name!r} is not the plain name of a member file")
        if name not in self._names:
            self._names.append(name)
        return self._staging / name

    def prepare(self, content: dict[str, Any]) -> None:
        """Write the sidecar, with its kind and the hashes of all members, under a name that does not commit it yet."""
        self._hashes = {name: sha256(self._staging / name) for name in self._names}
        text = json.dumps({"format": self._kind, **content, "files": self._hashes}, indent=1, allow_nan=False)
        self._part.write_text(text + "\n", encoding="utf-8")

    def commit(self, content: dict[str, Any] | None = None) -> None:
        """Write the sidecar if it is not prepared, and rename everything.

        Files that only the replaced product had are removed, or they would pass for part of this
        one; not those that were changed since: they are the user's now.
        """
        if content is not None:
            self.prepare(content)
        with turn(self._sidecar.parent):
            # another run may have been as fast
            _check_free(self._sidecar, self._names, kind=self._kind, force=self._force)
            os.replace(self._part, self._staging / self._sidecar.name)
            move_all(self._staging, self._sidecar)
            for name in self._former.keys() - self._hashes.keys():
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
    with staging_folder(sidecar) as staging:
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
    sweep(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected the name of a file: choose another name")
    if path.exists() and not force:
        raise UserError(f"{path} exists already: choose another name, or say --force to replace it")
    with staging_folder(path) as staging:
        # under another name than its own, which would be taken for a commit mark
        part = staging / f"{path.name}.part"
        yield part
        os.replace(part, path)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with six digits, as CSV: it is read by people too."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def check_free(sidecar: Path, names: list[str], *, kind: str, force: bool) -> None:
    """Refuse names that are taken (with `force`: by files that are not of this product)."""
    try:
        sweep(sidecar)
        _check_free(sidecar, names, kind=kind, force=force)
    except OSError as error:
        raise refused(sidecar, error) from None


def check_writable(path: Path) -> None:
    """Refuse a place where nothing can be written, while there is nothing to be lost yet; nothing is left there.

    Raises
    ------
    UserError
        The folder cannot be made, or holds no new file.
    """
    with staging_folder(path) as staging:
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
