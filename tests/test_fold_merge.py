"""Merging, continuing, and what is guaranteed where the subspace grows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fold_case import (
    FULL,
    KINDS,
    LEADING,
    PARAMETERS,
    RANK,
    Kind,
    Shape,
    angle_tolerance,
    blocks_of,
    complex_normal,
    dense,
    dense_matrix,
    dropped,
    folded,
    make_batches,
    pieces,
    sine,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.model import Parameter

T = FULL.n_frames
ONE = (Parameter("a", "s", 0, 1),)


@settings(max_examples=12)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from([FULL, LEADING]),
    size=st.integers(1, 45),
    order=st.randoms(use_true_random=False),
    n_parts=st.integers(1, 5),
    weight=st.sampled_from([0.0, 0.3, 0.9]),
    conjugate=st.booleans(),
)
def test_batch_size_order_and_merge_tree_do_not_matter(
    kind: Kind, shape: Shape, size: int, order: Any, n_parts: int, weight: float, conjugate: bool
) -> None:
    batches = make_batches(np.random.default_rng(7), kind, shape=shape)
    cut = [piece for batch in batches for piece in pieces(batch, size)]
    order.shuffle(cut)
    trees = [folded(cut[i::n_parts], conjugate=conjugate) for i in range(min(n_parts, len(cut)))]
    while len(trees) > 1:
        a, b = (trees.pop(order.randrange(len(trees))) for _ in range(2))
        a.merge(b)
        trees.append(a)
    found = trees[0].finish(RANK, weight)
    assert trees[0].n_atoms == {"wm": 17, "gm": 40, "csf": 23}
    lost = dropped(trees[0], batches, weight)
    u, s = dense(batches, weight, conjugate=conjugate)
    assert sine(u[:, :RANK], found.phi) < angle_tolerance(s, lost=lost) < 1e-5
    # Weyl, and the rounding of the squares over the first of them
    np.testing.assert_allclose(found.singular_values[:RANK], s[:RANK], atol=2 * lost + 1e-11 * s[RANK - 1])
    expected = folded(batches, conjugate=conjugate)
    # five levels at most, see BasisAccumulator; 3: the estimate of 32 probes
    assert max(trees[0].outside.values()) <= 3 * 6**2 / 10 * 1e-16
    off = 2 * (max(trees[0].outside.values()) ** 0.5 + max(expected.outside.values()) ** 0.5) + 1e-12
    # phi turns by the angle above, and a loss is stationary or not: at most twice the sine
    losses = found.info["losses"]["all"]
    assert losses == pytest.approx(
        expected.finish(RANK, weight).info["losses"]["all"], abs=off + 4 * angle_tolerance(s, lost=lost)
    )


def test_merging_leaves_the_other_accumulator_alone(rng: np.random.Generator) -> None:
    wm, gm, csf = make_batches(rng, "complex", shape=LEADING)
    a, b = folded([wm]), folded([gm])
    before = b.state()
    arrays = {name: array.copy() for name, array in before[1].items()}
    a.merge(b)
    a.update(gm)
    a.merge(folded([csf]))
    values, after = b.state()
    assert values == before[0]
    assert after.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(after[name], array)
    assert a.labels == ["wm", "gm", "csf"]


def test_energies_and_tails_add_up(rng: np.random.Generator) -> None:
    batches = make_batches(rng, "complex", shape=LEADING)
    parts = [folded([batch]) for batch in batches]
    whole = parts[0].state()[0]
    for part in parts[1:]:
        parts[0].merge(part)
    values = parts[0].state()[0]
    assert values["energy"][:3] == whole["energy"]
    for key, energy in zip(values["blocks"], values["energy"], strict=True):
        batch = next(batch for batch in batches if batch.label == key[0])
        block = blocks_of(batch)[key[1]]
        assert energy == pytest.approx(batch.weight * np.linalg.norm(block) ** 2, rel=1e-13)
    # a class that only one of them has keeps at least the tail that it had
    for part in parts[1:]:
        for key, share in part.outside.items():
            assert parts[0].outside[key] >= share * (1 - 1e-9)
    # once more, the other way round: energies are sums
    again = folded([batches[0]])
    again.merge(parts[0])
    assert again.state()[0]["energy"][:3] == pytest.approx([2 * energy for energy in whole["energy"]], rel=1e-13)


@pytest.mark.parametrize("shape", [FULL, LEADING])
def test_merging_with_itself_counts_twice(rng: np.random.Generator, shape: Shape) -> None:
    accumulator = folded(make_batches(rng, "complex", shape=shape))
    before, expected = accumulator.state()[0], accumulator.finish(RANK, 0.3)
    accumulator.merge(accumulator)
    after = accumulator.state()[0]
    assert after["energy"] == pytest.approx([2 * energy for energy in before["energy"]], rel=1e-13)
    assert accumulator.n_atoms == {"wm": 34, "gm": 80, "csf": 46}
    found = accumulator.finish(RANK, 0.3)
    # the same matrix but for rounding: eps s_1^2 over the gap of squares, as in angle_tolerance
    s = expected.singular_values
    assert sine(expected.phi, found.phi) < angle_tolerance(s)
    np.testing.assert_allclose(found.singular_values[:RANK], 2**0.5 * s[:RANK], rtol=1e-11)
    assert found.info["losses"]["all"] == pytest.approx(expected.info["losses"]["all"], abs=1e-12)


def test_kinds_that_differ_do_not_merge(rng: np.random.Generator) -> None:
    accumulator = folded(make_batches(rng, "complex"))
    for other in (
        BasisAccumulator(PARAMETERS[:2], T),
        BasisAccumulator(PARAMETERS, T + 1),
        BasisAccumulator(PARAMETERS, T, fisher="complex"),
        BasisAccumulator(PARAMETERS, T, conjugate=True),
        BasisAccumulator(PARAMETERS, T, tolerance=0),
    ):
        with pytest.raises(ValueError, match="do not merge"):
            accumulator.merge(other)


@pytest.mark.parametrize("shape", [FULL, LEADING])
@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_fold_goes_on_bit_for_bit(rng: np.random.Generator, kind: Kind, shape: Shape) -> None:
    cut = [piece for batch in make_batches(rng, kind, shape=shape) for piece in pieces(batch, 9)]
    whole, other = folded(cut), folded(cut[:1])
    values, arrays = folded(cut[:4]).state()
    # as a file would give it back: JSON, and arrays in C order
    assert all(array.flags.c_contiguous for array in arrays.values())
    restored = BasisAccumulator(PARAMETERS, shape.n_frames)
    restored.restore(json.loads(json.dumps(values)), {name: array.copy() for name, array in arrays.items()})
    for batch in cut[4:]:
        restored.update(batch)
    for _ in range(2):
        assert restored.state()[0] == whole.state()[0]
        for name, array in whole.state()[1].items():
            np.testing.assert_array_equal(restored.state()[1][name], array)
        np.testing.assert_array_equal(restored.finish(RANK, 0.3).phi, whole.finish(RANK, 0.3).phi)
        whole.merge(other)
        restored.merge(other)


@pytest.mark.parametrize("weight", [0, 0.5, 1])
def test_weighted_loss_is_that_of_the_dense_svd_but_for_what_was_dropped(
    rng: np.random.Generator, weight: float
) -> None:
    # a coarse tolerance, so that what is dropped is far above rounding; one batch, so that nothing grows after it
    batch = make_batches(rng, "complex", (200, 1, 1), shape=LEADING)[:1]
    accumulator = folded(batch, tolerance=1e-3)
    matrix = dense_matrix(batch, weight)
    s = np.linalg.svd(matrix, compute_uv=False)
    columns = accumulator.subspace.columns
    outside = float(np.linalg.norm(matrix - columns @ (columns.T @ matrix))) ** 2
    # as reported, by chi^2 with 32 degrees of freedom at 6 standard deviations, (2 / 32)^(1/2) each
    assert 1e-12 * np.sum(s**2) < outside
    assert outside == pytest.approx(dropped(accumulator, batch, weight) ** 2, rel=1.5)
    for rank in range(1, 6):
        basis = accumulator.finish(rank, weight)
        excess = float(np.linalg.norm(matrix - basis.phi @ (basis.phi.conj().T @ matrix))) ** 2 - np.sum(s[rank:] ** 2)
        assert -1e-13 * np.sum(s**2) < excess <= outside + 1e-13 * np.sum(s**2)
        # and the losses reported are exact
        for name, rows in blocks_of(batch[0]).items():
            true = np.linalg.norm(rows - rows @ basis.phi.conj() @ basis.phi.T) ** 2 / np.linalg.norm(rows) ** 2
            assert basis.info["losses"]["wm"][name] == pytest.approx(true, abs=1e-13)


@pytest.mark.parametrize("together", [False, True])
def test_a_late_direction_in_step_with_an_early_one(rng: np.random.Generator, together: bool) -> None:
    # the worst case: few atoms of u alone decide what U is; "gm" has atoms of u + d w, whose part along w is dropped,
    # all of it in step with u; then w comes, almost as large as u, or (together) much of u + w
    d = 2e-4
    u, w = np.linalg.qr(rng.standard_normal((41, 2)))[0].T
    few, many = np.full((5, 1), 1e-3), np.full((50, 1), 50**-0.5)
    rows = {"wm": few * u, "gm": many * (u + d * w), "csf": 30 * many * (u + w) if together else 0.99995 * many * w}
    accumulator = BasisAccumulator(ONE, 41, tolerance=1e-6)
    for label, block in rows.items():
        accumulator.add(label, [block, np.zeros_like(block)])
    assert accumulator.subspace.dimension == 2
    # 32 probes along one direction: relative standard deviation (2 / 32)^(1/2), six of them
    assert accumulator.outside["gm", "signal"] == pytest.approx(d**2, rel=1.5)
    matrix = np.concatenate(list(rows.values())).T
    s = np.linalg.svd(matrix, compute_uv=False)
    basis = accumulator.finish(1, 0)
    loss = float(np.linalg.norm(matrix - basis.phi @ (basis.phi.T @ matrix))) ** 2
    assert np.sqrt(loss) <= s[1] + 2 * d
    true = 1 - float(np.linalg.norm(rows["gm"] @ basis.phi)) ** 2 / float(np.linalg.norm(rows["gm"])) ** 2
    off = abs(basis.info["losses"]["gm"]["signal"] - true)
    assert off <= 2 * d
    # more than the energy that fell outside: why the guarantee for a subspace that grows is another one
    assert (off if together else loss - s[1] ** 2) > 100 * d**2


def test_complex_real_and_imaginary_batches_mix_in_a_block(rng: np.random.Generator) -> None:
    z = complex_normal(rng, 20, 12) @ complex_normal(rng, 12, 61)
    rows = [z[:7], z[7:12].real, z[12:16].real + 0j, 1j * z[16:].imag]
    a, b = BasisAccumulator(ONE, 61), BasisAccumulator(ONE, 61)
    for part in rows:
        a.add("wm", [part, part])
    for part in rows[::-1]:
        one = BasisAccumulator(ONE, 61)
        one.add("wm", [part, part])
        b.merge(one)
    u, s, _ = np.linalg.svd(np.concatenate([part.astype(complex) for part in rows]).T, full_matrices=False)
    for accumulator in (a, b):
        assert sine(u[:, :5], accumulator.finish(5, 0).phi) < angle_tolerance(s, 5)


def test_the_state_is_far_smaller_than_one_plain_gram_matrix(rng: np.random.Generator) -> None:
    n_frames, n_modes = 3000, 60
    modes = rng.standard_normal((n_modes, n_frames)) * np.logspace(0, -7, n_modes)[:, None]
    accumulator = BasisAccumulator(ONE, n_frames)
    for label in ("wm", "gm", "csf"):
        accumulator.add(label, [rng.standard_normal((90, n_modes)) @ modes for _ in range(2)])
    arrays = accumulator.state()[1]
    assert accumulator.subspace.dimension == n_modes
    # the columns with 32 probes, and six matrices
    n_bytes = sum(array.nbytes for array in arrays.values())
    assert n_bytes == 8 * (n_frames * (n_modes + 32) + 6 * n_modes**2) < 8 * n_frames**2 / 20
