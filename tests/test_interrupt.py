"""Ctrl-C waits for the end of a block, and is not lost."""

from __future__ import annotations

import signal
import threading

import pytest

from crbsvd_plugin.interrupt import held


def interrupted(done: list[str], error: Exception | None = None) -> None:
    with held():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest")
        if error is not None:
            raise error


def test_it_comes_after_the_block() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(done)
    assert done == ["the rest"]


def test_an_error_of_the_block_is_not_hidden() -> None:
    error = ValueError("of the block")
    with pytest.raises(KeyboardInterrupt) as raised:
        interrupted([], error)
    assert raised.value.__context__ is error


def test_without_one_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with held():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_who_ignores_it_is_not_interrupted() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_has_nothing_to_hold() -> None:
    seen = []

    def work() -> None:
        with held():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
