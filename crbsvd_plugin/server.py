"""A server of sessions: every host gets a process of its own.

A process for each host, and not a thread: what one of them does to memory, to numba's threads or to the whole process
does not concern the next. It is forked, because then the libraries are loaded once. That is safe as long as nothing
here makes threads, so kernels, FINUFFT and thread limits are the children's alone; the pools that OpenBLAS makes when
it is loaded end before a fork and come back after it.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection as waiting
from multiprocessing.context import ForkProcess

from .errors import UserError

logger = logging.getLogger(__name__)

TERMINATED = 128 + signal.SIGTERM
_GRACE_S = 9.0  # a signal waits for the end of a call into compiled code; a container is killed after 10 s
_BACKLOG = 16


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as an exception, so that hosts are told and temporary files go."""

    def end(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 takes any that is free.

    Raises
    ------
    UserError
        The address is unknown or taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host} port {port} ({error}); choose another (--host, --port)") from None


def load() -> None:
    """Import what sessions need, and do nothing with it: threads that are there at a fork are a danger.

    Before it is told that hosts may come: it takes a second or two, and a library starts a program for it.
    """
    import finufft  # noqa: F401
    import ismrmrd  # noqa: F401
    import scipy.ndimage  # noqa: F401

    from . import pipeline  # noqa: F401
    from .jit import foreign_kernels

    with foreign_kernels():
        import sigpy.mri  # noqa: F401


def serve(listener: socket.socket, session: Callable[[socket.socket], int], *, n_sessions: int) -> None:
    """Serve hosts until SIGTERM or Ctrl-C, at most `n_sessions` at once; others wait in the queue of the system.

    What `load` has not loaded, every session loads.

    Parameters
    ----------
    listener : socket
        From `listen`; it is closed at the end.
    session : callable
        Called in a process of its own with the connection of a host, which it closes; returns the exit status.
    n_sessions : int
        How many at once.

    Raises
    ------
    SystemExit, KeyboardInterrupt
        When told to stop; sessions were told too, and have ended.
    """
    children: dict[int, ForkProcess] = {}
    count = 0
    try:
        with listener, terminable():
            while True:
                ready = waiting.wait([*children, *([listener] if len(children) < n_sessions else [])])
                for sentinel in [one for one in ready if isinstance(one, int)]:
                    _ended(children.pop(sentinel))
                if listener in ready:
                    count += 1
                    child = _begin(listener, session, count)
                    if child is not None:
                        children[child.sentinel] = child
    finally:
        _end_all(list(children.values()))


def _begin(listener: socket.socket, session: Callable[[socket.socket], int], number: int) -> ForkProcess | None:
    try:
        host, address = listener.accept()
    except OSError as error:
        logger.warning("a host went before it was served (%s)", error)
        return None
    with host:
        logger.info("session %d: %s", number, address[0])
        child = multiprocessing.get_context("fork").Process(
            target=_child, args=(listener, host, session), name=f"session {number}"
        )
        child.start()
        return child


def _child(listener: socket.socket, host: socket.socket, session: Callable[[socket.socket], int]) -> None:
    listener.close()
    sys.exit(session(host))


def _ended(child: ForkProcess) -> None:
    child.join()
    logger.log(
        logging.WARNING if child.exitcode else logging.INFO, "%s ended with status %s", child.name, child.exitcode
    )
    child.close()


def _end_all(children: list[ForkProcess]) -> None:
    for child in children:
        child.terminate()
    for child in children:
        child.join(_GRACE_S)
        if child.exitcode is None:
            child.kill()
        _ended(child)
