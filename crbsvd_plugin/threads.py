"""One number of threads for everything: numba, BLAS, the FFTs, FINUFFT and BART."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import UserError

_limit: int | None = None


def available() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count() -> int:
    """Return the number of threads that every part of the package uses."""
    return _limit or available()


@contextmanager
def limit(n_threads: int | None) -> Iterator[None]:
    """Use at most `n_threads` threads inside the block, never more than cores; None leaves everything as it is.

    Raises
    ------
    UserError
        `n_threads` is not positive.
    """
    global _limit
    if n_threads is None:
        yield
        return
    if n_threads < 1:
        raise UserError(f"--threads is {n_threads}, expected at least 1")
    import numba
    from threadpoolctl import threadpool_limits

    n_threads = min(n_threads, available())
    before, _limit = _limit, n_threads
    numba_before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    try:
        with threadpool_limits(limits=n_threads):
            yield
    finally:
        _limit = before
        numba.set_num_threads(numba_before)
