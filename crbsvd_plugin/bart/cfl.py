"""BART's files: a pair each, ``NAME.hdr`` and ``NAME.cfl``.

The header lists the dimensions; the other holds complex64 numbers, little endian, first dimension fastest.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import with_suffix

_DTYPE = np.dtype("<c8")
_MAX_DIMS = 17  # 16 of images and data, and one more of a point spread function's phases
_HEADER_BYTES = 1 << 20
_CHUNK = 1 << 22  # elements converted at a time: 32 MiB


def read_cfl(name: str | Path, *, mapped: bool = False) -> NDArray[np.complex64]:
    """Read ``NAME.cfl`` with the dimensions of ``NAME.hdr``.

    Parameters
    ----------
    name : path
        Name without suffix; ``basis_0.5`` is ``basis_0.5.cfl`` and ``basis_0.5.hdr``.
    mapped : bool
        Map the file (read only) instead of reading it: for large ones.

    Returns
    -------
    complex64 array, column-major
        Its shape is the header's list, singleton dimensions included.

    Raises
    ------
    UserError
        A file is missing, the header is unreadable, or the size of the data is another.
    """
    dims = _read_dims(name)
    path = with_suffix(name, ".cfl")
    expected = math.prod(dims) * _DTYPE.itemsize
    try:
        size = path.stat().st_size
        if size != expected:
            what = "truncated" if size < expected else "too long"
            listed = " ".join(map(str, dims))
            raise UserError(
                f"{path} is {what}: it has {size} bytes, expected {expected} for the dimensions {listed} "
                "of its header; copy or make it again"
            )
        if mapped:
            return np.memmap(path, dtype=_DTYPE, mode="r", shape=dims, order="F")
        return np.fromfile(path, dtype=_DTYPE).reshape(dims, order="F")
    except OSError as error:
        raise _unreadable(name, path, error) from None


def _unreadable(name: str | Path, path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read {path} ({error.strerror or error}); a BART file is the pair {name}.hdr and {name}.cfl, "
        "named without the suffix: check the name"
    )


def _read_dims(name: str | Path) -> tuple[int, ...]:
    """Read the sizes that follow ``# Dimensions``; other sections of the header are ignored."""
    path = with_suffix(name, ".hdr")
    try:
        with path.open("rb") as stream:
            lines = stream.read(_HEADER_BYTES).decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise _unreadable(name, path, error) from None
    lines = [line.strip() for line in lines if line.strip()]
    start = next((i for i, line in enumerate(lines) if line.lower().lstrip("# ").startswith("dimensions")), None)
    words = lines[start + 1].split() if start is not None and start + 1 < len(lines) else []
    wrong = ""
    if not words or words[0].startswith("#"):
        wrong = "no line '# Dimensions' followed by sizes"
    elif not all(re.fullmatch(r"[0-9]{1,18}", word) and int(word) > 0 for word in words):
        wrong = f"the dimensions read {' '.join(words)[:80]!r}, expected positive whole numbers"
    elif len(words) > _MAX_DIMS:
        wrong = f"it lists {len(words)} dimensions, expected at most {_MAX_DIMS}"
    elif math.prod(map(int, words)) * _DTYPE.itemsize > sys.maxsize:
        wrong = f"the dimensions {' '.join(words)} are more than any file can hold"
    if wrong:
        raise UserError(f"{path} is not a BART header: {wrong}; make it again")
    return tuple(map(int, words))


def write_cfl(name: str | Path, array: NDArray[np.number]) -> None:
    """Write an array, its shape being the list of dimensions, as ``NAME.cfl`` and ``NAME.hdr``.

    A column-major complex64 array is written as it lies in memory: that is what a C-ordered
    array becomes by `transpose`, singleton axes inserted or not. Others are converted in chunks.

    Raises
    ------
    ValueError
        The array is empty or has more than 17 axes.
    OSError
        Writing failed (not `UserError`: who chose the place says what to do about it).
    """
    rows = np.atleast_1d(array).T
    if rows.flags.c_contiguous and rows.dtype == _DTYPE:
        write_cfl_blocks(name, array.shape, [rows])
        return
    while rows.ndim > 1 and rows.shape[0] == 1:
        rows = rows[0]
    step = max(1, _CHUNK * len(rows) // max(1, rows.size))
    write_cfl_blocks(name, array.shape, (rows[i : i + step] for i in range(0, len(rows), step)))


def write_cfl_blocks(name: str | Path, dims: Sequence[int], blocks: Iterable[NDArray[np.number]]) -> None:
    """Write a BART file from C-ordered blocks that follow one another in it.

    Parameters
    ----------
    name : path
        Name without suffix.
    dims : sequence of int
        Dimensions for the header.
    blocks : iterable of arrays
        Together as many numbers as `dims` say. They may be made one by one, so that the whole
        never exists in memory; nothing is mapped, since a full disk kills whoever maps a file.

    Raises
    ------
    ValueError
        `dims` are not 1 to 17 positive numbers, or the blocks are more or fewer numbers.
    OSError
        Writing failed.
    """
    dims = tuple(dims) or (1,)
    if len(dims) > _MAX_DIMS or min(dims) < 1:
        raise ValueError(f"the dimensions are {dims}, expected at most {_MAX_DIMS} positive numbers")
    written = 0
    with with_suffix(name, ".cfl").open("wb") as stream:
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype=_DTYPE).data.cast("B"))
            written += block.size
    if written != math.prod(dims):
        raise ValueError(f"{written} numbers were given for the dimensions {dims}, expected {math.prod(dims)}")
    # the header comes last: where it is, the data are whole
    text = f"# Dimensions\n{' '.join(map(str, dims))}\n# Creator\ncrbsvd-plugin\n"
    with_suffix(name, ".hdr").write_text(text, encoding="utf-8")
