"""The only place that decorates with numba.

Compiled code is kept in a folder of our own (``CRBSVD_CACHE``, else the user's cache folder),
because an installation may be read-only; where no folder can be written it is compiled anew.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])
prange = numba.prange


@cache
def cache_folder() -> Path | None:
    """Return the folder for compiled code, or None when none can be written."""
    base = os.environ.get("CRBSVD_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "crbsvd-plugin" / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


def _save_if_possible(compiled: Any) -> None:
    """Let compiled code that cannot be kept (a full disk) be used all the same; numba would raise."""
    save = compiled._cache.save_overload

    def save_or_not(signature: object, data: object) -> None:
        with suppress(OSError):
            save(signature, data)

    compiled._cache.save_overload = save_or_not


def kernel(
    *,
    parallel: bool = False,
    fastmath: bool | set[str] = False,
    inline: bool = False,
    expand: bool = False,
    parts: Sequence[str] = (),
) -> Callable[[F], F]:
    """Compile a function without Python objects; it releases the GIL.

    Parameters
    ----------
    parallel : bool
        Spread its `prange` loops over the threads of `threads.count()`.
    fastmath : bool or set of str
        The floating-point freedoms of LLVM that the kernel can stand.
    inline : bool
        Only called from other kernels: neither cached nor entered from Python.
    expand : bool
        As `inline`, and its source takes the place of a call: for what is called with many arrays and does little,
        since numba counts references to every array that is handed over.
    parts : sequence of str
        Modules beside this one whose functions it is made of: numba looks at the file of a function alone to see
        whether what is kept is stale.
    """

    def decorate(function: F) -> F:
        folder = None if inline or expand else cache_folder()
        if folder is not None and parts:
            sources = [Path(function.__code__.co_filename).with_name(f"{part}.py") for part in parts]
            folder /= hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
        # numba chooses the folder at the moment of decoration, from this setting
        before = numba.config.CACHE_DIR
        try:
            if folder is not None:
                numba.config.CACHE_DIR = str(folder)
            compiled: F = numba.njit(
                nogil=True, parallel=parallel, fastmath=fastmath, cache=folder is not None, error_model="numpy",
                inline="always" if expand else "never",
            )(function)  # fmt: skip
        finally:
            numba.config.CACHE_DIR = before
        if folder is not None:
            _save_if_possible(compiled)
        return compiled

    return decorate
