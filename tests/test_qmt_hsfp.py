"""The model qmt-hsfp against matrix exponentials, the generalized Bloch equations and published series."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import two_pools
from scipy.linalg import expm

from crbsvd_plugin import crb, models, testing
from crbsvd_plugin.fit import nlls
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.forward import Simulated
from crbsvd_plugin.fit.result import Maps
from crbsvd_plugin.models.qmt import propagators, saturation
from crbsvd_plugin.models.qmt.hsfp import QmtHsfp

Array = NDArray[Any]

TR = 3.5e-3
NAMES = ("m0s", "R1f", "R2f", "Rx", "R1s", "T2s", "w0", "B1")
WM = (0.2, 0.52, 12.9, 16.5, 2.97, 12.4e-6, 0.0, 1.0)
# white and grey matter off resonance, next to nothing semi-solid, and the ends of most ranges
TISSUES = np.array(
    [
        WM,
        (0.1, 0.4, 12.0, 14.0, 2.4, 14.4e-6, 211.0, 0.9),
        (1e-3, 0.25, 0.5, 30.0, 4.0, 10e-6, -523.0, 1.2),
        (0.35, 1.0, 60.0, 60.0, 6.0, 5.2e-6, 890.0, 0.6),
        (0.3, 10.0, 20.0, 5.0, 1.0, 24e-6, -890.0, 1.3),
    ]
)
TISSUES.flags.writeable = False
DATA = Path(os.environ.get("CRBSVD_REFERENCE_DATA", Path(__file__).parents[1] / "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published series are not here")


def train(seed: int, n_cycles: int, n: int, largest: float = 2.0) -> tuple[Array, Array]:
    """Return random angles, a third of them zero and one of 180 degrees, and durations, some of them equal."""
    rng = np.random.default_rng(seed)
    alpha = rng.uniform(0, largest, (n_cycles, n)) * (rng.uniform(size=(n_cycles, n)) > 1 / 3)
    trf = rng.uniform(1e-4, 5e-4, (n_cycles, n))
    trf[:, n // 2 : n // 2 + 4] = 3e-4
    alpha[:, 0], trf[:, 0] = np.pi, 5e-4
    alpha[0, n // 3 + 1], trf[0, n // 3 + 1] = np.pi, 5e-4
    return alpha, trf


def model_of(alpha: Array, trf: Array, **settings: Any) -> Any:
    return models.build({"name": "qmt-hsfp", "alpha": alpha, "TRF": trf, **settings})


def rates(theta: Array, alpha: Array, trf: Array) -> Array:
    """Return R2sl (N, 3) of pulses with its derivatives by T2s and B1, from the table."""
    t2s, b1 = theta[5], theta[7]
    f, by_log_tau, by_angle = saturation.rates(saturation.table(), trf / t2s, b1 * alpha).T
    return np.stack([f / t2s, -(f + by_log_tau) / t2s**2, by_angle * alpha / t2s], axis=-1)


def reference(theta: Array, alpha: Array, trf: Array, tr: float = TR) -> tuple[Array, Array]:
    """Return signals (T,) and derivatives (8, T) by matrix exponentials."""
    found = [
        two_pools.steady_state(*two_pools.linear_units(theta, a, t, tr, rates(theta, a, t)))
        for a, t in zip(alpha, trf, strict=True)
    ]
    return np.concatenate([s for s, _ in found]), np.concatenate([d for _, d in found], axis=-1)


def off(found: Array, expected: Array) -> Array:
    """Return relative differences in the 2-norm over time."""
    return np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)


def test_rational_function_is_the_exponential() -> None:
    """Within 5e-11 wherever the numerical range of a pulse can be: r = 0.1 .. 16, angles and w0 TRF up to 5."""
    turn = np.linspace(0, 2 * np.pi, 400)
    r = np.linspace(0.1, 16, 30)[:, None]
    z = np.concatenate(
        [(-r / 2 + (r / 2 + 0.1) * np.cos(turn) + 5j * np.sin(turn)).ravel(), 5j * np.linspace(-1, 1, 99)]
    )
    poles, weights = propagators._POLES[:, None], propagators._WEIGHTS[:, None] / 2
    found = np.sum(weights / (poles - z) + weights.conj() / (poles.conj() - z), axis=0)
    assert np.abs(found - np.exp(z)).max() < 5e-11


def test_exponential_literal() -> None:
    """The brute force itself: one pulse from equilibrium, as published (13 digits)."""
    theta = (0.1, 1.0, 15.0, 30.0, 6.5, 10e-6, 0.0, 1.0)
    m = expm(two_pools.generator(theta, np.pi / 500e-6, 1e5) * 500e-6) @ [0, 0, 0.9, 0, 0.1, 1]
    expected = [0.0010647535813, 0, -0.8957848274535, 0.0051265295919, 0.0812200714211]
    assert np.abs(m[:5] - expected).max() < 6e-14


@pytest.mark.parametrize(("n_cycles", "n"), [(1, 2), (2, 23), (3, 40)])
def test_signals_and_tangents_equal_matrix_exponentials(n_cycles: int, n: int) -> None:
    """To 1e-9 of each derivative: pulses are right to 5e-11, and a state outlives some tens of them."""
    alpha, trf = train(n, n_cycles, n)
    signal, jac = model_of(alpha, trf).signal_and_jacobian(TISSUES)
    for theta, s, j in zip(TISSUES, signal, jac, strict=True):
        expected, by = reference(theta, alpha, trf)
        assert off(s, expected) < 1e-9
        assert off(j, by).max() < 1e-9, NAMES


def test_another_repetition_time_and_plain_sequences() -> None:
    """TR 5 ms; one cycle as a list of numbers; and any number of fingerprints, of which 16 are simulated at a time."""
    alpha, trf = train(5, 1, 17)
    model = model_of(alpha[0].tolist(), trf[0].tolist(), tr=5e-3)
    theta = np.concatenate([TISSUES * [1, 1, 1, 1, 1, 1, 0.6, 1]] * 4)
    signal = model.signal(theta)
    assert off(signal[1], reference(theta[1], alpha, trf, 5e-3)[0]) < 1e-9
    for n in (1, 15, 16, 17):
        assert np.array_equal(model.signal(theta[:n]), signal[:n])


@pytest.mark.parametrize("name", ["small", "built-in"])
def test_check_model(name: str, frozen: Any) -> None:
    """Derivatives against central differences, shapes, and that nothing is changed."""
    model = models.build({"name": "qmt-hsfp"}) if name == "built-in" else model_of(*train(1, 2, 30))
    assert model.n_frames == (1500 if name == "built-in" else 60)
    # not the third: where m0s is 1e-3 steps are 1e-6, and rounding (1e-12 of a signal) is as large as the tolerance
    tissues = TISSUES[:2] if name == "built-in" else TISSUES[[0, 1, 3, 4]]
    # of T2s, which moves the signal least, rounding can be 1.1e-6 of the derivative: steps are 1e-3 of it
    testing.check_model(model, frozen(tissues), tolerance=2e-6)


def test_derivative_by_both_relaxation_rates() -> None:
    """With R1f = R1s = R1, ds/dR1 is the sum of both: central differences of the reference, h^2 below 1e-7."""
    alpha, trf = train(2, 1, 19)
    theta = np.array(WM)
    theta[[1, 4]] = 1.0
    jac = model_of(alpha, trf).signal_and_jacobian(theta[None])[1][0]
    up, down = theta.copy(), theta.copy()
    up[[1, 4]] += 1e-4
    down[[1, 4]] -= 1e-4
    numeric = (reference(up, alpha, trf)[0] - reference(down, alpha, trf)[0]) / 2e-4
    assert off(jac[1] + jac[4], numeric) < 1e-6


def test_refocused_echo_of_the_inversion() -> None:
    """s_1 = -sin^2(B1 alpha_1 / 2) exp(-R2f TR) conj(s_N) in every cycle: rotation, crusher and boundary at once."""
    alpha, trf = train(3, 3, 25)
    signal = model_of(alpha, trf).signal(TISSUES).reshape(len(TISSUES), 3, 25)
    refocused = -(np.sin(TISSUES[:, 7] * np.pi / 2) ** 2) * np.exp(-TISSUES[:, 2] * TR)
    assert np.abs(signal[..., 0] - refocused[:, None] * signal[..., -1].conj()).max() < 1e-14


def test_crushed_inversion_is_an_average_over_spoiling() -> None:
    """The same pulse between two gradients that turn by phi, averaged over phi; 64 steps are exact."""
    theta = np.array([0.0, 0, 0, 0, 0, 10e-6, 0, 0.9])
    p, _ = two_pools.crushed_pulse(theta, np.pi, 500e-6, rates(theta, np.array([np.pi]), np.array([500e-6]))[0])
    average = np.zeros((3, 3))
    angle = 0.9 * np.pi
    pulse = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    for phi in 2 * np.pi * np.arange(64) / 64:
        spoiled = np.array([[np.cos(phi), -np.sin(phi), 0], [np.sin(phi), np.cos(phi), 0], [0, 0, 1]])
        average += spoiled @ pulse @ spoiled / 64
    assert np.abs(average - (p @ two_pools.TURN)[:3, :3]).max() < 1e-12


def test_conjugate_off_resonance() -> None:
    """s(-w0) = conj s(w0); so do derivatives, but for the sign of that by w0."""
    model = model_of(*train(4, 2, 31))
    mirrored = TISSUES * [1, 1, 1, 1, 1, 1, -1, 1]
    signal, jac = model.signal_and_jacobian(TISSUES)
    other, by = model.signal_and_jacobian(mirrored)
    by[:, NAMES.index("w0")] *= -1
    assert np.abs(other - signal.conj()).max() < 1e-14
    assert (np.abs(by - jac.conj()).max(axis=(0, 2)) <= 1e-13 * np.abs(jac).max(axis=(0, 2))).all()
    assert model.conjugated_by == "w0"


def test_without_a_semisolid_pool_it_is_bloch() -> None:
    """m0s = 0: three components, rotations and relaxation, from equilibrium through 400 cycles."""
    alpha, trf = train(6, 1, 11)
    theta = np.array([0.0, 2.0, 20.0, 15.0, 3.0, 10e-6, 300.0, 0.95])
    _, r1, r2, _, _, _, w0, b1 = theta

    def step(m: Array, time: float, w1: float) -> Array:
        h = np.array([[-r2, -w0, w1, 0], [w0, -r2, 0, 0], [-w1, 0, -r1, r1], [0, 0, 0, 0]])
        return expm(h * time) @ m

    m, signal = np.array([0.0, 0, 1, 1]), np.zeros(11, complex)
    for _ in range(400):
        for i in range(11):
            rest = (TR - trf[0, i] * (i > 0)) / 2
            m = step(m, rest, 0.0) * [-1, -1, 1, 1]
            if i > 0:
                m = step(m, trf[0, i], b1 * alpha[0, i] / trf[0, i])
            else:
                m = m * [np.sin(b1 * np.pi / 2) ** 2, -(np.sin(b1 * np.pi / 2) ** 2), np.cos(b1 * np.pi), 1]
            m = step(m, rest, 0.0)
            signal[i] = m[0] + 1j * m[1]
    assert np.abs(model_of(alpha, trf).signal(theta[None])[0] - signal).max() < 1e-10


def test_steady_state_is_what_repetition_comes_to() -> None:
    """From equilibrium through 400 cycles, in the slowest tissue by a factor of exp(-400 x 20 x 3.5 ms x 0.25 / s)."""
    alpha, trf = train(7, 1, 20)
    signal = model_of(alpha, trf).signal(TISSUES[2:3])[0]
    theta = TISSUES[2]
    u, _ = two_pools.linear_units(theta, alpha[0], trf[0], TR, rates(theta, alpha[0], trf[0]))
    m, found = np.array([0, 0, 1 - theta[0], 0, theta[0], 1]), np.zeros(20, complex)
    for _ in range(400):
        for i in range(20):
            m = u[i] @ m
            found[i] = m[0] + 1j * m[1]
    assert np.abs(signal - found).max() < 1e-3 * np.abs(found).max()
    for _ in range(1600):
        for i in range(20):
            m = u[i] @ m
            found[i] = m[0] + 1j * m[1]
    assert np.abs(signal - found).max() < 1.5e-8


def test_inversion_recovery_of_both_pools() -> None:
    """Where nothing but the inversion and a last small pulse acts, z is the fixed point of a 2 x 2 system."""
    n, tip = 30, 1e-4
    alpha, trf = np.zeros((1, n)), np.full((1, n), 500e-6)
    alpha[0, 0], alpha[0, -1] = np.pi, tip
    theta = np.array(WM)
    m0s, r1f, r2f, rx, r1s = theta[:5]
    matrix = np.array([[-r1f - rx * m0s, rx * (1 - m0s)], [rx * m0s, -r1s - rx * (1 - m0s)]])
    equilibrium = np.array([1 - m0s, m0s])
    rate = rates(theta, alpha[0], trf[0])[0, 0]
    zs = expm(np.array([[-rate, np.pi / 500e-6], [-np.pi / 500e-6, 0]]) * 500e-6)[1, 1]
    inversion = np.diag([-1, zs])
    whole = expm(matrix * n * TR)
    # z before the inversion: z = equilibrium + whole (inversion z - equilibrium)
    z = np.linalg.solve(np.eye(2) - whole @ inversion, equilibrium - whole @ equilibrium)
    before = equilibrium + expm(matrix * (n - 1) * TR) @ (inversion @ z - equilibrium)
    signal = model_of(alpha, trf).signal(theta[None])[0]
    # what was tipped is refocused by the inversion and there again a cycle later, n TR older; with signs, it adds up.
    # z bends by (2/s TRF)^2 / 24 in a pulse, and is 0.03 there
    expected = tip * before[0] * np.exp(-r2f * TR / 2) / (1 - np.exp(-r2f * n * TR))
    assert signal[-1] == pytest.approx(expected, rel=1e-5)
    decay = (-1.0) ** np.arange(n - 1) * -np.exp(-r2f * TR * np.arange(1, n))
    assert signal[:-1] == pytest.approx(expected * decay, rel=1e-4)


@pytest.mark.parametrize(("rx", "tolerance"), [(30.0, 5e-5), (70.0, 1.2e-4)])
def test_single_pulses_of_the_full_model(rx: float, tolerance: float) -> None:
    """The linear model against the generalized Bloch equations, from equilibrium: 4.8e-5 at Rx = 30/s, as Rx beyond."""
    theta = np.array([0.1, 0.3, 20.0, rx, 2.0, 10e-6, 0.0, 1.0])
    for alpha in np.pi * np.array([0.01, 0.25, 0.5, 0.75, 1]):
        start = np.array([0, 0, 0.9, 0, 0.1, 1])
        full = two_pools.full_pulse(theta, alpha, 500e-6) @ start
        linear = two_pools.linear_pulse(theta, alpha, 500e-6, rates(theta, np.array([alpha]), np.array([5e-4]))[0])[0]
        assert off((linear @ start)[two_pools.KEPT], full[two_pools.KEPT]) < tolerance


def test_full_pulse_literal() -> None:
    """The generalized Bloch equations themselves: converged values of a published pulse, to 1e-7."""
    theta = (0.2, 1 / 3, 15.0, 30.0, 2.0, 10e-6, 0.0, 1.0)
    m = two_pools.full_pulse(theta, np.pi / 2, 100e-6) @ [0, 0, 0.8, 0, 0.2, 1]
    assert np.abs(m[two_pools.KEPT] - [0.799421202, 0, 0.000441239, 0.0821481159]).max() < 1e-7


@pytest.mark.parametrize(("w0", "b1", "t2s"), [(0.0, 1.0, 10e-6), (300.0, 0.9, 11e-6)])
def test_train_of_the_full_model(w0: float, b1: float, t2s: float) -> None:
    """Steady states of the linear and of the full model differ by less than 1e-3 (1e-4 in the published train)."""
    n = 40
    rng = np.random.default_rng(8)
    alpha = np.pi / 3 * np.abs(np.sin(4 * np.pi * np.arange(n) / n))
    trf = rng.uniform(1e-4, 5e-4, n)
    alpha[0], trf[0] = np.pi, 500e-6
    theta = np.array([0.2, 0.35, 1 / 0.065, 20.0, 2.5, t2s, w0, b1])
    none = np.zeros((8, 6, 6))

    def pulse(i: int) -> tuple[Array, Array]:
        if i == 0:
            # z of the isolated pool: R2sl makes that of the linear model equal by construction
            return two_pools.crushed_pulse(theta, alpha[0], trf[0], rates(theta, alpha[:1], trf[:1])[0])[0], none
        return two_pools.full_pulse(theta, alpha[i], trf[i], n=20), none

    u, _ = two_pools.units(theta, alpha, trf, TR, pulse)
    expected, _ = two_pools.steady_state(u, np.zeros((n, 8, 6, 6)))
    error = off(model_of(alpha, trf).signal(theta[None])[0], expected)
    assert error < 1e-3


def test_spec_makes_the_same_model() -> None:
    model = model_of(*train(9, 2, 13), tr=4e-3)
    again = models.build(model.spec)
    assert again.spec == model.spec
    assert np.array_equal(again.signal(TISSUES), model.signal(TISSUES))


def test_theta_outside_of_the_model_is_refused() -> None:
    model = model_of(*train(1, 1, 5))
    with pytest.raises(ValueError, match=r"T2s runs from 3e-06 to 3e-06 s, expected within"):
        model.signal(np.array([[*WM[:5], 3e-6, 0, 1]]))
    with pytest.raises(ValueError, match=r"theta has shape \(1, 3\)"):
        model.signal(np.ones((1, 3)))


def test_least_squares_recover_the_truth() -> None:
    """Without noise, through a random complex basis of 100 columns, from one start for all: 1e-3 of every parameter."""
    model = models.build({"name": "qmt-hsfp"})
    rng = np.random.default_rng(0)
    low, high = [0.05, 0.3, 8, 8, 2, 8e-6, -250, 0.8], [0.3, 0.8, 20, 40, 5, 16e-6, 250, 1.2]
    truth = rng.uniform(low, high, (6, 8))
    truth[0] = 0.15, 0.5, 17, 30, 3, 12e-6, 100, 0.9  # the published test
    phi = np.linalg.qr(rng.standard_normal((1500, 100)) + 1j * rng.standard_normal((1500, 100)))[0]
    m0 = 0.85 * np.exp(2j * np.pi * rng.random(6))
    limits = [0, 0.15, 1, 2, 0.5, 6e-6, -900, 0.5], [0.6, 3, 60, 100, 12, 20e-6, 900, 1.31]
    forward = Simulated(model, phi, Box(model.parameters, *map(np.array, limits)))
    none = np.zeros(6, bool)
    begin = np.tile([0.2, 0.5, 15, 20, 3, 10e-6, 0, 1], (6, 1)).T
    start = Maps(model.parameters, begin, none.astype(complex), none, ~none)
    found = nlls.fit((m0[:, None] * (model.signal(truth) @ phi.conj())).T, forward, start)
    assert np.abs(found.theta.T / truth - 1).max() < 1e-3
    assert np.abs(found.m0 / m0 - 1).max() < 1e-3


@needs_data
def test_published_series_of_one_train() -> None:
    """Signal to 1e-5, derivatives as their own table allows: most 1e-5, T2s 2e-4, B1 3e-5 (relative, over time)."""
    pulses, series = (np.load(DATA / name) for name in ("control_MT_v3p2.npz", "julia_dev_pulsetrain.npz"))
    theta = np.array([0.15, 0.5, 15.0, 30.0, 3.0, 10e-6, 0.0, 1.0])
    model = QmtHsfp(alpha=[pulses["alpha"].tolist()], TRF=[pulses["TRF"].tolist()])
    signal, jac = model.signal_and_jacobian(theta[None])
    assert off(signal[0], series["s_lin"]) < 1e-5
    scaled = (jac[0] * theta[:, None]).real
    tolerances = {"T2s": 2e-4, "B1": 3e-5}
    for k, name in enumerate(NAMES):
        if name != "w0":  # scaled by w0 = 0
            assert off(scaled[k], series["reder_scaled"][k + 1]) < tolerances.get(name, 1e-5), name


@needs_data
def test_prototype_series_of_six_cycles() -> None:
    """Norms of all columns, first samples of the cycles, and bounds, as the specification prints them."""
    pulses = np.load(DATA / "FA_pattern.npz")
    model = QmtHsfp(alpha=pulses["alpha"].tolist(), TRF=pulses["TRF"].tolist())
    signal, jac = model.signal_and_jacobian(np.array([WM]))
    norms = np.linalg.norm(np.concatenate([signal[:, None], jac], axis=1)[0], axis=-1)
    expected = [
        5.552462556, 7.987493083929, 2.939887635987, 0.213604227602, 0.035384146252, 0.407955922873, 39931.5882301,
        0.001740611620, 2.750531943766,
    ]  # fmt: skip
    assert norms == pytest.approx(expected, rel=2e-6)
    first = signal[0].reshape(6, 1142)[:, 0]
    assert np.abs(first - [-2.432e-7, -0.0323092480, -0.374343154, -5.804e-6, -0.200038583, -2.364e-11]).max() < 1e-8
    bound = crb.orthogonalise(signal, jac, targets=range(6), fisher="complex").bound[0]
    relative = np.sqrt(bound) / WM[:6]
    assert relative == pytest.approx([2.30652, 2.35674, 1.06657, 4.16188, 3.37164, 4.88018], rel=1e-4)
