"""The pool of a Dask scheduler's workers.

What it yields depends neither on their number, nor on who was first, nor on workers that died in between.
"""

from __future__ import annotations

import math
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from .. import __version__, threads
from ..errors import UserError
from .pool import Pool, Progress, groups, tell, tree

T = TypeVar("T")
R = TypeVar("R")

_POLL = 5.0  # seconds between two looks at whether there is still a worker
_PATIENCE = 600.0  # seconds without any worker: a queue may need its time to replace the last one
_one_at_a_time = threading.Lock()


class Workers(Pool):
    """Runs everything on the workers of a Dask scheduler."""

    def __init__(self, client: Any, versions: Mapping[str, str]):
        self._client = client
        self._versions = dict(versions)

    def map(self, function: Callable[[T], R], items: Iterable[T], *, progress: Progress | None = None) -> Iterator[R]:
        """Yield ``function(item)`` for every item, in their order (see `Pool`)."""
        calls = ((self._call(function, item)(), 1) for item in items)
        return self._ordered(calls, lambda workers: 2 * workers + 1, progress)

    def reduce(
        self,
        function: Callable[[T], R],
        merge: Callable[[R, R], R],
        items: Iterable[T],
        *,
        group: int,
        progress: Progress | None = None,
    ) -> Iterator[R]:
        """Yield the merged results of every `group` items, in their order (see `Pool`)."""
        lists = groups(items, group)

        def calls() -> Iterator[tuple[Any, int]]:
            for members in lists:
                yield tree((self._call(function, item)() for item in members), self._call(merge)), len(members)

        # one group more than keeps all busy: while one is being merged, another one begins
        return self._ordered(calls(), lambda workers: 1 + math.ceil(2 * workers / group), progress)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return a call that is made on a worker; the arguments here are hidden from Dask, which would walk them."""
        from dask.delayed import delayed

        return delayed(partial(_run, self._versions, function, *arguments), pure=False, traverse=False)

    def _ordered(
        self, calls: Iterator[tuple[Any, int]], room: Callable[[int], int], progress: Progress | None
    ) -> Iterator[Any]:
        """Yield the results of calls in order, as many under way as there is room for with so many workers."""
        under_way: deque[tuple[Any, int]] = deque()
        try:
            while True:
                with self._connected():
                    n_free = room(max(1, self._n_workers())) - len(under_way)
                for call, n_items in islice(calls, max(n_free, 0 if under_way else 1)):
                    with self._connected():
                        under_way.append((self._client.compute(call, optimize_graph=False), n_items))
                if not under_way:
                    return
                future, n_items = under_way[0]
                result = self._result(future)
                under_way.popleft()
                future.release()
                del future
                tell(progress, n_items)
                yield result
                del result
        finally:
            # after an exception, Ctrl-C or when nobody wants the rest: what has not begun is dropped
            for future, _ in under_way:
                future.release()

    def _result(self, future: Any) -> Any:
        from distributed import KilledWorker, wait

        last_seen = time.monotonic()
        with self._connected(), self._client.as_current():
            while not future.done():
                try:
                    wait([future], timeout=_POLL)
                except TimeoutError:
                    if self._n_workers():
                        last_seen = time.monotonic()
                    elif time.monotonic() - last_seen > _PATIENCE:
                        raise UserError(
                            f"no worker has been left for {_PATIENCE:g} s; start some (and find out why they ended), "
                            "then start this command again: with a checkpoint it goes on"
                        ) from None
        if future.cancelled():
            raise _lost()
        try:
            return future.result()
        except KilledWorker as error:
            raise UserError(
                f"{error.allowed_failures + 1} workers died, one after the other, at the same piece of work; "
                "most often they lack memory: use fewer workers on a machine, or read the workers' logs"
            ) from None
        except CancelledError:
            raise _lost() from None

    def _n_workers(self) -> int:
        return len(self._client.nthreads())

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (OSError, CancelledError):
            raise _lost() from None


def _run(expected: Mapping[str, str], function: Callable[..., R], *arguments: Any) -> R:
    """Call a function on a worker, with one thread, whatever the worker has."""
    # a worker that came later was not there to be asked
    compare(expected, versions(), f"a worker on {platform.node()}")
    with _one_at_a_time, threads.limit(1):
        return function(*arguments)


def versions() -> dict[str, str]:
    """Return the versions that must be the same everywhere for the results to be."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "crbsvd-plugin": __version__, "numpy": np.__version__}


def compare(ours: Mapping[str, str], theirs: Mapping[str, str], who: str) -> None:
    """Raise a UserError that names `who` if its versions are not ours."""
    for name, version in ours.items():
        if theirs.get(name) != version:
            raise UserError(
                f"--scheduler: {who} runs {name} {theirs.get(name)}, here it is {version}; install the same in both"
            )


def _lost() -> UserError:
    return UserError(
        "the connection to the Dask scheduler was lost; look whether it still runs, "
        "then start this command again: with a checkpoint it goes on"
    )
