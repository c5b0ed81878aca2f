"""The pool of a Dask scheduler's workers.

What it yields depends neither on their number, nor on who was first, nor on workers that died in between.
"""

from __future__ import annotations

import logging
import math
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
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
_AGAIN = "start this command again: with a checkpoint, if it takes one, it goes on"
_PACKAGE = __name__.partition(".")[0]
_OPAQUE = {"pure": False, "traverse": False}
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class _Answer:
    """What a call returned, and what was logged on the way to it: (logger, level, message)."""

    value: Any
    log: tuple[tuple[str, int, str], ...]


class Workers(Pool):
    """Runs everything on the workers of a Dask scheduler.

    Items travel with their calls, anew for every worker that tries, so that a function may use its own up. A function
    travels once to every worker, so that what is bound to it (`functools.partial`) may be as large as a dictionary; it
    must stay as it is. What the package logs on a worker is logged here when the result comes.
    """

    def __init__(self, client: Any, versions: Mapping[str, str]):
        self._client = client
        self._versions = dict(versions)

    def map(self, function: Callable[[T], R], items: Iterable[T], *, progress: Progress | None = None) -> Iterator[R]:
        """Yield ``function(item)`` for every item, in their order (see `Pool`)."""
        there = self._sent(function)
        calls = ((self._call(item)(there), 1) for item in items)
        yield from self._ordered(calls, lambda workers: 2 * workers + 1, progress)

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
        there, merge_there, lists = self._sent(function), self._sent(merge), groups(items, group)

        def calls() -> Iterator[tuple[Any, int]]:
            for members in lists:
                results = (self._call(item)(there) for item in members)
                yield tree(results, partial(self._call(), merge_there)), len(members)

        # one group more than keeps all busy: while one is being merged, another one begins
        yield from self._ordered(calls(), lambda workers: 1 + math.ceil(2 * workers / group), progress)

    def _sent(self, function: Callable[..., Any]) -> Any:
        """Return a function as a value of the cluster: made again if every worker that had it has died."""
        from dask.delayed import Delayed, delayed

        with self._connected():
            future = self._client.compute(delayed(partial(_itself, function), **_OPAQUE)(), optimize_graph=False)
        # calls that waited for it would begin in any order, and the first one is wanted first
        self._wait(future)
        return Delayed(future.key, {future.key: future})

    def _call(self, *items: Any) -> Any:
        """Return a call of a function that is there; items are hidden from Dask, which would walk them."""
        from dask.delayed import delayed

        return delayed(partial(_run, self._versions, _level(), items), **_OPAQUE)

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
                answer = self._result(future)
                under_way.popleft()
                future.release()
                del future
                for name, level, message in answer.log:
                    logging.getLogger(name).log(level, "%s", message)
                tell(progress, n_items)
                yield answer.value
                del answer
        finally:
            # after an exception, Ctrl-C or when nobody wants the rest: what has not begun is dropped
            for future, _ in under_way:
                future.release()

    def _result(self, future: Any) -> _Answer:
        from distributed import KilledWorker

        self._wait(future)
        if future.cancelled():
            raise _lost()
        try:
            answer: _Answer = future.result()
            return answer
        except KilledWorker as error:
            raise UserError(
                f"{error.allowed_failures + 1} workers died, one after the other, at the same piece of work; "
                "most often they lack memory: use fewer workers on a machine, or read the workers' logs"
            ) from None
        except CancelledError:
            raise _lost() from None

    def _wait(self, future: Any) -> None:
        from distributed import wait

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
                            f"then {_AGAIN}"
                        ) from None

    def _n_workers(self) -> int:
        return len(self._client.nthreads())

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (OSError, CancelledError):
            raise _lost() from None


def _itself(value: T) -> T:
    return value


def _run(
    expected: Mapping[str, str], level: int, items: tuple[Any, ...], function: Callable[..., Any], *results: _Answer
) -> _Answer:
    """Call a function on a worker with items or with earlier results; with one thread, whatever the worker has."""
    # a worker that came later was not there to be asked
    compare(expected, versions(), f"a worker on {platform.node()}")
    log = [entry for result in results for entry in result.log]
    with _one_at_a_time, threads.limit(1), _logged(level) as own:
        value = function(*items, *(result.value for result in results))
    return _Answer(value, (*log, *own))


def _level() -> int:
    return logging.getLogger(_PACKAGE).getEffectiveLevel()


@contextmanager
def _logged(level: int) -> Iterator[list[tuple[str, int, str]]]:
    """Collect what the package logs from a level on, instead of showing it here."""
    logger, found = logging.getLogger(_PACKAGE), list[tuple[str, int, str]]()
    before, propagated = logger.level, logger.propagate
    handler = _Collector(found)
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
        logger.setLevel(before)


class _Collector(logging.Handler):
    def __init__(self, found: list[tuple[str, int, str]]):
        super().__init__()
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append((record.name, record.levelno, record.getMessage()))


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
    return UserError(f"the connection to the Dask scheduler was lost; look whether it still runs, then {_AGAIN}")
