"""Kernels that are kept: the same bits, nothing stale, nothing damaged, no more than there is room for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_encoding import arrays, random

from crbsvd_plugin import threads, toeplitz
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.kernel_cache import KernelCache

Freeze = Callable[..., np.ndarray]
KERNEL = np.arange(6, dtype=np.float32).reshape(1, 2, 3)


def made(cache: KernelCache, *facts: Any, kernel: np.ndarray = KERNEL) -> int:
    """Ask for a kernel; return how often it had to be made."""
    calls = []
    found = cache.get(facts, lambda: calls.append(0) or kernel)
    np.testing.assert_array_equal(found, kernel)
    assert (found.dtype, found.shape) == (kernel.dtype, kernel.shape)
    return len(calls)


def files_of(cache: KernelCache) -> list[Path]:
    return sorted(cache.folder.iterdir())


def test_what_was_made_is_found_and_nothing_else(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "far" / "cache")
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    facts = (np.eye(2), (3, 4), "float32", 1e-5)
    assert [made(cache, *facts), made(cache, *facts), made(KernelCache(cache.folder), *facts)] == [1, 0, 0]
    for other in ((np.eye(2).T * 2, *facts[1:]), (np.eye(2)[:1], *facts[1:]), (*facts[:3], 1e-6), facts[:3]):
        assert made(cache, *other) == 1
    # numbers that have the same bytes in another shape or type are not the same
    assert made(cache, np.zeros(4)) == made(cache, np.zeros((2, 2))) == made(cache, np.zeros(4, np.int64)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"something else",
        lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
    ],
)
def test_a_damaged_file_is_noticed_and_made_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cache = KernelCache(tmp_path)
    made(cache, 1)
    (file,) = files_of(cache)
    file.write_bytes(damage(file.read_bytes()))
    assert made(cache, 1) == 1
    assert "it is made anew" in caplog.text
    assert made(cache, 1) == 0
    assert files_of(cache) == [file]


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    for i in range(3):
        made(cache, i)
        os.utime(max(files_of(cache), key=lambda path: path.stat().st_mtime_ns), ns=(i, i))
    size = files_of(cache)[0].stat().st_size
    small = KernelCache(tmp_path, n_bytes=3 * size + KERNEL.nbytes - 1)
    assert made(small, 0) == 0  # and is now the youngest
    assert made(small, 3) == 1
    assert [made(small, i) for i in (0, 2, 3)] == [0, 0, 0]
    assert made(KernelCache(tmp_path), 1) == 1


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, n_bytes=KERNEL.nbytes - 1)
    assert [made(cache, 1), made(cache, 1)] == [1, 1]
    assert files_of(cache) == []


def test_a_full_disk_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = KernelCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert made(cache, 1) == 1
    assert "no space is left there" in caplog.text
    assert files_of(cache) == []


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    made(cache, 1)
    (file,) = files_of(cache)
    left = tmp_path / f".{'0' * 64}.kernel.crbsvd-tmp-01234567"
    left.mkdir()
    (left / "half.part").write_bytes(b"x" * 100)
    assert made(KernelCache(tmp_path), 1) == 0
    assert list(tmp_path.iterdir()) == [file]


def test_folders_that_are_not_private(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UserError, match="open can be written by others, expected a folder of your own"):
        KernelCache(tmp_path / "open")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is no folder and cannot be made one"):
        KernelCache(tmp_path / "file")


@pytest.mark.parametrize("real", [True, False])
def test_an_operator_with_a_cache(
    rng: np.random.Generator, frozen: Freeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: bool
) -> None:
    given, cache = arrays("odd and unequal", rng, frozen, real=real), KernelCache(tmp_path)
    traj = given.pop("traj")
    operator = SubspaceOperator(traj, **given, kernel_cache=cache)
    coeff = random(rng, frozen, operator.coeff_shape, np.complex64)
    with threads.limit(1):  # FINUFFT sums in any order
        expected = SubspaceOperator(traj, **given).normal(coeff)
        np.testing.assert_array_equal(operator.normal(coeff), expected)
    assert len(files_of(cache)) == 1
    # every change of what it depends on makes another one
    changes = {
        "traj": traj * 0.9, "frame": given["frame"][::-1], "phi": given["phi"] * 2, "weights": given["weights"] * 2,
        "dtype": np.complex128,
    }  # fmt: skip
    for name, value in changes.items():
        other = {**given, name: value}
        SubspaceOperator(other.pop("traj", traj), **other, kernel_cache=cache).normal(coeff)
    assert len(files_of(cache)) == 1 + len(changes)
    # and coils are not among it: the next scan of another head finds it
    monkeypatch.setattr("crbsvd_plugin.encoding.parts_of", None)
    again = SubspaceOperator(traj, **given | {"sens": given["sens"] * 2}, kernel_cache=cache)
    np.testing.assert_allclose(again.normal(coeff), 4 * expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert isinstance(again.toeplitz, toeplitz.Toeplitz)
