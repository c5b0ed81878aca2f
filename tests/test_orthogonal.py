"""Orthogonalisation at any condition, by either way, on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from crb_case import FISHERS, Fisher, gaussian, random_data

from crbsvd_plugin import crb, threads


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("distance", [1e-2, 1e-5, 1e-7, 1e-9])
def test_orthogonal_at_any_condition(rng: np.random.Generator, distance: float, fisher: Fisher) -> None:
    # the last derivative is so far from the span of s and the three others; Cholesky serves the first two distances,
    # Gram-Schmidt the third, and the fourth counts as dependent
    q = np.linalg.qr(gaussian(rng, 37, 5))[0]
    columns = q[:, :4] @ (np.eye(4) + 0.3 * gaussian(rng, 4, 4))
    last = columns @ np.array([0.3, 0.5, -0.2, 0.4]) + distance * q[:, 4]
    jac = np.concatenate([columns[:, 1:].T, last[None]])[None] * np.array([4e4, 1, 2e-3, 7])[:, None]
    found = crb.orthogonalise(columns[None, :, 0], jac, fisher=fisher)
    if distance < crb.DEPENDENT:
        assert found.norm[0, 3] == 0
        return
    # each of the five columns is rounded to eps, which moves the distance by a few eps
    assert np.isclose(found.norm[0, 3], 7 * distance, rtol=1e-14 / distance, atol=0)
    assert abs(np.vdot(q[:, 4], found.unit[0, 3]) - 1) < 1e-14 / distance
    for i in range(4):
        assert abs(np.linalg.norm(found.unit[0, i]) - 1) < 1e-14
        for other in [columns[:, 0], *np.delete(jac[0], i, axis=0)]:
            overlap = np.vdot(found.unit[0, i], other) if fisher == "complex" else np.vdot(found.unit[0, i], other).real
            # not worse for a worse condition
            assert abs(overlap) < 1e-14 * np.linalg.norm(other)


@pytest.mark.parametrize("fisher", FISHERS)
def test_both_ways_of_orthogonalising_agree(rng: np.random.Generator, fisher: Fisher) -> None:
    signal, jac = random_data(rng, p=4, t=301)
    doubled = np.concatenate([jac, 2 * jac[:, 3:]], axis=1)  # a nuisance that depends on one rules Cholesky out
    one, other = (crb.orthogonalise(signal, j, targets=[0, 1, 2], fisher=fisher) for j in (jac, doubled))
    assert not np.array_equal(one.unit, other.unit)  # they were two ways indeed
    np.testing.assert_allclose(one.norm, other.norm, rtol=1e-13)
    np.testing.assert_allclose(one.unit, other.unit, atol=1e-13)


@pytest.mark.parametrize("fisher", FISHERS)
def test_zeros_of_real_and_imaginary_atoms_stay_zeros(rng: np.random.Generator, fisher: Fisher) -> None:
    signal, jac = random_data(rng, n=3)
    signal[0], jac[0] = signal[0].real, jac[0].real
    signal[1], jac[1] = 1j * signal[1].imag, 1j * jac[1].imag
    found = crb.orthogonalise(signal, jac, fisher=fisher)
    assert not found.unit[0].imag.any()
    assert not found.unit[1].real.any()
    turn = np.exp(0.3j)
    turned = crb.orthogonalise(turn * signal, turn * jac, fisher=fisher)
    np.testing.assert_allclose(turned.norm, found.norm, rtol=1e-13)
    np.testing.assert_allclose(turned.unit, turn * found.unit, atol=1e-13)


def test_same_bits_for_any_number_of_threads_and_any_batch(rng: np.random.Generator) -> None:
    signal, jac = random_data(rng, n=13, t=257)
    jac[4, 1] = jac[4, 0]
    whole = crb.orthogonalise(signal, jac)
    with threads.limit(1):
        alone = [crb.orthogonalise(signal[i : i + 1], jac[i : i + 1]) for i in range(13)]
        np.testing.assert_array_equal(crb.orthogonalise(signal, jac).unit, whole.unit)
    np.testing.assert_array_equal(np.concatenate([one.unit for one in alone]), whole.unit)
    np.testing.assert_array_equal(np.concatenate([one.norm for one in alone]), whole.norm)


@pytest.mark.parametrize("fisher", FISHERS)
def test_what_is_too_small_to_be_squared_counts_as_zero(rng: np.random.Generator, fisher: Fisher) -> None:
    signal, jac = random_data(rng, n=2)
    tiny = jac.copy()
    tiny[0, 1] *= 1e-160
    found, zero = crb.orthogonalise(signal, tiny, fisher=fisher), jac.copy()
    zero[0, 1] = 0
    expected = crb.orthogonalise(signal, zero, fisher=fisher)
    assert found.norm[0, 1] == 0
    np.testing.assert_array_equal(found.unit, expected.unit)
    # what can be squared is not touched
    small = crb.orthogonalise(1e-120 * signal, 1e-130 * jac, fisher=fisher)
    np.testing.assert_allclose(small.norm, 1e-130 * crb.orthogonalise(signal, jac, fisher=fisher).norm, rtol=1e-12)
