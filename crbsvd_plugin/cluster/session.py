"""Begin and end: local workers are started and stopped, those of a running scheduler are asked who they are."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from .. import __version__
from ..errors import UserError
from .pool import Pool
from .workers import Workers, compare, versions

_START = 60.0  # seconds for the scheduler in this process: the machine may be busy
_CLOSE = 5.0  # seconds that a scheduler has to take leave
_GRACE = 1.0  # seconds that a local worker has to end by itself, where Dask would give it five
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
# what Dask sets in the environment of the process that starts workers
_LEAKED = (*_THREADS, "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")
_SETTINGS = {
    # items travel with their calls, so that they survive every worker; a slice is larger than 10 MB
    "distributed.admin.large-graph-warning-threshold": "1 TB",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": 65536},
}


@contextmanager
def connect(*, workers: int | None, scheduler: str | None, timeout: float = 10.0) -> Iterator[Pool]:
    """Give a pool of local processes, or of a Dask scheduler's workers, one thread each; close it afterwards.

    Parameters
    ----------
    workers : int or None
        Start that many processes on this machine; they end with this one, however it ends.
    scheduler : str or None
        Address of a running scheduler, such as ``tcp://node17:8786``; its workers stay. Without both, the pool
        is this process.
    timeout : float
        Seconds that the scheduler has to answer, and to have a worker.

    Raises
    ------
    UserError
        Both are given; `workers` is less than 1; Dask is not installed; the scheduler does not answer or has no
        worker in time, or its versions of Python, numpy or this package are not ours, or a worker of it has
        several threads.
    """
    if workers is None and scheduler is None:
        yield Pool()
        return
    if workers is not None and scheduler is not None:
        raise UserError("--workers and --scheduler are both given; give only one of them")
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}, expected at least 1")
    try:
        import dask
        import distributed  # noqa: F401 - its settings and loggers must be there before they are changed
    except ImportError:
        raise UserError(
            "--workers and --scheduler need Dask, which is not installed: pip install 'crbsvd-plugin[distributed]'"
        ) from None
    with _environment(), dask.config.set(_SETTINGS), _quiet(), _loop() as loop, ExitStack() as stack:
        if scheduler is None:
            cluster = stack.enter_context(_start(loop, workers or 1))
            stack.callback(cluster.sync, _stop, cluster)
            client = _join(stack, loop, cluster, timeout=_START)
        else:
            _knock(loop, scheduler, timeout)
            client = _join(stack, loop, scheduler, timeout=timeout)
            _check_cluster(client, scheduler, timeout)
        yield Workers(client, versions())


@contextmanager
def spread(*, workers: int | None, scheduler: str | None) -> Iterator[Pool | None]:
    """Connect as `connect` does if there is to be a cluster; else give None, for work that is then done otherwise."""
    if workers is None and scheduler is None:
        yield None
        return
    with connect(workers=workers, scheduler=scheduler) as pool:
        yield pool


def dask_setup(_worker: object) -> None:
    """Prepare a local worker (Dask calls this by its name): Ctrl-C is for the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start(loop: Any, n_workers: int) -> Any:
    """Start workers on this machine; return their cluster."""
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            # no pages, and no port that another cluster may have
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL + 1,
            env=_THREADS,
            preload=[__name__],
            loop=loop,
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"--workers: {n_workers} processes could not be started ({_line(error)}); use fewer, "
            'and in a script of your own call this below `if __name__ == "__main__":`'
        ) from None


async def _stop(cluster: Any) -> None:
    """End the workers, in the middle of their work too: nobody waits for it any more."""
    await asyncio.gather(*(worker.close(timeout=_GRACE) for worker in cluster.workers.values()), return_exceptions=True)


