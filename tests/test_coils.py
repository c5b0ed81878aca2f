"""Whitening of noise, and sensitivities from the data against the true ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest

from crbsvd_plugin.coils import _resized, estimate_sensitivities, whitening_matrix
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.trajectory import radial

Freeze = Callable[..., np.ndarray]


def coloured(rng: np.random.Generator, n_coils: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise (C, n) of a random covariance per real component, and that covariance."""
    mixing = rng.standard_normal((n_coils, n_coils)) + 1j * rng.standard_normal((n_coils, n_coils))
    white = rng.standard_normal((n_coils, n)) + 1j * rng.standard_normal((n_coils, n))
    return mixing @ white, mixing @ mixing.conj().T


@pytest.mark.parametrize("n_coils", [1, 2, 7])
def test_whitened_noise_is_the_identity(rng: np.random.Generator, frozen: Freeze, n_coils: int) -> None:
    noise, covariance = coloured(rng, n_coils, 40_000)
    whiten = whitening_matrix(frozen(noise))
    white = whiten @ noise
    # of the samples that it was made from, exactly
    np.testing.assert_allclose(white @ white.conj().T / (2 * noise.shape[1]), np.eye(n_coils), atol=1e-10)
    # of the distribution, to the statistics: relative errors of a covariance are 1 / sqrt(n)
    assert np.abs(whiten @ covariance @ whiten.conj().T - np.eye(n_coils)).max() < 6 / np.sqrt(noise.shape[1])
    for part in (white.real, white.imag):
        assert np.abs(part.std(axis=1) - 1).max() < 6 / np.sqrt(2 * noise.shape[1])
    assert not np.triu(whiten, 1).any()


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_of_the_noise_does_not_matter(rng: np.random.Generator, scale: float) -> None:
    noise, _ = coloured(rng, 3, 500)
    np.testing.assert_allclose(scale * whitening_matrix(scale * noise), whitening_matrix(noise), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_coils_that_are_the_same_are_refused(seed: int, dtype: type) -> None:
    """Whatever rounding makes of the last pivot of the factorisation."""
    noise, _ = coloured(np.random.default_rng(seed), 4, 300)
    noise[2] = (0.3 - 0.2j) * noise[0] + noise[1]
    with pytest.raises(UserError, match="noise covariance is singular"):
        whitening_matrix(noise.astype(dtype))


def test_coils_of_very_different_gain_are_taken(rng: np.random.Generator) -> None:
    noise, _ = coloured(rng, 3, 500)
    gain = np.array([1e-5, 1, 1e5])[:, None]
    white = whitening_matrix(gain * noise) @ (gain * noise)
    np.testing.assert_allclose(white @ white.conj().T / 1000, np.eye(3), atol=1e-6)


def test_unusable_noise_is_refused(rng: np.random.Generator) -> None:
    noise, _ = coloured(rng, 4, 100)
    with pytest.raises(UserError, match="noise scan has 7 samples for 4 coils, expected at least 8"):
        whitening_matrix(noise[:, :7])
    dead = noise.copy()
    dead[1] = 0
    with pytest.raises(UserError, match=r"noise scan: coil 1 holds only zeros \(1 of 4 coils do\)"):
        whitening_matrix(dead)
    twice = noise.copy()
    twice[1] = twice[2]
    with pytest.raises(UserError, match="two coils or more hold the same"):
        whitening_matrix(twice)
    spoilt = noise.copy()
    spoilt[2, 5:8] = np.nan
    with pytest.raises(UserError, match="holds 3 non-finite values"):
        whitening_matrix(spoilt)


def positions(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return the coordinates of the voxels in fields of view, 0 at n//2."""
    return np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")


def true_maps(shape: tuple[int, ...], n_coils: int) -> np.ndarray:
    """Return smooth complex sensitivities of unit root sum of squares, each with a phase of its own."""
    *z, y, x = positions(shape)
    depth = z[0] if z else 0 * x
    found = []
    for number in range(n_coils):
        angle = 2 * np.pi * number / n_coils
        distance = (x - 0.6 * np.cos(angle)) ** 2 + (y - 0.6 * np.sin(angle)) ** 2 + (depth - 0.2) ** 2
        found.append(np.exp(-1.5 * distance + 1j * (angle + (1 + number) * x - number * y)))
    sens = np.stack(found)
    return sens / np.linalg.norm(sens, axis=0)


def acquired(
    rng: np.random.Generator, shape: tuple[int, int], n_coils: int, *, noise: float = 0.0
) -> tuple[dict, np.ndarray, np.ndarray]:
    """Return radial data of an off-centre object with a complex contrast, its mask, and the sensitivities."""
    n_frames, n_readouts, oversampled = 30, 90, 2 * max(shape)
    y, x = positions(shape)
    mask = ((x - 0.05) / 0.36) ** 2 + ((y + 0.03) / 0.3) ** 2 < 1
    contrast = mask * (1 + 0.5 * np.cos(9 * x + 2) * np.cos(7 * y)) * np.exp(1j * (0.5 + 2 * y))
    sens = true_maps(shape, n_coils)
    traj = radial(n_readouts, oversampled // 2) * (np.array(shape) / max(shape))
    basis = np.linalg.qr(rng.standard_normal((n_frames, 2)) + 1j * rng.standard_normal((n_frames, 2)))[0]
    frame = np.arange(n_readouts) % n_frames
    coeff = np.stack([contrast, 0.2j * contrast**2])
    ksp = SubspaceOperator(traj, frame=frame, phi=basis, sens=sens).forward(coeff)
    ksp = ksp + noise * (rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape))
    return {"ksp": ksp, "traj": traj, "frame": frame, "phi": basis}, mask, sens


def deviation(found: np.ndarray, true: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return |found - true| per voxel of the mask, after the phase that all coils share in a voxel."""
    found, true = found[:, mask], true[:, mask]
    turn = np.exp(1j * np.angle(np.sum(found.conj() * true, axis=0)))
    return np.linalg.norm(turn * found - true, axis=0)


def roughness(maps: np.ndarray) -> float:
    """Return the largest step between neighbours."""
    return max(float(np.abs(np.diff(maps, axis=axis)).max()) for axis in range(1, maps.ndim))


@pytest.mark.parametrize("shape", [(48, 48), (41, 54), (96, 96), (33, 33)])
def test_sensitivities_are_the_true_ones_inside_of_the_object(
    rng: np.random.Generator, frozen: Freeze, shape: tuple[int, int]
) -> None:
    data, mask, true = acquired(rng, shape, 6, noise=0.003)
    found = estimate_sensitivities(**{name: frozen(array) for name, array in data.items()}, shape=shape)
    assert found.dtype == np.complex64
    assert found.shape == (6, *shape)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-5)
    error = deviation(found, true, mask)
    assert np.median(error) < 0.02
    assert np.percentile(error, 95) < 0.06
    # a map that lies half a voxel of the small grid beside its place, or another coil's, is told apart
    assert np.median(deviation(np.roll(found, 2, axis=2), true, mask)) > 2 * np.median(error)
    assert np.median(deviation(found[::-1], true, mask)) > 0.5


def test_sensitivities_are_smooth_everywhere(rng: np.random.Generator) -> None:
    """Outside of the object too, and their phase: what an image times them can hold is not broken up."""
    shape = (64, 64)
    data, mask, true = acquired(rng, shape, 6, noise=0.003)
    found = estimate_sensitivities(**data, shape=shape)
    inside = np.where(mask, found, 0), np.where(mask, true, 0)
    edges = ~(np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1))
    steps = [np.abs(np.diff(m, axis=1))[:, mask[1:] & mask[:-1] & ~edges[1:]].max() for m in inside]
    assert steps[0] < 2.5 * steps[1]
    assert np.isfinite(found).all()
    assert roughness(found) < 0.7


def test_one_coil_has_no_sensitivity_to_find(rng: np.random.Generator) -> None:
    data, _, _ = acquired(rng, (24, 24), 1)
    found = estimate_sensitivities(**data, shape=(24, 24))
    np.testing.assert_allclose(found, 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 6), (5, 7), (10, 9), (3, 20)])
def test_small_matrices_have_maps_too(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    data, _, _ = acquired(rng, shape, 3)
    found = estimate_sensitivities(**data, shape=shape)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-5)


def test_missing_samples_do_not_count(rng: np.random.Generator, frozen: Freeze) -> None:
    shape = (32, 32)
    data, mask, true = acquired(rng, shape, 4)
    weights = np.ones(data["ksp"].shape[1:])
    weights[::3] = 0
    spoilt = np.where(weights == 0, 1e3, data["ksp"])
    found = estimate_sensitivities(**data | {"ksp": frozen(spoilt)}, shape=shape, weights=frozen(weights))
    assert np.median(deviation(found, true, mask)) < 0.03


def test_a_silent_coil_is_refused(rng: np.random.Generator) -> None:
    data, _, _ = acquired(rng, (24, 24), 4)
    data["ksp"][2:] = 0
    with pytest.raises(UserError, match=r"coil 2 holds only zeros \(2 of 4 coils do\)"):
        estimate_sensitivities(**data, shape=(24, 24))


def test_readouts_that_leave_out_the_centre_are_refused(rng: np.random.Generator) -> None:
    data, _, _ = acquired(rng, (64, 64), 2)
    data["traj"], data["ksp"] = data["traj"][:, :30], data["ksp"][:, :, :30]
    with pytest.raises(UserError, match="no sample lies in the centre of k-space"):
        estimate_sensitivities(**data, shape=(64, 64))


def test_a_volume_has_maps_too(rng: np.random.Generator) -> None:
    shape = (7, 12, 10)
    z, y, x = positions(shape)
    mask = x**2 + y**2 + z**2 < 0.12
    sens, size = true_maps(shape, 3), np.array(shape)
    traj = rng.uniform(-0.5, 0.5, (60, 40, 3)) * size
    frame = np.zeros(60, int)
    phi = np.ones((1, 1))
    ksp = SubspaceOperator(traj, frame=frame, phi=phi, sens=sens).forward((mask * (1 + x))[None])
    found = estimate_sensitivities(ksp, traj, frame=frame, phi=phi, shape=shape)
    assert np.median(deviation(found, sens, mask)) < 0.05


@pytest.mark.parametrize(("small", "large"), [(8, 16), (8, 17), (9, 16), (9, 27), (7, 21), (16, 16), (15, 15)])
def test_resized_grids_share_their_centre(small: int, large: int) -> None:
    """A plane keeps its values at the same place of the field of view; outside of the small grid it goes flat."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, x = positions((small, small))
        got = _resized((1 + 2 * x + 1j * y)[None], (large, large))[0]
    y, x = positions((large, large))
    # far from the ends, where the spline of a plane bends towards the constant beyond
    inside = (abs(x) < 0.2) & (abs(y) < 0.2)
    np.testing.assert_allclose(got[inside], (1 + 2 * x + 1j * y)[inside], atol=0.04)
    assert got[large // 2, large // 2] == pytest.approx(1, abs=1e-6 if small > 8 else 0.01)
