"""The semi-solid pool: Green's function, saturation, R2sl and its table, against published numbers and other rules."""

from __future__ import annotations

import numpy as np
import pytest
from reference import two_pools
from scipy.integrate import quad
from scipy.linalg import expm

from crbsvd_plugin.models.qmt import saturation, semisolid

PI = np.pi
ISOLATED = (1 - 1e-12, 0.0, 15.0, 0.0, 0.0)  # m0s, R1f, R2f, Rx, R1s: nothing but the pulse acts on zs


def test_greens_function_by_quadrature(rng: np.random.Generator) -> None:
    """Against adaptive quadrature, to 1e-11 (the published interpolation: 1.5e-8)."""
    for kappa in [0.0, 1.0, *rng.uniform(0, 100, 8)]:

        def integrand(z: float, kappa: float = kappa) -> float:
            return float(np.exp(-(kappa**2) * (3 * z**2 - 1) ** 2 / 8))

        expected = quad(integrand, 0, 1, points=[3**-0.5], epsabs=1e-14, epsrel=1e-13, limit=400)[0]
        assert semisolid.greens(kappa) == pytest.approx(expected, rel=1e-11)


def test_greens_function_literals_and_limits() -> None:
    """At kappa = 10 for T2s = 10 us as published; 1 - kappa^2/10 for short, (2 pi/3)^(1/2)/kappa for long times."""
    assert semisolid.greens(10.0) == pytest.approx(0.14712468680944, rel=1e-12)
    assert semisolid.greens_by_t2(10.0) / 10e-6 == pytest.approx(15253.0950336710, rel=1e-12)
    # the next terms are 3 kappa^4 / 280 and of relative order 1 / kappa^2
    assert semisolid.greens(1e-2) == pytest.approx(1 - 1e-5, abs=1.2e-10)
    assert semisolid.greens(100.0) * 100 == pytest.approx(np.sqrt(2 * PI / 3), rel=1e-3)


def test_greens_derivative_and_integral(rng: np.random.Generator) -> None:
    """T2s dG/dT2s = -kappa G', and the integral's derivative is G: central differences, h^2/6 G''' below 1e-8."""
    kappa, h = rng.uniform(0.1, 60, 20), 1e-4
    numeric = -kappa * (semisolid.greens(kappa + h) - semisolid.greens(kappa - h)) / (2 * h)
    assert semisolid.greens_by_t2(kappa) == pytest.approx(numeric, abs=1e-7)
    numeric = (semisolid.greens_integral(kappa + h) - semisolid.greens_integral(kappa - h)) / (2 * h)
    assert semisolid.greens(kappa) == pytest.approx(numeric, abs=1e-8)


def test_saturation_literals() -> None:
    """z(tau, pi) and c_1 as the specification prints them, to half of the last digit and a bit."""
    tau = np.array([5, 10, 1000 / 21, 100])
    expected = [-0.565402137337, -0.297298367329, 0.267223508746, 0.513794538709]
    assert np.abs(semisolid.saturated(tau, np.array([PI]))[:, 0] - expected).max() < 2e-12
    c1 = semisolid.series(np.array([5.0, 10, 100]))[:, 1]
    assert np.abs(c1 - [0.389277648941, 0.288950243631, 0.061893245362]).max() < 1e-12


def test_saturation_is_that_of_the_equations() -> None:
    """Against collocation in time with another rule for G; and the published 0.2190847 with R1s = 3."""
    for tau, angle in ((8.0, 2.0), (40.0, PI), (70.0, 0.4)):
        theta = (*ISOLATED, 500e-6 / tau, 0.0, 1.0)
        zs = two_pools.full_pulse(theta, angle, 500e-6)[4, 4]
        # the midpoint rule of G is right to 1e-7, one sided
        assert semisolid.saturated(np.array([tau]), np.array([angle]))[0, 0] == pytest.approx(zs, abs=1e-6)
    theta = (1 - 1e-12, 0, 15, 0, 3, 12e-6, 0, 1)
    p = two_pools.full_pulse(theta, PI, 500e-6)
    assert p[4, 4] + p[4, 5] == pytest.approx(0.2190847, abs=1e-6)