def _knock(loop: Any, address: str, timeout: float) -> None:
    """Refuse an address at which no scheduler answers; a client that failed to connect would not end quietly."""
    from distributed import Security
    from distributed.core import coerce_to_address, rpc

    async def ask() -> None:
        async with rpc(
            coerce_to_address(address), connection_args=Security().get_connection_args("client")
        ) as scheduler:
            await scheduler.identity(n_workers=0)

    async def ask_in_time() -> None:
        await asyncio.wait_for(ask(), timeout)

    error = asyncio.run_coroutine_threadsafe(ask_in_time(), loop.asyncio_loop).exception()
    if isinstance(error, ValueError | TypeError):
        raise UserError(
            f"--scheduler: {address!r} is no address of a scheduler ({_line(error)}); expected one as tcp://node17:8786"
        )
    if isinstance(error, OSError):
        # that the time is over has been said
        why = "" if isinstance(error, TimeoutError) else f" ({_line(error)})"
        raise UserError(
            f"--scheduler: {address} does not answer within {timeout:g} s{why}; "
            "check the address, and that a Dask scheduler runs there"
        )
    if error is not None:
        # whatever comes out of reading the bytes of another protocol
        raise UserError(
            f"--scheduler: what answers at {address} is no Dask scheduler ({type(error).__name__}); "
            "check the address and its port"
        )


def _join(stack: ExitStack, loop: Any, target: Any, *, timeout: float) -> Any:
    """Return a client of a cluster or of the scheduler at an address."""
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    with warnings.catch_warnings():
        # what matters of it is checked, and ends with an error
        warnings.simplefilter("ignore", VersionMismatchWarning)
        client = Client(target, timeout=timeout, loop=loop, set_as_default=False)
    stack.callback(client.close, timeout=_CLOSE)
    return client


def _check_cluster(client: Any, address: str, timeout: float) -> None:
    """Refuse a scheduler without workers, and one that would compute something else."""
    ours = versions()

    async def ask() -> dict[str, Any]:
        workers = await client.run(versions, on_error="return")
        found = {f"the worker at {one}": versions for one, versions in workers.items()}
        try:
            # the scheduler reads every call before a worker does
            found["the scheduler"] = await client.run_on_scheduler(versions)
        except (ImportError, AttributeError) as error:
            found["the scheduler"] = error
        return found

    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError:
        raise UserError(
            f"--scheduler: {address} has no worker after {timeout:g} s; start some, or wait until they have started"
        ) from None
    try:
        everyone = client.sync(ask, callback_timeout=timeout)
    except OSError:
        raise UserError(
            f"--scheduler: not all workers of {address} answer within {timeout:g} s; stop those that hang"
        ) from None
    for who, theirs in everyone.items():
        if isinstance(theirs, Exception):
            raise UserError(
                f"--scheduler: {who} cannot load crbsvd-plugin {__version__} ({_line(theirs)}); install the same there"
            )
        compare(ours, theirs, who)
    for who, n in client.nthreads().items():
        if n != 1:
            raise UserError(f"--scheduler: the worker at {who} has {n} threads, expected 1; start it with --nthreads 1")


def _line(error: BaseException) -> str:
    """Return the first line of an error's text, or else its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _loop() -> Iterator[Any]:
    """Run Dask's event loop in a thread that ends with the block; Dask's own stays when a connection fails."""
    from tornado.ioloop import IOLoop

    ready = threading.Event()
    running: list[Any] = []

    async def main() -> None:
        stop = asyncio.Event()
        running.extend((IOLoop.current(), stop))
        ready.set()
        await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="cluster", daemon=True)
    thread.start()
    ready.wait()
    loop, stop = running
    try:
        yield loop
    finally:
        loop.add_callback(stop.set)
        thread.join(_CLOSE)


@contextmanager
def _environment() -> Iterator[None]:
    """Let workers start with one thread for each library, and leave our environment as it was."""
    before = {name: os.environ.get(name) for name in _LEAKED}
    # numba's is for the workers alone: here its threads may be running, and it reads the variable again
    os.environ.update({name: "1" for name in _THREADS if name != "NUMBA_NUM_THREADS"})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log off stderr: what matters of it arrives as an exception."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado")]
    before = [(handler, handler.level) for logger in loggers for handler in logger.handlers]
    for handler, _ in before:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in before:
            handler.setLevel(level)
