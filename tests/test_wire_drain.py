"""Reads that wait, and the thread that reads ahead."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator

import pytest

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.wire.channel import Channel
from crbsvd_plugin.wire.drain import Drain
from crbsvd_plugin.wire.messages import Reader


def test_a_pipe_that_is_silent_for_too_long() -> None:
    receiver, sender = os.pipe()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"nothing came for 0\.3 s"):
        list(Reader(Channel(receiver, io.BytesIO(), idle_s=0.3)))
    assert 0.3 <= time.monotonic() - began < 5
    os.close(receiver)
    os.close(sender)


@pytest.fixture
def silent() -> Iterator[Channel]:
    """A channel on which nothing comes."""
    receiver, sender = os.pipe()
    yield Channel(receiver, io.BytesIO())
    os.close(receiver)
    os.close(sender)


def test_the_queue_is_bounded_and_in_order(silent: Channel) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in [3, 4, 5, 100, 1, 2]:
            taken.append(number)
            yield number

    drain = Drain(items(), silent, size_of=int, limit=10)
    deadline = time.monotonic() + 5
    while len(taken) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert taken == [3, 4, 5]  # 5 waits, for 12 would be more than 10
    assert list(drain) == [3, 4, 5, 100, 1, 2]  # what is larger than the queue goes alone
    drain.close()


def test_a_failure_overtakes_what_waits(silent: Channel) -> None:
    failed = threading.Event()

    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        failed.set()
        raise UserError("gone")

    drain = Drain(items(), silent, size_of=int, limit=100)
    failed.wait(5)
    drain._thread.join(5)
    with pytest.raises(UserError, match="gone"):
        next(drain)
    with pytest.raises(UserError, match="gone"):
        drain.check()
    drain.close()


def test_a_reader_that_waits_can_be_stopped(silent: Channel) -> None:
    drain = Drain(iter(Reader(silent)), silent, size_of=lambda _: 0)
    began = time.monotonic()
    drain.close()
    assert time.monotonic() - began < 2
    assert not drain._thread.is_alive()
