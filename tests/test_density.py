"""Density weights against their definition and the ramp of radial scans, and the first image from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_cg import scan
from test_delays import koosh
from test_encoding import arrays, error, make, random

from crbsvd_plugin import CartesianOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.recon.density import density_start, density_weights
from crbsvd_plugin.trajectory import radial

Freeze = Callable[..., np.ndarray]


def kernel(traj: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return h(k_j - k_i) of all samples: the transform of a window that falls to zero a field of view off."""
    points, found = traj.reshape(-1, len(shape)), np.ones((1, 1))
    for k, n in zip(points.T, shape, strict=True):
        lags = np.arange(-n, n)
        waves = np.exp(2j * np.pi * np.outer(k, lags) / n)
        found = found * ((waves * (1 - np.abs(lags) / n)) @ waves.conj().T).real
    return found


@pytest.mark.parametrize(
    ("traj", "shape"),
    [(radial(20, 12), (12, 12)), (radial(20, 12)[..., ::-1] * [0.5, 1], (6, 12)), (koosh(60, 6), (6, 6, 6))],
)
def test_they_even_out_the_samples(traj: np.ndarray, shape: tuple[int, ...], frozen: Freeze) -> None:
    weights = density_weights(frozen(traj), shape)
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    assert weights.min() > 0
    h = kernel(traj, shape)
    evened, plain = h @ weights.ravel(), h.sum(axis=1)
    # ten rounds; without weights the middle is as many times denser as there are spokes for a step
    assert np.std(evened) / np.mean(evened) < 0.1 < 0.5 < np.std(plain) / np.mean(plain)


def test_of_full_radial_scans_they_are_the_ramp() -> None:
    """On the mean of rings: golden angles leave gaps of two or three sizes, and samples in large ones count more."""
    traj = radial(150, 48)
    weights, radius = density_weights(traj, (48, 48)), np.linalg.norm(traj, axis=2)
    rings = [(radius > inner) & (radius < inner + 1) for inner in range(1, 22)]
    ratios = np.array([np.sum(weights[ring]) / np.sum(radius[ring]) for ring in rings])
    # h is a step wide, and the ramp has its point at the centre and its end at 24
    np.testing.assert_allclose(ratios, np.median(ratios), rtol=0.05)


def test_missing_samples_have_none(rng: np.random.Generator) -> None:
    traj = radial(20, 12)
    present = rng.random(traj.shape[:2]) > 0.3
    weights = density_weights(traj, (12, 12), present=present)
    assert not weights[~present].any()
    assert weights[present].mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(weights[present], density_weights(traj[present][:, None], (12, 12))[:, 0], rtol=1e-3)


@pytest.mark.parametrize("lam", [0.0, 3.0])
@pytest.mark.parametrize("case", ["odd and unequal", "3d odd and unequal", "one coil"])
def test_the_first_image_has_the_best_scale(rng: np.random.Generator, frozen: Freeze, case: str, lam: float) -> None:
    operator = make(arrays(case, rng, frozen), np.complex128)
    ksp = np.array(random(rng, frozen, operator.ksp_shape, np.complex128))
    ksp[:, operator.weights == 0] = np.nan
    start = density_start(operator, frozen(ksp), operator.adjoint(ksp), lam=lam)

    def objective(image: np.ndarray) -> float:
        misfit = (operator.weights * np.abs(operator.forward(image) - ksp) ** 2)[:, operator.weights > 0]
        return 0.5 * misfit.sum() + 0.5 * lam * np.vdot(image, image).real

    least = objective(start)
    # a step of 1 % about the minimum of a parabola is one of 1e-4 of its height
    assert all(objective(start * other) > least for other in (1.01, 0.99, np.exp(0.01j), np.exp(-0.01j)))
    assert least < objective(0 * start)


def test_no_data_give_no_image(rng: np.random.Generator, frozen: Freeze) -> None:
    operator = make(arrays("2d", rng, frozen), np.complex64)
    assert not reconstruct(operator, np.zeros(operator.ksp_shape), start="density").any()


def test_the_first_iterations_are_spared(rng: np.random.Generator) -> None:
    operator, ksp, truth = scan(rng, 48)
    start = density_start(operator, ksp, operator.adjoint(ksp))
    assert error(reconstruct(operator, ksp, iterations=5, start="density"), truth) < error(
        reconstruct(operator, ksp, iterations=8), truth
    )
    # the end is the same: they are no part of the objective
    lam = 0.5
    ends = [reconstruct(operator, ksp, lam=lam, iterations=60, start=one) for one in ("zero", start)]
    assert error(ends[1], ends[0]) < 1e-3


def test_with_a_penalty_that_is_no_square_and_in_what_it_is_refused(rng: np.random.Generator) -> None:
    operator, ksp, truth = scan(rng, 32)
    options = {"regulariser": "llr", "shift": "none", "lam": 0.02, "iterations": 3}
    with_start, without = (reconstruct(operator, ksp, start=one, **options) for one in ("density", "zero"))
    assert error(with_start, truth) < error(without, truth)
    grid = CartesianOperator(np.ones((2, 4, 4)), phi=np.eye(2), sens=np.ones((1, 4, 4)))
    for where, start, message in (
        (grid, "density", r"start is density, which is for readouts \(SubspaceOperator\)"),
        (operator, "dense", "start is 'dense', expected zero, density, or images"),
    ):
        with pytest.raises(UserError, match=message):
            reconstruct(where, np.zeros(where.ksp_shape), start=start)
