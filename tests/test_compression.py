"""Virtual coils: what they keep, what they lose, and that they leave the noise white."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from crbsvd_plugin.compression import compression_matrix
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.trajectory import radial

Freeze = Callable[..., np.ndarray]
# a Gram matrix holds eigenvalues to a few eps of the largest, eigenvectors of separate ones likewise
EXACT = {np.complex64: 1e-5, np.complex128: 1e-12}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def energies(rng: np.random.Generator, strength: list[float], n_coils: int) -> tuple[np.ndarray, np.ndarray]:
    """Return data (C, R, S) of coils in which orthogonal signals have these energies, and their trajectory."""
    traj = radial(7, 13)
    hidden = np.linalg.qr(normal(rng, traj.shape[0] * traj.shape[1], len(strength)))[0].T
    mixing = np.linalg.qr(normal(rng, n_coils, len(strength)))[0]
    return ((mixing * np.sqrt(strength)) @ hidden).reshape(n_coils, *traj.shape[:2]), traj


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("shape", [(13, 13), (5, 7)])
def test_coils_of_a_known_rank_come_back(
    rng: np.random.Generator, frozen: Freeze, dtype: type, shape: tuple[int, int]
) -> None:
    traj = radial(7, 13)
    ksp = np.tensordot(normal(rng, 6, 3), normal(rng, 3, *traj.shape[:2]), axes=1).astype(dtype)
    matrix, lost = compression_matrix(frozen(ksp), frozen(traj), coils=3, shape=shape)
    assert matrix.shape == (3, 6)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(3), atol=EXACT[dtype])
    virtual = np.tensordot(matrix, ksp, axes=1)
    back = np.tensordot(matrix.conj().T, virtual, axes=1)
    # of all samples: the centre, from which they are made, knows all coils
    assert np.linalg.norm(back - ksp) < EXACT[dtype] * np.linalg.norm(ksp)
    assert lost < EXACT[dtype]
    assert compression_matrix(ksp, traj, coils=2, shape=shape)[1] > 0.01


def test_energy_is_counted_and_the_strongest_come_first(rng: np.random.Generator) -> None:
    # all samples lie in the centre, so that the energies are those put in
    ksp, traj = energies(rng, [60, 30, 8, 2], 5)
    shape = (27, 26)
    for n_kept, lost in ((1, 0.4), (2, 0.1), (3, 0.02), (4, 0.0), (5, 0.0)):
        matrix, found = compression_matrix(ksp, traj, coils=n_kept, shape=shape)
        assert len(matrix) == n_kept
        assert found == pytest.approx(lost, abs=1e-12)
    virtual = np.tensordot(matrix, ksp, axes=1)
    np.testing.assert_allclose((np.abs(virtual) ** 2).sum(axis=(1, 2)), [60, 30, 8, 2, 0], atol=1e-12)
    for share, n_kept in ((0.01, 1), (0.59, 1), (0.61, 2), (0.9001, 3), (0.97, 3), (0.99, 4)):
        assert len(compression_matrix(ksp, traj, coils=share, shape=shape)[0]) == n_kept


def test_noise_stays_white(rng: np.random.Generator) -> None:
    ksp, traj = energies(rng, [5, 2, 1], 4)
    matrix, _ = compression_matrix(ksp, traj, coils=2, shape=(13, 13))
    noise = matrix @ normal(rng, 4, 20_000)
    covariance = noise @ noise.conj().T / (2 * 20_000)
    # entries of a sample covariance deviate by 1 / sqrt(n)
    np.testing.assert_allclose(covariance, np.eye(2), atol=5 / np.sqrt(20_000))


def test_only_the_centre_counts(rng: np.random.Generator) -> None:
    """Not the noise outside of it, and no sample that is missing."""
    traj = radial(9, 64)
    ksp = np.tensordot(normal(rng, 4, 2), normal(rng, 2, *traj.shape[:2]), axes=1)
    weights = rng.uniform(0.5, 2, traj.shape[:2])
    weights[3:5] = 0
    expected = compression_matrix(ksp[:, weights[:, 0] > 0], traj[weights[:, 0] > 0], coils=2, shape=(64, 64))[0]
    outside = np.abs(traj).max(axis=2) >= 12
    spoilt = np.where(outside, 1e3 * normal(rng, *ksp.shape), ksp)
    spoilt[:, weights == 0] = np.nan
    found, lost = compression_matrix(spoilt, traj, coils=2, shape=(64, 64), weights=weights)
    # the rows may differ in phase, the projection may not
    np.testing.assert_allclose(found.conj().T @ found, expected.conj().T @ expected, atol=1e-12)
    assert lost < 1e-12


def test_one_coil_and_a_volume(rng: np.random.Generator) -> None:
    traj = rng.uniform(-8, 8, (5, 6, 3))
    matrix, lost = compression_matrix(normal(rng, 1, 5, 6), traj, coils=0.99, shape=(16, 17, 15))
    assert matrix.shape == (1, 1)
    assert abs(matrix[0, 0]) == pytest.approx(1)
    assert lost == 0


@pytest.mark.parametrize("coils", [0.0, -1.0, 2.5, 5.0, 1e9, float("nan"), float("inf")])
def test_impossible_numbers_are_refused(rng: np.random.Generator, coils: float) -> None:
    ksp, traj = energies(rng, [1, 1], 4)
    with pytest.raises(UserError, match="expected a whole number from 1 to 4, or a share of the energy") as caught:
        compression_matrix(ksp, traj, coils=coils, shape=(13, 13))
    assert "\n" not in str(caught.value)


def test_silence_has_virtual_coils_too() -> None:
    matrix, lost = compression_matrix(np.zeros((3, 7, 26)), radial(7, 13), coils=0.9, shape=(13, 13))
    assert matrix.shape == (1, 3)
    assert lost == 0
