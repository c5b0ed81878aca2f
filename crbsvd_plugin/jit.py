"""The only place that decorates with numba.

Compiled code is kept in a folder of our own (``CRBSVD_CACHE``, else the user's cache folder),
because an installation may be read-only; where no folder can be written it is compiled anew.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import caching

from .errors import UserError

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


@contextmanager
def foreign_kernels() -> Iterator[None]:
    """Let the block import a library that asks numba to keep its kernels beside its source.

    Where that is read-only and there is no home, numba refuses the import. Here they go where ours go, or into a
    folder that goes with the process.

    Raises
    ------
    UserError
        Not even a temporary folder can be written.
    """
    before = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = str(cache_folder() or _temporary_folder().name)
        yield
    finally:
        numba.config.CACHE_DIR = before


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="crbsvd-numba-")
        atexit.register(folder.cleanup)  # of this process: a forked one leaves without
        return folder
    except OSError as error:
        raise UserError(f"no folder can be written for compiled code ({error}); name one in CRBSVD_CACHE") from None


def _keep_if_possible() -> None:
    """Let compiled code that cannot be kept (a full disk) be used all the same, a library's too; numba would raise."""
    save = caching.Cache.save_overload

    def save_or_not(self: Any, signature: object, data: object) -> None:
        with suppress(OSError):
            save(self, signature, data)

    caching.Cache.save_overload = save_or_not


_keep_if_possible()


def kernel(
    *, parallel: bool = False, fastmath: bool | set[str] = False, inline: bool = False, parts: Sequence[str] = ()
) -> Callable[[F], F]:
    """Compile a function without Python objects; it releases the GIL.

    Parameters
    ----------
    parallel : bool
        Spread its `prange` loops over the threads of `threads.count()`.
    fastmath : bool or set of str
        The floating-point freedoms of LLVM that the kernel can stand.
    inline : bool
        Only called from other kernels, and made part of them: neither cached nor entered from Python. It can neither
        make arrays nor return them, because it counts no references to those that it is given: counting takes as long
        as a loop over a few vectors, and so does a call that is left to LLVM.
    parts : sequence of str
        Modules beside this one whose functions it is made of: numba looks at the file of a function alone to see
        whether what is kept is stale.
    """

    def decorate(function: F) -> F:
        folder = None if inline else cache_folder()
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
                forceinline=inline, _nrt=not inline,
            )(function)  # fmt: skip
        finally:
            numba.config.CACHE_DIR = before
        return compiled

    return decorate
