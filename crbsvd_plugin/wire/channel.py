"""Bytes from a host and back: reads that wait for a limited time and notice the end."""

from __future__ import annotations

import io
import os
import select
import socket
import threading
import time
from typing import BinaryIO

from ..errors import UserError

_SLICE_S = 0.2  # how soon a read that waits notices that it is no longer wanted
_BUFFER = 2**18


class Channel:
    """Two ends of a connection, a socket or two pipes.

    Parameters
    ----------
    source : int
        File descriptor to read from.
    sink : binary file
        Where to write to; whoever makes it flushes nothing, `flush` does.
    idle_s : float, optional
        How long to wait for a byte [s]; None: for ever.
    connection : socket, optional
        The socket that both ends belong to; None: they are pipes or files.
    """

    def __init__(
        self, source: int, sink: BinaryIO, *, idle_s: float | None = None, connection: socket.socket | None = None
    ):
        self._raw = _Waiting(source, idle_s)
        self._reader = io.BufferedReader(self._raw, _BUFFER)
        self._sink = sink
        self._connection = connection

    @classmethod
    def of_socket(cls, connection: socket.socket, *, idle_s: float | None = None) -> Channel:
        """Return a channel over a connected socket, which it closes; a write waits as long as a read."""
        connection.settimeout(idle_s)
        return cls(connection.fileno(), connection.makefile("wb"), idle_s=idle_s, connection=connection)

    def read(self, n_bytes: int) -> bytes:
        """Return exactly so many bytes.

        Raises
        ------
        UserError
            The stream ended before, or nothing came for too long.
        """
        found = self._reader.read(n_bytes)
        if len(found) < n_bytes:
            raise UserError(f"the stream ended after {len(found)} of {n_bytes} bytes, in the middle of a message")
        return found

    def read_into(self, target: memoryview) -> None:
        """Fill a writable block of bytes; raises as `read`."""
        done = self._reader.readinto(target)
        if done < len(target):
            raise UserError(f"the stream ended after {done} of {len(target)} bytes, in the middle of a message")

    def next_id(self) -> int:
        """Return the number of the next message; raises as `read`."""
        found = self._reader.read(2)
        if not found:
            raise UserError("the stream ended without a CLOSE message: the sender has stopped, the scan is incomplete")
        return int.from_bytes(found + self.read(2 - len(found)), "little")

    def skip(self, n_bytes: int) -> None:
        """Read so many bytes and forget them; raises as `read`."""
        while n_bytes:
            n_bytes -= len(self.read(min(n_bytes, _BUFFER)))

    def write(self, content: bytes) -> None:
        """Write bytes, sooner or later."""
        self._sink.write(content)

    def flush(self) -> None:
        """Write what waits.

        Raises
        ------
        OSError
            The peer has gone, or takes nothing for too long.
        """
        self._sink.flush()

    def stop_reading(self) -> None:
        """Let a read that waits in another thread end with an error, within a moment."""
        self._raw.stopped.set()

    def close(self, *, linger_s: float) -> None:
        """End our side; read on until the peer has ended its own, or for `linger_s` seconds [s].

        A socket that is closed before all has been read makes the kernel tell the peer of an error, upon which it
        may forget the last of our messages.
        """
        if self._connection is None:
            return
        try:
            self._connection.shutdown(socket.SHUT_WR)
            until = time.monotonic() + linger_s
            while (left := until - time.monotonic()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(_BUFFER):
                    break
        except OSError:
            pass  # it has gone: there is nobody to be polite to
        finally:
            self._connection.close()


def waiting(source: int, idle_s: float | None) -> io.BufferedReader:
    """Return a file over a descriptor whose reads wait for a limited time [s], for other readers than ours."""
    return io.BufferedReader(_Waiting(source, idle_s), _BUFFER)


class _Waiting(io.RawIOBase):
    """A file descriptor whose reads wait for a limited time."""

    def __init__(self, descriptor: int, idle_s: float | None):
        self.stopped = threading.Event()
        self._descriptor = descriptor
        self._idle_s = idle_s
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        until = None if self._idle_s is None else time.monotonic() + self._idle_s
        while not self._poll.poll(1000 * _SLICE_S):
            if self.stopped.is_set():
                raise UserError("the session has ended, nothing more is read")
            if until is not None and time.monotonic() > until:
                raise UserError(f"nothing came for {self._idle_s:g} s: the sender has stopped (--idle)")
        if self.stopped.is_set():
            raise UserError("the session has ended, nothing more is read")
        try:
            return os.readv(self._descriptor, [target])
        except OSError as error:
            raise UserError(f"the connection is broken ({error.strerror}): the sender has gone") from None
