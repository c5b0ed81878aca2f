"""Arrays that come one by one, against numpy's own stack."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from crbsvd_plugin import stack
from crbsvd_plugin.stack import Stack


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_whole_is_that_of_numpy(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, n: int, axis: int
) -> None:
    """Blocks of four arrays: one that is not full, full ones, several."""
    monkeypatch.setattr(stack, "BLOCK_BYTES", 4 * 2 * 3 * 8)
    arrays = [(rng.standard_normal((2, 3)) + 1j).astype(np.complex64) for _ in range(n)]
    collected = Stack(np.complex64)
    new = [collected.append(array) for array in arrays]
    assert new == [i % 4 == 0 for i in range(n)]
    assert len(collected) == n
    assert collected.shapes == {(2, 3)}
    np.testing.assert_array_equal(collected.pop(axis=axis), np.stack(arrays, axis=axis))
    assert len(collected) == 0


def test_other_shapes_are_told_and_not_kept() -> None:
    collected = Stack(np.float32)
    for size in (3, 2, 3):
        collected.append(np.ones(size))
    assert collected.shapes == {(3,), (2,)}
    assert collected.pop(axis=0).shape == (2, 3)


def test_the_whole_needs_its_own_memory_and_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `pop` adds is the whole; blocks go as it is filled, which the allocator tells only by its peak."""
    monkeypatch.setattr(stack, "BLOCK_BYTES", 2**16)
    collected = Stack(np.complex64)
    for _ in range(1024):
        collected.append(np.ones(128, np.complex64))
    tracemalloc.start()
    try:
        whole = collected.pop(axis=0)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert whole.nbytes <= now < 1.05 * whole.nbytes
    assert peak < 1.05 * whole.nbytes
    assert not collected._blocks
