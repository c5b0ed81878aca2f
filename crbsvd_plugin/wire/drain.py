"""A thread that empties a stream while its items are worked on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .channel import Channel

QUEUE_BYTES = 2**28
"""How much may wait [bytes]; after that the sender has to."""


class Drain(Iterator[Any]):
    """The items of a stream, which a thread reads ahead.

    What goes wrong there is raised here, at once: what still waits is of an incomplete scan.

    Parameters
    ----------
    items : iterator
        The stream; `close` stops its channel.
    channel : Channel
        What the items are read from.
    size_of : callable
        Bytes that an item takes.
    limit : int
        Bytes that may wait; one item may always, however large.
    """

    def __init__(
        self, items: Iterator[Any], channel: Channel, *, size_of: Callable[[Any], int], limit: int = QUEUE_BYTES
    ):
        self._items = items
        self._channel = channel
        self._size_of = size_of
        self._limit = limit
        self._waiting: deque[tuple[Any, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._failure: BaseException | None = None
        # a daemon: whoever forgets to close it can end all the same
        self._thread = threading.Thread(target=self._read, name="crbsvd-drain", daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._failure is not None:
                raise self._failure
            if not self._waiting:
                raise StopIteration
            item, size = self._waiting.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def check(self) -> None:
        """Raise what went wrong, if anything did, without taking an item."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop reading, wherever the stream is."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._channel.stop_reading()
        self._thread.join()

    def _read(self) -> None:
        failure: BaseException | None = None
        try:
            for item in self._items:
                size = self._size_of(item)
                with self._changed:
                    while not self._closed and self._waiting and self._bytes + size > self._limit:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._waiting.append((item, size))
                    self._bytes += size
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever takes the items
            failure = error
        finally:
            with self._changed:
                self._ended, self._failure = True, failure
                self._changed.notify_all()
