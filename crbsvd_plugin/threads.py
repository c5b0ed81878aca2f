"""One number of threads for everything: numba, BLAS, the FFTs, FINUFFT and BART."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from .errors import UserError

_limit: int | None = None
_busy = threading.Lock()


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


@contextmanager
def alone() -> Iterator[None]:
    """Refuse to work in two threads of Python at once, where numba would end the process for it.

    Of numba's threading layers `tbb` and `omp` can be entered from several threads, `workqueue` cannot; it is taken
    where the libraries of the others are missing, as in many a container.

    Raises
    ------
    UserError
        Another thread is inside, and there is but that layer.
    """
    if not _busy.acquire(blocking=False):
        if not _layer_is_safe():
            raise UserError(
                "another thread of this process reconstructs already, and numba has only its layer workqueue here, "
                "which would end the process: install libgomp1 or tbb, or use one process for each scan"
            )
        yield
        return
    try:
        yield
    finally:
        _busy.release()


def _layer_is_safe() -> bool:
    """Return whether numba's kernels can be entered from several threads at once."""
    from numba import config

    wanted = config.THREADING_LAYER
    names = config.THREADING_LAYER_PRIORITY if wanted in ("default", "safe", "threadsafe", "forksafe") else [wanted]
    for name in names:
        try:
            import_module(f"numba.np.ufunc.{name if name == 'workqueue' else f'{name}pool'}")
        except ImportError:
            continue
        return bool(name != "workqueue")
    return False
