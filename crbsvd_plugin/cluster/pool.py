"""A pool calls a function for every item, and may merge what comes out: here, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int], object]


class Pool:
    """Runs everything in this process, one item after the other."""

    def map(self, function: Callable[[T], R], items: Iterable[T], *, progress: Progress | None = None) -> Iterator[R]:
        """Yield ``function(item)`` for every item, in their order.

        Parameters
        ----------
        function : callable
            A function of an importable module, or `functools.partial` of one with plain arguments.
        items : iterable
            Plain values, taken when there is room for them.
        progress : callable, optional
            Called with the number of items just done.
        """
        for item in items:
            result = function(item)
            tell(progress, 1)
            yield result

    def reduce(
        self,
        function: Callable[[T], R],
        merge: Callable[[R, R], R],
        items: Iterable[T],
        *,
        group: int,
        progress: Progress | None = None,
    ) -> Iterator[R]:
        """Yield the merged results of every `group` items, in their order (the last group may be smaller).

        Results of a group are merged two by two, neighbours first: which ones is a matter of their number only, so
        that the bits are the same for any number of workers.

        Parameters
        ----------
        function, items, progress
            As for `map`; each item should be worth seconds of work.
        merge : callable
            Merges two neighbours, the earlier one first, into a new value; leaves both as they are.
        group : int
            Number of items whose merged result is one value.
        """
        for members in groups(items, group):
            # the list is gone over once: only the partial results of the tree are in memory
            result = tree((function(item) for item in members), merge)
            tell(progress, len(members))
            yield result


def groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` neighbours; the last one may be shorter."""
    if size < 1:
        raise ValueError(f"group is {size}, expected at least 1")
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])


def tree(values: Iterable[R], merge: Callable[[R, R], R]) -> R:
    """Merge neighbours two by two, then their results, and so on; an odd one out waits for its turn.

    Goes over the values once; for n of them no more than 1 + log2(n) results are kept.
    """
    stack: list[tuple[int, R]] = []
    for value in values:
        size = 1
        while stack and stack[-1][0] == size:
            value, size = merge(stack.pop()[1], value), 2 * size
        stack.append((size, value))
    (_, result) = stack.pop()
    while stack:
        result = merge(stack.pop()[1], result)
    return result


def tell(progress: Progress | None, n: int) -> None:
    """Report `n` items done to who wants to know."""
    if progress is not None:
        progress(n)
