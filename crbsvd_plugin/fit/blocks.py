"""Voxels a block at a time, here or on workers: the loop that all fits have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..cluster import Pool

R = TypeVar("R")


def in_blocks(
    one: Callable[[Any], R],
    cut: Callable[[slice], Any],
    n_voxels: int,
    *,
    size: int,
    progress: Callable[[int], object] | None = None,
    pool: Pool | None = None,
) -> Iterator[tuple[slice, R]]:
    """Yield which voxels, and what comes of them, one block after the other.

    Parameters
    ----------
    one : callable
        What is done to a block, wherever that is: it is sent to the workers.
    cut : callable
        Makes the block of some voxels, here.
    n_voxels : int
        How many there are.
    size : int
        Voxels of a block. Blocks are the same however many workers there are, so results are, bit for bit.
    progress : callable, optional
        Called with the number of voxels after each block.
    pool : Pool, optional
        The workers; none: this process.
    """
    parts = [slice(start, min(start + size, n_voxels)) for start in range(0, n_voxels, size)]
    for part, found in zip(parts, (pool or Pool()).map(one, map(cut, parts)), strict=True):
        yield part, found
        if progress is not None:
            progress(part.stop - part.start)
