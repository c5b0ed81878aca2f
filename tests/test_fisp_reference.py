"""The MRF-FISP model against isochromats, published numbers and closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import isochromats
from reference.isochromats import Train

from crbsvd_plugin import models
from crbsvd_plugin.models import slice_profile

Array = NDArray[Any]

# T1 [s], T2 [s], B1 of white matter, grey matter, CSF and fat
TISSUES = np.array([[0.8, 0.05, 1.0], [1.35, 0.095, 0.9], [4.0, 2.0, 1.1], [0.38, 0.1, 1.2]])
TISSUES.flags.writeable = False


# n pulses, kind of RF phases, TI, efficiency, recovery
CASES = {
    "equilibrium": (200, "zero", None, 1.0, None),
    "inversion": (131, "zero", 0.02, 0.9, None),
    "alternating": (90, "alternating", 0.02, 1.0, None),
    "quadratic": (101, "quadratic", None, 1.0, None),
    "quadratic-inversion": (130, "quadratic", 0.05, 0.9, None),
    "one-pulse": (1, "quadratic", 0.05, 0.9, None),
    "second-repetition": (80, "zero", None, 1.0, 0.7),
    "second-repetition-inversion": (80, "zero", 0.02, 0.9, 3.0),
    "second-repetition-quadratic": (60, "quadratic", 0.02, 0.9, 0.7),
}


def make_train(case: str) -> Train:
    """Return a train of random flip angles (some zero) and random TR; quadratic RF phases have a random part."""
    n, kind, ti, efficiency, recovery = CASES[case]
    rng = np.random.default_rng(sorted(CASES).index(case))
    count = np.arange(n)
    flips = rng.uniform(0.05, 1.2, n) * (rng.uniform(size=n) > 0.05)
    phases = {
        "zero": np.zeros(n),
        "alternating": np.pi * (count % 2),
        "quadratic": np.deg2rad(117) * count * (count + 1) / 2 + rng.uniform(-np.pi, np.pi, n),
    }[kind]
    return Train(flips, phases, rng.uniform(0.008, 0.014, n), 0.005, ti, efficiency, recovery)


def model_of(train: Train, **settings: Any) -> Any:
    """Return the model of a train, with untruncated states unless told otherwise."""
    spec = {
        "name": "mrf-fisp",
        "flip_angles": train.flip_angles.tolist(),
        "phases": train.phases.tolist(),
        "tr": train.tr.tolist(),
        "te": train.te,
        "ti": train.ti,
        "inversion_efficiency": train.efficiency,
        "recovery": train.recovery,
        "b1": True,
        "accuracy": 0.0,
    }
    return models.build(spec | settings)


def constant_train(angle: float, n: int, **settings: Any) -> Any:
    """Return a model of n equal pulses of phase 0, TR 10 ms, TE 5 ms, from equilibrium without inversion."""
    spec = {"name": "mrf-fisp", "flip_angles": [angle] * n, "tr": [0.01] * n, "phases": [0.0] * n}
    return models.build(spec | {"te": 0.005, "ti": None, "recovery": None, "accuracy": 0.0} | settings)


@pytest.mark.parametrize("case", ["quadratic-inversion", "second-repetition-quadratic"])
def test_reference_is_exact_in_isochromats(case: str) -> None:
    """More isochromats change nothing; too few do, so the statement is not empty."""
    train = make_train(case)
    n = len(train.tr)
    exact = isochromats.signal(train, TISSUES)
    assert np.abs(isochromats.signal(train, TISSUES, n_isochromats=3 * n + 2) - exact).max() < 1e-13
    assert np.abs(isochromats.signal(train, TISSUES, n_isochromats=n // 3) - exact).max() > 1e-4


def test_reference_derivatives_have_converged() -> None:
    """Steps of half the size agree to 1e-7: a tenth of the tolerance of the tangents."""
    train = make_train("inversion")
    t1, t2, b1 = isochromats.RELATIVE_STEPS
    jac = isochromats.jacobian(train, TISSUES)
    other = isochromats.jacobian(train, TISSUES, relative_steps=(t1 / 2, t2 / 2, b1 / 2))
    assert np.abs((other - jac) / np.abs(jac).max(axis=2, keepdims=True)).max() < 1e-7


def test_reference_pulse_has_converged() -> None:
    """The stepwise pulse is a rotation, and its splitting error is of second order and below 1e-4."""
    angle, position = np.deg2rad([10.0, 70.0]), isochromats.midpoints(1.5, 31)
    coarse, middle, fine = (isochromats.sinc_pulse(angle, position, n_steps=n) for n in (500, 1000, 4000))
    assert np.abs(middle @ middle.swapaxes(-1, -2) - np.eye(3)).max() < 1e-12
    first, second = np.abs(coarse - fine).max(), np.abs(middle - fine).max()
    assert second < 1e-4
    assert first / second == pytest.approx((1 / 500**2 - 1 / 4000**2) / (1 / 1000**2 - 1 / 4000**2), rel=0.05)


@pytest.mark.parametrize("case", CASES)
def test_untruncated_signals_equal_isochromats(case: str) -> None:
    train = make_train(case)
    assert np.abs(model_of(train).signal(TISSUES) - isochromats.signal(train, TISSUES)).max() < 1e-10


@pytest.mark.parametrize("case", CASES)
def test_tangents_equal_central_differences(case: str) -> None:
    """To 1e-6 of the largest derivative of each atom and parameter, see `isochromats.RELATIVE_STEPS`."""
    train = make_train(case)
    signal, jac = model_of(train).signal_and_jacobian(TISSUES)
    expected = isochromats.jacobian(train, TISSUES)
    assert np.abs(signal - isochromats.signal(train, TISSUES)).max() < 1e-10
    largest = np.abs(expected).max(axis=2, keepdims=True)
    assert np.abs((jac - expected) / largest).max() < 1e-6


SPREAD = np.array([[0.8, 0.05], [1.4, 0.1], [4.0, 2.0], [0.35, 0.1], [3.0, 0.02], [1.0, 1.0], [5.0, 2.5], [2.0, 0.3]])


@pytest.fixture(scope="module")
def untruncated() -> Array:
    signal: Array = models.build({"name": "mrf-fisp", "accuracy": 0.0}).signal(SPREAD)
    return signal


def test_default_accuracy_on_the_full_train(untruncated: Array) -> None:
    """Two repetitions of 1040 pulses at the default against untruncated states and against isochromats."""
    model = models.build({"name": "mrf-fisp"})
    flips, phases, tr = (np.array(model.spec[key]) for key in ("flip_angles", "phases", "tr"))
    reference = isochromats.signal(Train(flips, phases, tr, 0.005, 0.02, 1.0, 10.0), SPREAD)
    signal = model.signal(SPREAD)
    assert np.abs(signal - untruncated).max() < 1e-4
    assert np.abs(untruncated - reference).max() < 1e-10
    assert np.abs(signal - reference).max() < 1e-4


def test_signals_converge_with_accuracy(untruncated: Array) -> None:
    """The error stays below what is asked for, does not grow, and ends at rounding."""
    asked = (1e-2, 1e-4, 1e-6, 1e-8, 1e-13)
    found = [
        np.abs(models.build({"name": "mrf-fisp", "accuracy": a}).signal(SPREAD) - untruncated).max() for a in asked
    ]
    assert all(error <= a for error, a in zip(found[:-1], asked[:-1], strict=True))
    assert all(later <= earlier for earlier, later in itertools.pairwise(found))
    assert found[0] > 1e-8, "nothing was left out: the test says nothing"
    assert found[-1] < 1e-12


def test_published_literals() -> None:
    """3 pulses of 30 degrees, T1 1000 ms, T2 100 ms, TE 5 ms, TR 10 ms, as printed in snapMRF's README."""
    signal = constant_train(np.pi / 6, 3).signal(np.array([[1.0, 0.1]]))[0]
    assert np.abs(signal - [-0.475615j, -0.412528j, -0.335848j]).max() <= 0.5e-6


