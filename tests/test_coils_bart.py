"""Sensitivities by ``bart ecalib``, against the true ones and our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bart_case import stand_in
from test_coils import acquired, deviation, positions, roughness, true_maps

from crbsvd_plugin import threads
from crbsvd_plugin.coils import estimate_sensitivities
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError

Freeze = Callable[..., np.ndarray]


def angle(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the angle [rad] between the lines that two maps span in each voxel of the mask."""
    cosine = np.abs(np.sum(one.conj() * other, axis=0)) / np.linalg.norm(one, axis=0) / np.linalg.norm(other, axis=0)
    return np.arccos(np.minimum(cosine, 1))[mask]


@pytest.mark.bart
@pytest.mark.parametrize("shape", [(64, 64), (33, 35), (65, 48), (96, 81)])
def test_both_programs_find_the_same(rng: np.random.Generator, frozen: Freeze, shape: tuple[int, int]) -> None:
    """They differ by far less than either does from the truth: noise and low resolution are the same for both."""
    data, mask, true = acquired(rng, shape, 6, noise=0.003)
    data = {name: frozen(array) for name, array in data.items()}
    with threads.limit(1):
        ours = estimate_sensitivities(**data, shape=shape)
        theirs = estimate_sensitivities(**data, shape=shape, espirit="bart")
    assert theirs.dtype == np.complex64
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=0), 1, atol=1e-5)
    between, from_truth = angle(theirs, ours, mask), angle(ours, true, mask)
    assert np.median(between) < 0.1 * np.median(from_truth)
    assert np.percentile(between, 99) < 0.5 * np.percentile(from_truth, 99)
    assert np.percentile(deviation(theirs, true, mask), 95) < 0.06
    # what half a voxel of the small grid, or another phase of the virtual coil, would make of it
    shifted = angle(np.roll(theirs, 1, axis=2), ours, mask)
    assert np.median(between) < 0.05 * np.median(shifted)
    assert roughness(theirs) < 1.1 * roughness(ours)


@pytest.mark.bart
def test_a_volume(rng: np.random.Generator) -> None:
    shape = (7, 12, 10)
    z, y, x = positions(shape)
    mask = x**2 + y**2 + z**2 < 0.12
    sens = true_maps(shape, 3)
    traj = rng.uniform(-0.5, 0.5, (60, 40, 3)) * np.array(shape)
    frame, phi = np.zeros(60, int), np.ones((1, 1))
    ksp = SubspaceOperator(traj, frame=frame, phi=phi, sens=sens).forward((mask * (1 + x))[None])
    found = estimate_sensitivities(ksp, traj, frame=frame, phi=phi, shape=shape, espirit="bart")
    ours = estimate_sensitivities(ksp, traj, frame=frame, phi=phi, shape=shape)
    limit = 1.5 * np.median(angle(ours, sens, mask))
    assert np.median(angle(found, sens, mask)) < limit
    assert np.median(angle(found[::-1], sens, mask)) > 4 * limit


@pytest.mark.bart
@pytest.mark.parametrize(("shape", "n_coils"), [((4, 4), 3), ((5, 7), 3), ((10, 9), 3), ((4, 30), 2), ((24, 24), 1)])
def test_small_matrices_and_one_coil(rng: np.random.Generator, shape: tuple[int, int], n_coils: int) -> None:
    data, _, _ = acquired(rng, shape, n_coils)
    found = estimate_sensitivities(**data, shape=shape, espirit="bart")
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-5)


def test_what_is_too_small_for_it_is_refused(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "exit 1", monkeypatch)
    data, _, _ = acquired(rng, (3, 20), 3)
    with pytest.raises(UserError, match=r"bart ecalib needs 4 voxels along each axis .*, here are 3; take the native"):
        estimate_sensitivities(**data, shape=(3, 20), espirit="bart")