def test_short_pulses_only_turn() -> None:
    """For tau -> 0 nothing dephases; 1 - G = kappa^2/10 changes z by less than theta^2 tau^2 / 100."""
    angles = np.linspace(0.1, 4, 9)
    found = semisolid.saturated(np.array([1e-3]), angles)[0]
    assert np.abs(found - np.cos(angles)).max() < 16 * 1e-6 / 100


def test_bloch_is_the_exponential(rng: np.random.Generator) -> None:
    """x(r, theta) for real and imaginary S and for S = 0."""
    for r, angle in [(0.3, 2.0), (14.0, 1.0), (2.0, 1.0), *rng.uniform(0.1, 5, (6, 2))]:
        whole = expm(np.array([[-r, angle], [-angle, 0]]))
        assert semisolid.bloch(np.array(r), np.array(angle)) == pytest.approx(whole[1, 1], abs=1e-13)


def test_rate_literals() -> None:
    """T2sl / T2s = tau / r with nine digits, as the specification prints them."""
    expected = {
        (5, 0.01): 6.22935191, (10, 0.5): 5.05269750, (10, 1): 4.49968323, (50, 0.5): 5.94898204, (50, 1): 6.24467212,
        (100, 0.5): 6.69346700, (100, 1): 6.92990702, (1000 / 21, 1.3): 6.74512207, (10, 1.3): 3.45440073,
    }  # fmt: skip
    for (tau, angle), value in expected.items():
        found = tau / semisolid.rate(np.array([float(tau)]), np.array([angle * PI]))[0, 0]
        assert found == pytest.approx(value, rel=1.5e-9), (tau, angle)


def test_rate_gives_the_same_saturation() -> None:
    """By construction, everywhere in the table, its ends included."""
    tau, angles = np.geomspace(*saturation.TAU, 7), np.linspace(0.2, saturation.THETA, 9)
    found = semisolid.bloch(semisolid.rate(tau, angles), angles)
    assert np.abs(found - semisolid.saturated(tau, angles)).max() < 1e-13


def test_lorentzian_line_has_a_constant_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """With G = exp(-kappa) the generalized model is Bloch's, R2sl = 1 / T2s for all angles."""
    monkeypatch.setattr(semisolid, "greens_integral", lambda kappa: -np.expm1(-kappa))
    tau = np.array([4.0, 10, 60])
    found = semisolid.rate(tau, np.array([0.3, 1, 3, 4]))
    assert np.abs(found / tau[:, None] - 1).max() < 1e-8


def test_table_is_exact(rng: np.random.Generator) -> None:
    """2e-9 of the value up to 1.2 pi, 6e-9 to the end, where short pulses make it steep."""
    tau = np.exp(rng.uniform(*np.log(saturation.TAU), 25))
    angles = np.concatenate([rng.uniform(0.15, 1.2 * PI, 20), rng.uniform(1.2 * PI, saturation.THETA - 2e-4, 6)])
    at = [axis.ravel() for axis in np.meshgrid(tau, angles, indexing="ij")]
    found = saturation.rates(saturation.table(), *at).reshape(len(tau), len(angles), 3)
    exact = semisolid.rate(tau, angles) / tau[:, None]
    error = np.abs(found[..., 0] / exact - 1)
    assert error[:, :20].max() < 2e-9
    assert error.max() < 6e-9
    h = 1e-4
    up, down = (semisolid.rate(tau * np.exp(s), angles) / (tau * np.exp(s))[:, None] for s in (h, -h))
    assert np.abs(found[..., 1] - (up - down) / (2 * h)).max() < 1e-6
    up, down = (semisolid.rate(tau, angles + s) / tau[:, None] for s in (h, -h))
    by_angle = np.abs(found[..., 2] - (up - down) / (2 * h))
    assert by_angle[:, :20].max() < 1e-7
    assert by_angle.max() < 2e-6


def test_table_at_angle_zero() -> None:
    """The limit of small angles, tau / r_0 as printed, where (r - 1 + exp(-r)) / r^2 = c_1."""
    tau = np.array([5.0, 10, 100])
    found = saturation.rates(saturation.table(), tau, np.zeros(3))
    assert 1 / found[:, 0] == pytest.approx([6.22948716, 5.19340107, 6.62872427], rel=1.5e-9)
    assert not found[:, 2].any()
