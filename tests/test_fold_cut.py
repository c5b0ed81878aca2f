"""A fold whose fingerprints fill more dimensions than it may keep: the leading ones are kept, the rest is counted."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from fold_case import PARAMETERS, RANK, Array, blocks_of, complex_normal, dense, dense_matrix

from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.model import Batch

T, MOST, N_BATCHES = 211, 48, 12


def ringing(rng: np.random.Generator, kind: str) -> list[Batch]:
    """Return batches of two classes that share few strong directions; each fingerprint has a weak one of its own."""
    modes = np.linalg.qr(complex_normal(rng, T, T))[0]
    size = np.concatenate([0.75 ** np.arange(20), np.full(T - 20, 0.02)])
    batches = []
    for i in range(N_BATCHES):
        # the second class is strong where the first one is weak
        order = np.arange(T) if i % 2 == 0 else np.r_[10:20, :10, 20:T]
        rows = complex_normal(rng, 30, 4, T) @ (modes[:, order] * size).T
        rows = rows if kind == "complex" else rows.real + 0j
        batches.append(
            Batch(rng.uniform(size=(30, 3)), rows[:, 0], rows[:, 1:], ("wm", "csf")[i % 2], (1.0, 0.1)[i % 2])
        )
    return batches


def folded(batches: Sequence[Batch], **options: bool) -> BasisAccumulator:
    accumulator = BasisAccumulator(PARAMETERS, T, tolerance=1e-6, most=MOST, **options)
    for batch in batches:
        accumulator.update(batch)
    return accumulator


def loss(phi: Array, matrix: Array) -> float:
    """Return the share of the energy of D outside of phi."""
    return float(1 - np.linalg.norm(phi.conj().T @ matrix) ** 2 / np.linalg.norm(matrix) ** 2)


@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["complex", "real"])
def test_the_basis_is_that_of_the_leading_dimensions(
    rng: np.random.Generator, kind: str, weight: float, conjugate: bool
) -> None:
    batches = ringing(rng, kind)
    accumulator = folded(batches, conjugate=conjugate)
    assert 0 < accumulator.subspace.dimension <= MOST
    assert accumulator.subspace.floor > 0
    assert max(accumulator.outside.values()) > 0.01
    matrix = dense_matrix(batches, weight, conjugate=conjugate)
    basis = accumulator.finish(RANK, weight)
    best = dense(batches, weight, conjugate=conjugate)[0][:, :RANK]
    # Each batch and each cut, one a batch at most, may cost each column a direction worth the floor of the sum of all
    # blocks divided by their energies; how much that is of D: the largest factor times energy
    factors = {key: (1 - weight if key[1] == "signal" else weight) ** 2 for key in accumulator._energy}
    worth = max(share * accumulator._energy[key] for key, share in factors.items()) / np.linalg.norm(matrix) ** 2
    most = 2 * N_BATCHES * RANK * accumulator.subspace.floor * worth
    excess = loss(basis.phi, matrix) - loss(best, matrix)
    assert -1e-12 < excess < most
    # 24 columns stand for 40 strong directions and all weak ones: 4e-3 of the energy is all that it costs
    assert excess < 5e-3
    # what is said is what the span holds, but for what old batches had along later columns: less than what was lost
    held = np.linalg.norm(np.linalg.qr(basis.phi)[0].conj().T @ matrix) ** 2
    said = (basis.singular_values[:RANK] ** 2).sum()
    assert abs(held - said) < most * np.linalg.norm(matrix) ** 2


def test_what_is_kept_and_what_is_outside_are_all(rng: np.random.Generator) -> None:
    batches = ringing(rng, "complex")
    accumulator = folded(batches)
    for (label, name), whole in accumulator._energy.items():
        true = sum(
            batch.weight * np.linalg.norm(blocks_of(batch)[name]) ** 2 for batch in batches if batch.label == label
        )
        np.testing.assert_allclose(whole, true, rtol=1e-12)
        kept = np.trace(accumulator._gram((label, name))).real
        # what a cut drops is exact, what falls outside of a batch is a mean of 32 chi^2 of 360 rows
        outside = accumulator._tail[label, name]
        assert abs(kept + outside - whole) < 0.1 * outside


@pytest.mark.parametrize("n_first", [3, 8])
def test_restored_in_the_middle_it_goes_on_bit_for_bit(rng: np.random.Generator, n_first: int) -> None:
    batches = ringing(rng, "complex")
    values, arrays = folded(batches[:n_first]).state()
    restored = BasisAccumulator(PARAMETERS, T, tolerance=1e-6, most=MOST)
    restored.restore(json.loads(json.dumps(values)), {name: array.copy() for name, array in arrays.items()})
    for batch in batches[n_first:]:
        restored.update(batch)
    whole = folded(batches)
    assert restored.state()[0] == whole.state()[0]
    for name, array in whole.state()[1].items():
        np.testing.assert_array_equal(restored.state()[1][name], array)


def test_two_that_were_cut_merge(rng: np.random.Generator) -> None:
    batches = ringing(rng, "complex")
    matrix = dense_matrix(batches, 0.5)
    one, other = folded(batches[::2]), folded(batches[1::2])
    one.merge(other)
    best = dense(batches, 0.5)[0][:, :RANK]
    assert loss(one.finish(RANK, 0.5).phi, matrix) - loss(best, matrix) < 5e-3
    assert one.subspace.dimension <= MOST


def test_where_all_dimensions_are_few_they_are_kept(rng: np.random.Generator) -> None:
    """At three quarters of all dimensions and more nothing is cut; nor where the tolerance is zero."""
    batches = ringing(rng, "complex")
    for options in ({"most": 3 * T // 4 + 1}, {"most": MOST, "tolerance": 0.0}):
        accumulator = BasisAccumulator(PARAMETERS, T, **options)  # type: ignore[arg-type]
        for batch in batches:
            accumulator.update(batch)
        assert (accumulator.subspace.dimension, accumulator.subspace.floor) == (T, 0.0)
