"""How long work tells of its progress."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, int, int], object]
"""Called with the name of a stage, the steps done and their number."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def counted(report: Report, stage: str, total: int) -> Callable[[int], None]:
    """Begin a stage of `total` steps; return what is to be called with the number of steps just done."""
    done = 0

    def step(n: int) -> None:
        nonlocal done
        done += n
        report(stage, done, total)

    report(stage, 0, total)
    return step
