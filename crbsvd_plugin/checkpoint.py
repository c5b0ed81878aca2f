"""One file that keeps the state of a long run: plain numbers and arrays, whole or not at all.

Layout: a line that names the format and its version; the size of the header (8 bytes, little-endian) and its
SHA-256; the header, JSON; the bytes of the arrays, one after the other; the SHA-256 of these bytes.
Sizes are checked against the size of the file before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .files import check_writable, single

_NAME = b"crbsvd-checkpoint "
_VERSION = 1
_MAGIC = _NAME + b"%d\n" % _VERSION
_DIGEST = 32
_PREFIX = len(_MAGIC) + 8 + _DIGEST
_KINDS = "biufc"  # bool, integers, real, complex: what is its own bytes and nothing else
_REMEDY = "give another file or remove this one"


class Checkpoint:
    """The file that a run writes now and then, and goes on from when it is started again.

    Parameters
    ----------
    path : str or Path
        The file. It need not exist; its folder is made by the first `save`.
    key : mapping of str to JSON values
        What run this is: model, prior, sizes, options, versions of this package and of numpy: all that
        changes the numbers. A file of another key is refused, by `load` and by `save`.
    every : float
        Seconds between two saves, for `due`.

    Raises
    ------
    UserError
        `every` is negative or not a number.
    """

    def __init__(self, path: str | Path, key: Mapping[str, Any], *, every: float = 120.0):
        if not every >= 0:
            raise UserError(f"checkpoint: the time between saves is {every} s, expected 0 or more")
        self.path = Path(path)
        self._key: dict[str, Any] = json.loads(_dump(dict(key)))
        self._every = every
        self._last = time.monotonic()
        self._known = False

    def due(self) -> bool:
        """Return whether `every` seconds have passed since the last save (or since the beginning)."""
        return time.monotonic() - self._last >= self._every

    def load(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Read state and arrays as they were saved, bit for bit; None when there is no file yet.

        Raises
        ------
        UserError
            The file is no checkpoint, of another format version, truncated, damaged, or of another run.
        """
        found = self._read(arrays=True)
        self._known = True
        return found

    def check(self) -> None:
        """Refuse a place that cannot be written, while there is nothing to be lost yet; nothing is left there.

        Raises
        ------
        UserError
            The place cannot be written.
        """
        check_writable(self.path)

    def save(self, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the file by this state and these arrays; if that fails, the former file stays.

        Parameters
        ----------
        state : mapping of str to JSON values
            Comes back as JSON knows it: tuples as lists.
        arrays : mapping of str to ndarray
            Of booleans, integers, real or complex numbers, of any shape. Those that are contiguous keep their
            order, C or Fortran; others come back in C order.

        Raises
        ------
        UserError
            The place cannot be written, or holds a file that is not a checkpoint of this run.
        TypeError
            An array holds something else than numbers, or the state is not JSON.
        """
        if not self._known:
            # never loaded: what stands there may be anything, and a checkpoint must not cost a file
            self._read(arrays=False)
            self._known = True
        content = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in content.items():
            if array.dtype.kind not in _KINDS:
                raise TypeError(f"array {name!r} is of {array.dtype}, expected booleans or numbers")
        layout = {name: [a.dtype.str, list(a.shape), _order(a)] for name, a in content.items()}
        header = _dump({"key": self._key, "state": dict(state), "arrays": layout}).encode()
        with single(self.path, force=True) as part, part.open("wb") as stream:
            stream.write(_MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header)
            digest = hashlib.sha256()
            for array in content.values():
                flat = np.ascontiguousarray(array.T if _order(array) == "F" else array).reshape(-1).view(np.uint8)
                digest.update(flat.data)
                stream.write(flat.data)
            stream.write(digest.digest())
            stream.flush()
            # a rename may reach the disk before the bytes do, and a power failure would leave an empty file
            os.fsync(stream.fileno())
        self._last = time.monotonic()

    def _read(self, *, arrays: bool) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        try:
            if self.path.exists() and not self.path.is_file():
                raise UserError(f"checkpoint: {self.path} is not a plain file; give another name")
            with self.path.open("rb") as stream:
                header, rest = self._header(stream, os.fstat(stream.fileno()).st_size)
                return header["state"], self._arrays(stream, header["arrays"], rest) if arrays else {}
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"checkpoint: {self.path} cannot be read ({error.strerror}); {_REMEDY}") from None

    def _header(self, stream: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
        """Return the header, checked, and the number of bytes behind it."""
        prefix = stream.read(_PREFIX)
        line, ended, _ = prefix.partition(b"\n")
        if not prefix.startswith(_NAME) or not ended:
            if prefix and (_MAGIC.startswith(prefix) or _NAME.startswith(prefix)):
                raise self._truncated(size, "more")
            raise UserError(f"checkpoint: {self.path} is no checkpoint; give another file, it is left as it is")
        if line + b"\n" != _MAGIC:
            version = line[len(_NAME) :].decode(errors="replace")
            raise UserError(f"checkpoint: {self.path} is of format {version[:20]!r}, expected '{_VERSION}'; {_REMEDY}")
        n_header = int.from_bytes(prefix[len(_MAGIC) : len(_MAGIC) + 8], "little")
        rest = size - _PREFIX - n_header
        if len(prefix) < _PREFIX or rest < _DIGEST:
            raise self._truncated(size, f"at least {_PREFIX + n_header + _DIGEST}")
        text = stream.read(n_header)
        if hashlib.sha256(text).digest() != prefix[-_DIGEST:]:
            raise self._damaged()
        header: dict[str, Any] = json.loads(text)
        difference = _difference(header["key"], self._key)
        if difference:
            raise UserError(f"checkpoint: {self.path} is of another run: {difference}; {_REMEDY}")
        return header, rest

    def _arrays(self, stream: BinaryIO, layout: dict[str, Any], rest: int) -> dict[str, NDArray[Any]]:
        sizes = {name: math.prod(shape) * _dtype(dtype).itemsize for name, (dtype, shape, _) in layout.items()}
        expected = sum(sizes.values()) + _DIGEST
        if rest < expected:
            raise self._truncated(stream.tell() + rest, str(stream.tell() + expected))
        if rest > expected:
            raise self._damaged()
        digest = hashlib.sha256()
        arrays: dict[str, NDArray[Any]] = {}
        for name, (dtype, shape, order) in layout.items():
            flat = np.empty(sizes[name], np.uint8)
            # the file may shrink between the look at its size and now
            if stream.readinto(flat) != flat.size:  # type: ignore[attr-defined]
                raise self._damaged()
            digest.update(flat.data)
            arrays[name] = flat.view(_dtype(dtype)).reshape(shape, order=order)
        if stream.read(_DIGEST) != digest.digest():
            raise self._damaged()
        return arrays

    def _truncated(self, size: int, expected: str) -> UserError:
        return UserError(f"checkpoint: {self.path} is truncated ({size} bytes, expected {expected}); {_REMEDY}")

    def _damaged(self) -> UserError:
        return UserError(f"checkpoint: {self.path} is damaged (its hash does not match its content); {_REMEDY}")


def _dump(value: dict[str, Any]) -> str:
    """Return JSON that comes back as the same numbers; keys that are no text would come back as text."""
    _check_names(value)
    return json.dumps(value)


def _check_names(value: object) -> None:
    if isinstance(value, Mapping):
        for name, one in value.items():
            if not isinstance(name, str):
                raise TypeError(f"{name!r} is the name of an entry, expected text")
            _check_names(one)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_names(one)


def _order(array: NDArray[Any]) -> str:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    # the hash says that nothing has changed, not who wrote it: a file must never name an object to build
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of {dtype} in a checkpoint")
    return dtype


_ABSENT = object()


def _difference(theirs: Any, ours: Any, name: str = "") -> str | None:
    """Return the first entry that differs, with both values, or None."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        pairs = {f"{name}.{one}" if name else one: (theirs.get(one, _ABSENT), ours.get(one, _ABSENT))
                 for one in [*ours, *theirs]}  # fmt: skip
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        pairs = {f"{name}[{i}]": both for i, both in enumerate(zip(theirs, ours, strict=True))}
    else:
        # by their text: NaN is not equal to itself, and True is to 1
        if _text(theirs) == _text(ours):
            return None
        return f"{name} is {_short(theirs)} in it and {_short(ours)} now"
    return next((found for one, both in pairs.items() if (found := _difference(*both, one))), None)


def _text(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= 60 else f"{text[:45]} ... {text[-10:]}"
