"""The subspace that fingerprints live in, against explicit residuals."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from fold_case import EPS, Array
from hypothesis import given, settings
from hypothesis import strategies as st

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.subspace import TOLERANCE, Subspace


def spectrum(rng: np.random.Generator, n: int, n_frames: int, rank: int, *, depth: float = 10) -> Array:
    """Return rows (n, n_frames) of norm about 1 whose singular values fall by 10^-depth over `rank` dimensions."""
    modes = np.linalg.qr(rng.standard_normal((n_frames, rank)))[0] * np.logspace(0, -depth, rank)
    return rng.standard_normal((n, rank)) @ modes.T


def outside(subspace: Subspace, rows: Array) -> float:
    """Return the share of the energy of rows outside, by explicit residuals, projected twice against rounding."""
    columns = subspace.columns
    rest = rows - rows @ columns @ columns.T
    rest = rest - rest @ columns @ columns.T
    return float(np.linalg.norm(rest) ** 2 / np.linalg.norm(rows) ** 2)


def check_orthonormal(subspace: Subspace) -> None:
    columns = subspace.columns
    assert np.abs(columns.T @ columns - np.eye(subspace.dimension)).max() < 1e-13
    probes = subspace.frame[:, subspace.dimension :]
    # probes have norm T^(1/2)
    assert np.abs(columns.T @ probes).max(initial=0) < 1e-13 * len(columns) ** 0.5


@settings(max_examples=20)
@given(
    n_frames=st.integers(1, 150),
    rank=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    tolerance=st.sampled_from([0.0, 1e-24, 1e-16, 1e-6]),
    seed=st.integers(0, 99),
)
def test_every_block_of_every_batch_is_held(
    n_frames: int, rank: int, sizes: list[int], tolerance: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    subspace = Subspace(n_frames, tolerance=tolerance)
    seen: list[Array] = []
    for i, size in enumerate(sizes):
        # every batch has directions of its own, and the small block has others than the large one
        large = spectrum(rng, size, n_frames, min(rank, n_frames)) * 50**0.5
        small = spectrum(rng, size, n_frames, min(rank, n_frames)) * 1e-3 ** (i % 2)
        blocks = {"signal": [large[::2], large[1::2]], "a": [small]}
        before = subspace.columns.copy()
        coeff, _, tail = subspace.project(blocks)
        seen += [large, small]
        check_orthonormal(subspace)
        # growth appends
        np.testing.assert_array_equal(subspace.columns[:, : before.shape[1]], before)
        for key, parts in blocks.items():
            for part, found in zip(parts, coeff[key], strict=True):
                # products of length T: eps times the norms
                limit = n_frames * EPS * np.linalg.norm(part)
                np.testing.assert_allclose(found, part @ subspace.columns, rtol=0, atol=limit)
            assert tail[key] <= tolerance / 10 * sum(np.sum(part**2) for part in parts)
    if tolerance == 0 or subspace.dimension > 3 * n_frames / 4:
        assert subspace.dimension == n_frames
    for rows in seen:
        # rounding: residuals of eps each, squared, per row
        assert outside(subspace, rows) <= max(tolerance, n_frames * EPS**2)


def test_a_small_block_beside_a_large_one_and_directions_that_come_last(rng: np.random.Generator) -> None:
    n_frames = 301
    subspace = Subspace(n_frames)
    large, small = (np.linalg.qr(rng.standard_normal((n_frames, 40)))[0] * np.logspace(0, -12, 40) for _ in range(2))
    signals = [50**0.5 * rng.standard_normal((200, 40)) @ large.T for _ in range(3)]
    units = [rng.standard_normal((200, 40)) @ small.T for _ in range(3)]
    units = [rows / np.linalg.norm(rows, axis=1)[:, None] for rows in units]
    # in the last batch one atom of 200 has a direction that nobody had, 2e-7 long: 2e-16 of the energy of its block,
    # but 4e-18 of that of both together, which a common tolerance would let go
    late = rng.standard_normal(n_frames)
    units[-1][7] += 2e-7 * late / np.linalg.norm(late)
    for signal, unit in zip(signals, units, strict=True):
        before = subspace.dimension
        subspace.project({"signal": [signal], "a": [unit]})
        for rows in (signal, unit):
            assert outside(subspace, rows) <= TOLERANCE
    assert before < subspace.dimension < n_frames / 2
    assert (
        outside(subspace, units[-1])
        <= TOLERANCE
        < outside(Subspace.restored(subspace.frame[:, :before], before, tolerance=TOLERANCE), units[-1])
    )
    # earlier batches are held no worse than before
    for rows in (*signals, *units):
        assert outside(subspace, rows) <= TOLERANCE


def test_the_tail_is_an_unbiased_estimate(rng: np.random.Generator) -> None:
    # tail energies of many blocks outside of one subspace, with a tolerance too coarse to grow for them
    n_frames, n_blocks = 400, 300
    subspace = Subspace(n_frames, tolerance=0.5)
    subspace.project({0: [np.eye(n_frames)[:3]]})
    assert subspace.dimension == 3
    base = np.eye(n_frames)[:3]
    # each block has one direction outside of its own: 32 times the estimate is chi^2 with 32 degrees of freedom
    directions = np.linalg.qr(np.concatenate([base.T, rng.standard_normal((n_frames, n_blocks))], axis=1))[0][:, 3:]
    size = 1e-3 * rng.uniform(1, 5, n_blocks)
    blocks = {i: [np.concatenate([base, size[i] * directions[:, i][None]])] for i in range(n_blocks)}
    *_, tail = subspace.project(blocks)
    assert subspace.dimension == 3
    true = np.array([outside(subspace, block) * np.linalg.norm(block) ** 2 for (block,) in blocks.values()])
    np.testing.assert_allclose(true, size**2, rtol=1e-9)
    ratio = np.array(list(tail.values())) / true
    # mean 1, variance 2 / 32; orthonormal directions make the estimates independent. Five standard deviations.
    assert abs(ratio.mean() - 1) < 5 * (2 / 32 / n_blocks) ** 0.5
    # the variance of a sample variance of chi^2_k / k is (2 / k)^2 (2 + 12 / k) / n
    assert abs(ratio.var() - 2 / 32) < 5 * (2 / 32) * ((2 + 12 / 32) / n_blocks) ** 0.5
    # Kolmogorov and Smirnov: more than 2 / n^(1/2) has a probability of 2 exp(-8) = 7e-4
    stats = pytest.importorskip("scipy.stats")
    expected = stats.chi2.cdf(32 * np.sort(ratio), 32)
    assert np.abs(expected - (np.arange(n_blocks) + 0.5) / n_blocks).max() < 2 / n_blocks**0.5
    # what the docstring says about the chance to miss a tail ten times too large
    assert stats.chi2.cdf(3.2, 32) == pytest.approx(2e-11, rel=0.1)


def test_growth_is_not_finer_than_asked_for(rng: np.random.Generator) -> None:
    # a rank that can be counted: singular values above 1e-9 of the first, in 30 dimensions of 400
    rows = spectrum(rng, 500, 400, 30, depth=4)
    subspace = Subspace(400)
    subspace.project({"a": [rows]})
    assert subspace.dimension == 30
    subspace.project({"a": [rows[::-1]], "b": [1e-5 * rows[:7]]})
    assert subspace.dimension == 30
    # columns are ordered by size
    size = np.linalg.norm(rows @ subspace.columns, axis=0)
    assert (np.diff(size) <= 1e-12).all()


def test_nothing_grows_for_rows_of_zeros_or_none_at_all() -> None:
    subspace = Subspace(50)
    coeff, _, tail = subspace.project({"a": [np.zeros((4, 50))], "b": [], "c": [np.zeros((0, 50))]})
    assert tail == {"a": 0, "b": 0, "c": 0}
    assert coeff["a"][0].shape == (4, 0)
    assert subspace.dimension == 0


@pytest.mark.parametrize("tolerance", [0.0, TOLERANCE])
def test_completion(rng: np.random.Generator, tolerance: float) -> None:
    subspace = Subspace(97, tolerance=tolerance)
    # one atom is enough where all dimensions are asked for
    subspace.project({"a": [rng.standard_normal((1, 97))]})
    assert subspace.dimension == (97 if tolerance == 0 else 1)
    *_, tail = subspace.project({"a": [rng.standard_normal((300, 97))]})
    assert subspace.dimension == 97
    assert tail == {"a": 0}
    assert subspace.frame.shape == (97, 97)
    check_orthonormal(subspace)


def test_rows_along_the_axes(rng: np.random.Generator) -> None:
    # residuals with exact zeros and few directions, for which a QR is free in what it completes with
    for tolerance in (TOLERANCE, 1e-25):
        subspace = Subspace(120, tolerance=tolerance)
        for k in range(0, 40, 2):
            subspace.project({"a": [np.eye(120)[k : k + 2]], "b": [np.ones((1, 1)) * np.eye(120)[k]]})
            check_orthonormal(subspace)
            assert outside(subspace, np.eye(120)[: k + 2]) <= 120 * EPS**2


def test_the_same_twice_and_restored(rng: np.random.Generator, frozen: Callable[..., Array]) -> None:
    batches = [{"a": [frozen(spectrum(rng, 70, 203, 12 + 9 * i))]} for i in range(4)]
    one, two = Subspace(203), Subspace(203)
    for i, batch in enumerate(batches):
        (a, _, tail_a), (b, _, tail_b) = one.project(batch), two.project(batch)
        np.testing.assert_array_equal(one.frame, two.frame)
        np.testing.assert_array_equal(a["a"][0], b["a"][0])
        assert tail_a == tail_b
        if i == 1:
            two = Subspace.restored(two.frame.copy(), two.dimension, tolerance=TOLERANCE)
    assert two.tolerance == TOLERANCE


@pytest.mark.parametrize("tolerance", [-1e-16, 1.0, float("nan"), 1e-30])
def test_a_tolerance_out_of_range(tolerance: float) -> None:
    # 1e4 T eps^2 = 4.4e-27: below it there is nothing but rounding, which has no direction to grow in
    with pytest.raises(UserError, match=r"tolerance is .*, expected a share of the energy from 4e-27 .* to 1, or 0"):
        Subspace(9, tolerance=tolerance)


@pytest.mark.parametrize("n_frames", [130, 200])
def test_at_the_smallest_tolerance_columns_are_still_orthonormal(rng: np.random.Generator, n_frames: int) -> None:
    for _ in range(20):
        subspace = Subspace(n_frames, tolerance=1.01e4 * n_frames * EPS**2)
        # rows of one direction leave nothing but their rounding behind
        rows = np.outer(rng.standard_normal(50), np.sign(rng.standard_normal(n_frames)))
        subspace.project({"a": [rows]})
        check_orthonormal(subspace)
        assert outside(subspace, rows) <= 1.01e4 * n_frames * EPS**2 * np.sum(rows**2)


def test_what_is_not_finite_is_refused_before_anything_changes(rng: np.random.Generator) -> None:
    subspace = Subspace(31)
    subspace.project({"a": [rng.standard_normal((3, 31))]})
    frame = subspace.frame.copy()
    for wrong in (np.nan, np.inf, 1e200, 1e-150):
        rows = np.zeros((3, 31)) if wrong == 1e-150 else rng.standard_normal((3, 31))
        rows[1, 2] = wrong
        with np.errstate(over="ignore"), pytest.raises(ValueError, match="block 'b' is not finite"):
            subspace.project({"a": [rng.standard_normal((3, 31))], "b": [rows]})
        np.testing.assert_array_equal(subspace.frame, frame)


def test_memory_stays_far_below_the_square_of_the_frames(rng: np.random.Generator) -> None:
    n_frames, n = 3000, 100
    subspace = Subspace(n_frames)
    batches = [spectrum(rng, n, n_frames, 60, depth=7) for _ in range(2)]
    tracemalloc.start()
    try:
        for rows in batches:
            subspace.project({"a": [rows]})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 60 <= subspace.dimension <= 120
    # a dozen arrays of T (r + 32 + 64) or N T numbers; T^2 would be 72 MB
    assert peak < 12 * 8 * n_frames * max(n, subspace.dimension + 96) / 2 < 8 * n_frames**2
    assert subspace.frame.nbytes == 8 * n_frames * (subspace.dimension + 32)