def test_single_90_degree_pulse_decays_with_t2() -> None:
    theta = np.array([[1.0, 0.02], [1.0, 0.2], [5.0, 2.0]])
    signal = constant_train(np.pi / 2, 1, te=0.007).signal(theta)
    assert np.abs(signal[:, 0] + 1j * np.exp(-0.007 / theta[:, 1])).max() < 1e-14


@pytest.mark.parametrize("efficiency", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("phase", [0.0, 1.234])
def test_inversion_recovery_before_the_first_pulse(efficiency: float, phase: float) -> None:
    """Mz = 1 - (1 + eff) exp(-TI / T1), whatever the phase: the receiver follows it."""
    t1, ti = np.array([0.3, 1.0, 4.0]), 0.4
    theta = np.stack([t1, np.full(3, 0.1)], axis=1)
    model = constant_train(0.7, 1, ti=ti, inversion_efficiency=efficiency, phases=[phase])
    expected = -1j * np.sin(0.7) * (1 - (1 + efficiency) * np.exp(-ti / t1)) * np.exp(-0.005 / 0.1)
    assert np.abs(model.signal(theta)[:, 0] - expected).max() < 1e-14


def test_third_pulse_without_relaxation() -> None:
    """Sine times 1, cos a, and cos^2 a - sin^2(a/2) cos a: the refocused order enters at the third pulse.

    With the longest times of the model the three echoes lose 25 ms / 20 s at most; the extrapolation to none is
    linear in 1/T, and what it leaves is of second order, (25e-3 / 10)^2.
    """
    a = 0.9
    halves = np.array([[10.0, 10.0], [20.0, 20.0]])
    shorter, longer = constant_train(a, 3).signal(halves)
    expected = -1j * np.sin(a) * np.array([1, np.cos(a), np.cos(a) ** 2 - np.sin(a / 2) ** 2 * np.cos(a)])
    assert np.abs(2 * longer - shorter - expected).max() < (25e-3 / 10) ** 2


def test_steady_state_of_equal_pulses() -> None:
    """Gyngell's FISP steady state (J Magn Reson 81:474, 1989, doi 10.1016/0022-2364(89)90083-8).

    M+ = tan(a/2) [1 - (E1 - cos a)(1 - E2^2) / sqrt(p^2 - q^2)], p = 1 - E1 cos a - E2^2 (E1 - cos a),
    q = E2 (1 - E1)(1 + cos a); reached after 900 pulses of 10 ms to exp(-9 s / 0.3 s) = 1e-13.
    """
    a = 0.6
    theta = np.array([[0.3, 0.05], [0.3, 0.3], [0.2, 0.01]])
    signal = constant_train(a, 900).signal(theta)[:, -1]
    e1, e2 = np.exp(-0.01 / theta.T)
    p = 1 - e1 * np.cos(a) - e2**2 * (e1 - np.cos(a))
    q = e2 * (1 - e1) * (1 + np.cos(a))
    steady = np.tan(a / 2) * (1 - (e1 - np.cos(a)) * (1 - e2**2) / np.sqrt(p**2 - q**2))
    assert np.abs(signal + 1j * steady * np.exp(-0.005 / theta[:, 1])).max() < 1e-11


def test_default_train() -> None:
    """Jiang's 1040 pulses by their formula, and the paper's 20.4 s from one train to the next."""
    expected = [0.0] * 1040
    for start, peak in ((0, 35), (210, 43), (420, 70), (629, 45), (840, 27)):
        for n in range(1, 201):
            expected[start + n - 1] = 5 + (peak - 5) * np.sin(np.pi * n / 200)
    model = models.build({"name": "mrf-fisp"})
    spec = model.spec
    assert model.n_frames == 1040
    assert np.rad2deg(spec["flip_angles"]) == pytest.approx(expected, abs=1e-12)
    assert np.rad2deg(max(spec["flip_angles"])) == pytest.approx(70)
    assert not np.any(spec["phases"])
    assert (np.unique(spec["tr"]).tolist(), spec["te"], spec["ti"]) == ([0.01], 0.005, 0.02)
    assert sum(spec["tr"]) + spec["recovery"] == pytest.approx(20.4)
    assert (spec["inversion_efficiency"], spec["slice_positions"], spec["accuracy"]) == (1.0, 1, 1e-4)
    assert [p.name for p in model.parameters] == ["T1", "T2"]


def selective_train(phases: str) -> Train:
    """Return 60 pulses spread over the Jiang lobes, with an inversion."""
    flips = np.array(models.build({"name": "mrf-fisp"}).spec["flip_angles"])[4::18][:57]
    n = len(flips)
    phase = np.zeros(n) if phases == "zero" else np.deg2rad(117) * np.arange(n) ** 2 / 2
    return Train(flips, phase, np.full(n, 0.01), 0.005, 0.02, 0.95, None)


@pytest.mark.parametrize("phases", ["zero", "quadratic"])
def test_slice_profile_equals_stepwise_pulses(phases: str) -> None:
    """Signals and tangents at the model's own positions, to 1e-3 of M0 and of the largest derivative."""
    train = selective_train(phases)
    position = isochromats.midpoints(slice_profile.EXTENT, 24)
    n = len(train.tr)
    signal, jac = model_of(train, slice_positions=24).signal_and_jacobian(TISSUES)
    reference = isochromats.signal(train, TISSUES, position=position, n_isochromats=n)
    assert np.abs(signal - reference).max() < 1e-3
    assert np.abs(signal - isochromats.signal(train, TISSUES)).max() > 1e-2, "the profile changes nothing"
    expected = isochromats.jacobian(train, TISSUES, position=position, n_isochromats=n)
    largest = np.abs(expected).max(axis=2, keepdims=True)
    assert np.abs((jac - expected) / largest).max() < 1e-3


@pytest.mark.parametrize("phases", ["zero", "quadratic"])
def test_slice_profile_converges_to_many_positions(phases: str) -> None:
    train = selective_train(phases)
    position = isochromats.midpoints(slice_profile.EXTENT, 200)
    reference = isochromats.signal(train, TISSUES, position=position, n_isochromats=len(train.tr))
    assert np.abs(model_of(train, slice_positions=100).signal(TISSUES) - reference).max() < 1e-3


@pytest.mark.parametrize("n_positions", [1, 24, 25])
@pytest.mark.parametrize("phase", [0.0, 1.1])
def test_small_tip_gives_one(n_positions: int, phase: float) -> None:
    """The signal of a tip of 1 mrad is that of an ideal pulse, to the square of the tip."""
    model = constant_train(1e-3, 1, slice_positions=n_positions, phases=[phase])
    signal = model.signal(np.array([[1.0, 0.1]]))[0, 0]
    assert abs(signal / (-1e-3j * np.exp(-0.005 / 0.1)) - 1) < 1e-6


@pytest.mark.parametrize("b1", [0.7, 1.0, 1.25])
@pytest.mark.parametrize("degrees", [5.0, 35.0, 70.0])
def test_rotation_equals_stepwise_rotation(degrees: float, b1: float) -> None:
    """All nine entries at every position, to a third of the 1e-3 asked of the signals."""
    angle = np.deg2rad(degrees) * b1
    position = isochromats.midpoints(slice_profile.EXTENT, 301)
    a, b = slice_profile.rotations(np.array([angle]), position)[:, 0, :2].T
    exact = isochromats.sinc_pulse(np.array(angle), position)
    # M+ of the rotated x, y, z axes, and their Mz, by the Cayley-Klein parameters
    transverse = np.stack([a.conj() ** 2 + b**2, 1j * (a.conj() ** 2 - b**2), -2j * a.conj() * b], axis=-1)
    longitudinal = np.stack([-2 * (a * b).imag, 2 * (a * b).real, np.abs(a) ** 2 - np.abs(b) ** 2], axis=-1)
    assert np.abs(transverse - (exact[:, 0] + 1j * exact[:, 1])).max() < 3e-4
    assert np.abs(longitudinal - exact[:, 2]).max() < 3e-4


def test_scaled_small_tip_profile_would_be_wrong() -> None:
    """At 70 degrees the tip angle of the scaled profile is off by more than 8 degrees somewhere, ours by 0.01."""
    angle, tip = np.deg2rad(70.0), 1e-6
    position = isochromats.midpoints(slice_profile.EXTENT, 301)
    a, b = slice_profile.rotations(np.array([angle]), position)[:, 0, :2].T
    exact, small = isochromats.sinc_pulse(np.array([angle, tip]), position)

    def tip_angle(matrices: Array) -> Array:
        return np.arctan2(np.hypot(matrices[:, 0, 2], matrices[:, 1, 2]), matrices[:, 2, 2])

    ours = 2 * np.arctan2(np.abs(b), np.abs(a))
    scaled = tip_angle(small) * angle / tip
    assert np.rad2deg(np.abs(ours - tip_angle(exact)).max()) < 0.01
    assert 8 < np.rad2deg(np.abs(scaled - tip_angle(exact)).max()) < 9
