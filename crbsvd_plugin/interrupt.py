"""Ctrl-C that waits for a few lines that must not be left in the middle."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[None]:
    """Hold SIGINT back until the block has ended; whatever handles it comes after it.

    Python raises KeyboardInterrupt between any two lines of its main thread, those of a clean-up
    included: even `shutil.rmtree` may answer with an error of its own. The block should be short.
    """
    before = signal.getsignal(signal.SIGINT)
    # other threads are never interrupted; None is a handler that Python cannot put back
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
