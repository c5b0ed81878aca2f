"""Least-squares fits: against scipy, the truth without noise, and the Cramer-Rao bound with noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fit_case import complex_normal, emulated, phases, simulated, starts, voxels
from scipy.optimize import least_squares

from crbsvd_plugin import crb
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit import nlls
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.forward import CompressedModel, Simulated
from crbsvd_plugin.fit.nlls import Stopping, fit, minimise
from crbsvd_plugin.model import Parameter

SINGLE = float(np.finfo(np.float32).eps)
WHOLE = np.array([[-1.0, -1.0], [1.0, 1.0]])


class Frequency:
    """Three echoes of an unknown frequency, whose sum of squares has several minima; not defined at 5 and above."""

    box = Box((Parameter("f", "rad/s", 0.0, 10.0),), np.array([0.0]), np.array([10.0]))
    rank = 3
    at = np.array([0.0, 1.0, 2.5])

    def value_and_jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = np.exp(1j * theta * self.at)
        return value, (1j * self.at * value)[:, None]


def scipys(forward: CompressedModel, voxel: np.ndarray, u: np.ndarray, low: Any = -1.0, high: Any = 1.0) -> Any:
    """Fit one voxel of unit norm by scipy, for Re M0, Im M0 and u, with the tolerances that are ours by default."""

    def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theta = forward.box.theta(x[2:])[None]
        (value,), (jac,) = forward.value_and_jacobian(theta)
        m0 = x[0] + 1j * x[1]
        columns = np.stack([value, 1j * value, *(m0 * jac * forward.box.slope(theta[0])[:, None])], axis=1)
        left = m0 * value - voxel
        return np.concatenate([left.real, left.imag]), np.concatenate([columns.real, columns.imag])

    (value,), _ = forward.value_and_jacobian(forward.box.theta(u)[None])
    m0 = np.vdot(value, voxel) / np.vdot(value, value)
    bounds = np.concatenate([[[-np.inf] * 2], [[np.inf] * 2]]).tolist()
    limits = [[*bounds[0], *np.broadcast_to(low, u.shape)], [*bounds[1], *np.broadcast_to(high, u.shape)]]
    inside = np.clip(u, np.add(low, 1e-9), np.subtract(high, 1e-9))
    return least_squares(
        lambda x: parts(x)[0], [m0.real, m0.imag, *inside], jac=lambda x: parts(x)[1], bounds=limits, x_scale="jac",
        max_nfev=500,
    )  # fmt: skip


@pytest.mark.parametrize("b1", [False, True])
@pytest.mark.parametrize("forward_of", [simulated, emulated])
def test_the_truth_comes_back_without_noise(rng: np.random.Generator, forward_of: Any, b1: bool) -> None:
    """To gtol: |u - truth| <= ||gradient|| / least eigenvalue of H, where a gradient times its room is below 1e-8."""
    forward = forward_of(b1=b1)
    p = 2 + b1
    truth = rng.uniform(-0.8, 0.8, (40, p))
    m0 = 3 * phases(rng, 40)
    c = voxels(forward, truth, m0, 0.0, rng)
    size = np.linalg.norm(c, axis=1)
    start = np.clip(truth + 0.1 * rng.standard_normal((40, p)), -1, 1)
    limits = np.stack([-np.ones(p), np.ones(p)])
    found = minimise(c / size[:, None], forward, start, limits, stopping=Stopping())
    assert found.converged.all()
    hess = nlls._evaluated(c / size[:, None], forward, truth).hess
    least = np.linalg.eigvalsh(hess)[:, 0]
    room = 1 - np.abs(found.u).max(axis=1)
    allowed = 2 * np.sqrt(p) * 1e-8 / (room * least)
    np.testing.assert_array_less(np.linalg.norm(found.u - truth, axis=1), allowed)
    np.testing.assert_allclose(found.m0 * size, m0, rtol=1e-4)


def test_damping_comes_and_goes(rng: np.random.Generator) -> None:
    """From the opposite corners, where steps are refused at first, 15 do; were damping to stay, 30 would not."""
    forward = emulated()
    truth = rng.uniform(-0.9, 0.9, (300, 2))
    c = voxels(forward, truth, phases(rng, 300), 0.0, rng)
    c /= np.linalg.norm(c, axis=1)[:, None]
    assert minimise(c, forward, -0.999 * np.sign(truth), WHOLE, stopping=Stopping(iterations=15)).converged.all()


def test_maps_have_shapes_types_and_nothing_outside_of_the_mask(rng: np.random.Generator, frozen: Any) -> None:
    forward = emulated()
    shape = (5, 7)
    truth = rng.uniform(-0.8, 0.8, (35, 2))
    m0 = 2 * phases(rng, 35)
    coeff = frozen(voxels(forward, truth, m0, 0.0, rng).T.reshape(-1, *shape).astype(np.complex64))
    start = starts(forward, np.clip(truth + 0.1, -1, 1).reshape(*shape, 2))
    start.mask[2, 3] = start.mask[4, 6] = False
    found = fit(coeff, forward, start)
    assert found.converged is not None
    assert found.residual is not None
    arrays = (found.theta, found.m0, found.edge, found.mask, found.converged, found.residual)
    assert [a.dtype for a in arrays] == [np.float32, np.complex64, bool, bool, bool, np.float32]
    assert found.theta.shape == (2, *shape)
    np.testing.assert_array_equal(found.mask, start.mask)
    np.testing.assert_array_equal(found.converged, start.mask)
    assert not found.edge.any()
    for array in (found.theta[0], found.theta[1], found.m0, found.residual):
        assert not array[~start.mask].any()
    # coefficients in single precision move an estimate by SINGLE ||c|| sqrt(CRB) / |M0|, which is below 1e-4 here
    theta = np.moveaxis(forward.box.theta(truth).reshape(*shape, 2), -1, 0)
    np.testing.assert_allclose(found.theta[:, start.mask], theta[:, start.mask], rtol=1e-4)
    np.testing.assert_allclose(found.m0[start.mask], m0.reshape(shape)[start.mask], rtol=1e-4)
    assert np.all(found.residual <= 4 * SINGLE * np.linalg.norm(coeff, axis=0))


def test_residuals_are_those_of_the_maps_with_noise(rng: np.random.Generator) -> None:
    forward = emulated()
    truth = rng.uniform(-0.5, 0.5, (50, 2))
    c = voxels(forward, truth, 10 * phases(rng, 50), 0.05, rng)
    found = fit(c.T, forward, starts(forward, truth))
    signal, _ = forward.value_and_jacobian(np.clip(found.theta.T.astype(float), forward.box.low, forward.box.high))
    expected = np.linalg.norm(c - found.m0[:, None] * signal, axis=1)
    # theta and M0 are rounded to single precision, at a minimum
    np.testing.assert_allclose(found.residual, expected, rtol=1e-5)


@pytest.mark.parametrize("rank", [3, 5])
def test_with_noise_the_spread_is_the_cramer_rao_bound(rng: np.random.Generator, rank: int) -> None:
    """N = 20,000: a variance is known to sqrt(2/N) = 1 %, a mean to sqrt(CRB/N); four times that.

    Noise so small that estimates are linear in it: the next order is sqrt(CRB)/theta, 1 %, squared in the variance.
    """
    forward, exact, n = emulated(rank=rank), simulated(rank=rank), 20_000
    for at in ([-0.4, 0.3], [0.5, 0.5], [0.0, -0.5]):
        theta = exact.box.theta(np.array([at]))
        signal, jac = exact.model.signal_and_jacobian(theta)
        bound = crb.bounds(signal, jac, exact.phi).exact[0]
        sigma = 0.01 * (theta[0] / np.sqrt(bound)).min()
        u = np.tile(at, (n, 1))
        c = voxels(forward, u, phases(rng, n), sigma, rng)
        found = minimise(c, forward, u, WHOLE, stopping=Stopping())
        assert found.converged.all()
        estimates = forward.box.theta(found.u)
        np.testing.assert_allclose(estimates.var(axis=0) / (sigma**2 * bound), 1, atol=4 * np.sqrt(2 / n) + 1e-3)
        off = np.abs(estimates.mean(axis=0) - theta[0]) / np.sqrt(sigma**2 * bound)
        # the bias of second order: 1 % of 1 % of theta
        assert np.all(off <= 4 / np.sqrt(n) + 0.02)
        # of 2 K numbers P + 2 are used up
        left = 2 * found.cost / sigma**2
        dof = 2 * rank - 4
        np.testing.assert_allclose(left.mean(), dof, atol=4 * np.sqrt(2 * dof / n) + 1e-2)


def test_bounds_hold_and_are_flagged(rng: np.random.Generator) -> None:
    forward = emulated()
    truth = rng.uniform(-0.6, 0.6, (60, 2))
    c = voxels(forward, truth, phases(rng, 60), 0.0, rng)
    t2 = forward.box.theta(truth)[:, 1]
    middle = float(np.median(t2))
    u = np.stack([np.zeros(60), np.full(60, -0.8)], axis=1)
    found = fit(c.T, forward, starts(forward, u), bounds={"T2": (0.02, middle)})
    assert found.converged is not None
    assert found.residual is not None
    assert found.converged.all()
    assert found.theta[1].max() <= np.float32(middle)
    np.testing.assert_array_equal(found.edge, t2 > middle)
    assert 20 < found.edge.sum() < 40
    size = np.linalg.norm(c, axis=1)
    high = forward.box.unit([1.0, middle])[1]
    for i in np.flatnonzero(found.edge):
        peer = scipys(forward, c[i] / size[i], u[i], high=np.array([1.0, high]))
        assert found.residual[i] ** 2 / 2 <= peer.cost * size[i] ** 2 * (1 + 1e-5)


def test_a_parameter_is_fixed_in_every_voxel_to_its_own_value(rng: np.random.Generator) -> None:
    forward = emulated(b1=True)
    truth = rng.uniform(-0.8, 0.8, (30, 3))
    theta = forward.box.theta(truth)
    c = voxels(forward, truth, phases(rng, 30), 0.0, rng)
    start = starts(forward, np.clip(truth + np.array([0.2, -0.2, 0.5]), -1, 1).reshape(6, 5, 3))
    b1 = theta[:, 2].reshape(6, 5)
    found = fit(c.T.reshape(-1, 6, 5), forward, start, fixed={"B1": b1})
    assert found.converged is not None
    assert found.converged.all()
    np.testing.assert_allclose(found.theta.reshape(3, -1).T, theta, rtol=1e-4)
    np.testing.assert_allclose(found.theta[2], b1, rtol=SINGLE)
    assert not found.edge.any()
    # a wrong map gives the right answer to another question: the least squares at that B1
    wrong = fit(c.T.reshape(-1, 6, 5), forward, start, fixed={"B1": 1.0})
    assert np.all(wrong.theta[2] == 1)
    off = np.abs(wrong.theta[:2].reshape(2, -1).T / theta[:, :2] - 1).max(axis=1)
    assert np.median(off) > 1e-3


def test_all_fixed_leaves_m0(rng: np.random.Generator) -> None:
    forward = emulated()
    truth = rng.uniform(-0.8, 0.8, (5, 2))
    m0 = phases(rng, 5)
    c = voxels(forward, truth, m0, 0.0, rng)
    theta = forward.box.theta(truth)
    found = fit(c.T, forward, starts(forward, 0 * truth), fixed={"T1": theta[:, 0], "T2": theta[:, 1]})
    np.testing.assert_allclose(found.m0, m0, rtol=4 * SINGLE)
    assert found.converged is not None
    assert found.converged.all()


def test_one_voxel_is_that_voxel_of_an_image(rng: np.random.Generator) -> None:
    forward = emulated()
    truth = rng.uniform(-0.8, 0.8, (12, 2))
    coeff = voxels(forward, truth, phases(rng, 12), 0.01, rng).T.reshape(-1, 3, 4)
    start = starts(forward, np.zeros((3, 4, 2)))
    whole = fit(coeff, forward, start)
    one = fit(coeff[:, 1, 2], forward, starts(forward, np.zeros(2)))
    assert one.theta.shape == (2,)
    np.testing.assert_array_equal(one.theta, whole.theta[:, 1, 2])


def test_blocks_change_no_bit_and_progress_counts(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = emulated()
    coeff = voxels(forward, rng.uniform(-0.8, 0.8, (45, 2)), phases(rng, 45), 0.01, rng).T
    start = starts(forward, np.zeros((45, 2)))
    whole = fit(coeff, forward, start)
    monkeypatch.setattr(nlls, "_VOXELS", 20)
    told: list[int] = []
    parts = fit(coeff, forward, start, progress=told.append)
    assert told == [20, 20, 5]
    for name in ("theta", "m0", "edge", "converged", "residual"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_never_worse_than_scipy_from_the_same_starts(rng: np.random.Generator) -> None:
    """On voxels with noise of all sizes, from four starts each; and most are no worse from each start alone."""
    forward, n = emulated(), 60
    sigma = 10.0 ** rng.uniform(-4, 0, n)
    clean = voxels(forward, rng.uniform(-1, 1, (n, 2)), phases(rng, n), 0.0, rng)
    c = clean + sigma[:, None] * complex_normal(rng, *clean.shape)
    c /= np.linalg.norm(c, axis=1)[:, None]
    begin = rng.uniform(-0.9, 0.9, (4, n, 2))
    ours = np.stack([minimise(c, forward, u, WHOLE, stopping=Stopping()).cost for u in begin])
    peer = np.array([[scipys(forward, c[i], u[i]).cost for i in range(n)] for u in begin])
    # ftol is 1e-8: both end within a few of it of the minimum, where that is not zero to rounding
    np.testing.assert_array_less(ours.min(axis=0), peer.min(axis=0) * (1 + 1e-6) + 1e-14)
    assert (ours <= peer * (1 + 1e-6) + 1e-14).mean() > 0.95
    others = np.moveaxis(forward.box.theta(begin[1:]), -1, 1)
    together = fit(c.T, forward, starts(forward, begin[0]), others=others)
    assert together.residual is not None
    np.testing.assert_allclose(together.residual**2 / 2, ours.min(axis=0), rtol=1e-5, atol=1e-14)


def test_more_starts_find_the_lower_minimum() -> None:
    forward = Frequency()
    c = forward.value_and_jacobian(np.array([[7.0]]))[0].T
    begin = starts(forward, np.array([[-0.7]]))
    alone, both = fit(c, forward, begin), fit(c, forward, begin, others=np.array([[[6.8]]]))
    assert alone.residual is not None
    assert both.residual is not None
    assert alone.residual[0] > 0.1
    assert both.residual[0] < 1e-6
    np.testing.assert_allclose(both.theta, 7, rtol=1e-6)


def test_where_the_model_is_not_finite_nothing_converges() -> None:
    class Broken(Frequency):
        def value_and_jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, jac = super().value_and_jacobian(theta)
            return np.where(theta < 5, value, np.nan), jac

    forward = Broken()
    c = np.repeat(forward.value_and_jacobian(np.array([[4.9]]))[0].T, 2, axis=1)
    found = fit(c, forward, starts(forward, forward.box.unit([[6.0], [4.5]])))
    assert found.converged is not None
    np.testing.assert_array_equal(found.converged, [False, True])
    np.testing.assert_allclose(found.theta[0], [6.0, 4.9], rtol=1e-6)


def test_a_voxel_that_no_step_helps_stays_where_it_is() -> None:
    """However often it is tried: damping grows, but not until it is no number (a warning would be an error here)."""

    class Uphill(Frequency):
        def value_and_jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, jac = super().value_and_jacobian(theta)
            return value, -jac

    forward = Uphill()
    c = forward.value_and_jacobian(np.array([[4.9]]))[0].T
    endless = Stopping(ftol=0.0, xtol=0.0, gtol=0.0, iterations=2000)
    found = fit(c, forward, starts(forward, forward.box.unit([[4.7]])), stopping=endless)
    assert found.converged is not None
    assert not found.converged.any()
    np.testing.assert_allclose(found.theta[0], [4.7], rtol=1e-6)


def test_a_fit_that_runs_out_of_steps_says_so(rng: np.random.Generator) -> None:
    forward = emulated()
    truth = rng.uniform(-0.8, 0.8, (10, 2))
    c = voxels(forward, truth, phases(rng, 10), 0.01, rng)
    found = fit(c.T, forward, starts(forward, -truth), stopping=Stopping(iterations=1))
    assert found.converged is not None
    assert not found.converged.any()


def test_what_does_not_fit_together_is_refused(rng: np.random.Generator) -> None:
    forward = emulated()
    coeff, start = complex_normal(rng, 5, 4), starts(forward, np.zeros((4, 2)))
    outside = starts(forward, np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.9], [0.0, 0.0]]))
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("no parameter 'T3', expected one of: T1, T2", start, {"fixed": {"T3": 1.0}}),
        ("no parameter 'B1'", start, {"bounds": {"B1": (0.9, 1.1)}}),
        ("bounds of T1 are 0.1 to 2 s, expected a range within 0.3 to 3", start, {"bounds": {"T1": (0.1, 2)}}),
        ("bounds of T1 are 2 to 1 s", start, {"bounds": {"T1": (2, 1)}}),
        ("the start of T2 is outside of 0.02 to 0.1 s in 1 of 4 voxels", outside, {"bounds": {"T2": (0.02, 0.1)}}),
        ("the fixed value of T1 is outside of 0.3 to 3 s in 4 of 4 voxels, the first", start, {"fixed": {"T1": 5}}),
        ("the fixed value of T1 is outside", start, {"fixed": {"T1": [1, 1, np.nan, 1]}}),
    ]
    for text, begin, options in cases:
        with pytest.raises(UserError, match=text) as error:
            fit(coeff, forward, begin, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="do not fit"):
        fit(coeff[:4], forward, start)


def test_too_few_coefficients_are_refused(rng: np.random.Generator) -> None:
    forward = emulated(rank=2)
    with pytest.raises(UserError, match="2 coefficients cannot tell M0 and 2 parameters, expected at least 3"):
        fit(complex_normal(rng, 2, 4), forward, starts(forward, np.zeros((4, 2))))
    # with one of them fixed it can be done
    truth = rng.uniform(-0.8, 0.8, (4, 2))
    c = voxels(forward, truth, phases(rng, 4), 0.0, rng)
    theta = forward.box.theta(truth)
    found = fit(c.T, forward, starts(forward, truth + 0.05), fixed={"T1": theta[:, 0]})
    np.testing.assert_allclose(found.theta.T, theta, rtol=1e-4)


def test_a_model_without_derivatives_or_of_other_frames_is_refused() -> None:
    exact = simulated()

    class Values:
        parameters, n_frames, signal = exact.model.parameters, exact.model.n_frames, exact.model.signal

    with pytest.raises(UserError, match="model Values has no derivatives"):
        Simulated(Values(), exact.phi, exact.box)
    with pytest.raises(UserError, match="60 frames, the basis 59"):
        Simulated(exact.model, exact.phi[:-1], exact.box)
