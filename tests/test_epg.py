"""The phase-graph engine where no model of gradient echoes takes it: off resonance, RF spoiling, any columns."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import models_case
import numpy as np
import pytest
from numpy.typing import NDArray

from crbsvd_plugin.models import epg
from crbsvd_plugin.models.pulses import hard_pulse
from crbsvd_plugin.models.schedule import PULSE, READ, RELAX, SHIFT, Schedule

Array = NDArray[Any]
# columns of the engine: times in s, w0 in rad/s
TISSUES = np.array([[0.8, 0.05, 0.9, 130.0], [1.35, 0.095, 1.1, -310.0], [4.0, 2.0, 1.0, 0.0]])


def bloch(schedule: Array, theta: Array, n_isochromats: int) -> Array:
    """Return the mean magnetisation of isochromats, which a shift turns by multiples of 2 pi / n."""
    t1, t2, b1, w0 = theta
    m = np.zeros((n_isochromats, 3))
    m[:, 2] = 1
    turn = 2 * np.pi * np.arange(n_isochromats) / n_isochromats
    signal = []
    for code, x, y in schedule:
        if code == PULSE:
            axis, k = np.array([np.cos(y), np.sin(y), 0.0]), x * b1  # Rodrigues: pulses turn right-handed, z to -y
            along = (m @ axis)[:, None] * axis
            m = along + np.cos(k) * (m - along) - np.sin(k) * np.cross(m, axis)
        elif code == SHIFT:
            m = _precessed(m, turn)
        elif code == RELAX:
            m = _relaxed(_precessed(m, w0 * x), x, t1, t2)
        elif code == READ:
            later = _relaxed(_precessed(m, w0 * x), x, t1, t2)
            signal.append((later[:, 0] + 1j * later[:, 1]).mean() * np.exp(-1j * y))
    return np.array(signal)


def _precessed(m: Array, angle: Any) -> Array:
    plane = (m[:, 0] + 1j * m[:, 1]) * np.exp(1j * angle)
    return np.stack([plane.real, plane.imag, m[:, 2]], axis=1)


def _relaxed(m: Array, time: float, t1: float, t2: float) -> Array:
    e1, e2 = np.exp(-time / t1), np.exp(-time / t2)
    return m * [e2, e2, e1] + [0, 0, 1 - e1]


def sequence() -> Array:
    """Return 12 pulses of random angles and phases, echoes between, with dephasing after some of them."""
    rng = np.random.default_rng(8)
    schedule = Schedule().invert(0.9).relax(0.013)
    for n in range(12):
        angle, phase, time = rng.uniform(0.2, 2.5), rng.uniform(-np.pi, np.pi), rng.uniform(0.004, 0.02)
        schedule.pulse(angle, phase).read(0.3 * time, 0.7 * phase).relax(time)
        if n % 3:
            schedule.shift()
    return schedule.rows


def simulate(theta: Array, tangents: list[int]) -> Array:
    rows = sequence()
    return -1j * epg.simulate(rows, hard_pulse(6.0), theta, tangents=tangents, accuracy=0.0)


def test_off_resonance_equals_isochromats() -> None:
    """The inversion of the start is what a pulse of pi makes of Mz alone, times the efficiency."""
    rows = sequence()[1:]  # from equilibrium
    signal = -1j * epg.simulate(rows, hard_pulse(6.0), TISSUES, tangents=(), accuracy=0.0)[:, 0]
    expected = [bloch(rows, tissue, 40) for tissue in TISSUES]
    # rounding of some 50 operators, and the table of the pulse, step^4 / 384 / 16 = 3e-15
    assert np.abs(signal - expected).max() < 1e-12
    assert np.abs(signal - simulate(TISSUES, [])[:, 0]).max() > 0.1, "the inversion changes nothing"


@pytest.mark.parametrize("order", [*itertools.permutations(range(4), 2), (3, 1, 0, 2), (3,)])
def test_tangents_in_any_order_equal_differences(order: tuple[int, ...]) -> None:
    """Five-point differences with h = 1e-3 theta: h^4 / 30 times the fifth derivative, and rounding 1e-15 / h."""
    rows = simulate(TISSUES, list(order))
    steps = np.array([[1e-3, 1e-3, 1e-3, 0.0]] * 3) * TISSUES
    steps[:, 3] = 0.05  # of w0: angles of up to 0.2 s x 0.05 = 0.01 rad, to the fourth power
    for row, column in enumerate(order, start=1):
        moved = []
        for factor in (-2, -1, 1, 2):
            theta = TISSUES.copy()
            theta[:, column] += factor * steps[:, column]
            moved.append(simulate(theta, [])[:, 0])
        a, b, c, d = moved
        numeric = (a - 8 * b + 8 * c - d) / (12 * steps[:, column, None])
        largest = np.abs(numeric).max(axis=1, keepdims=True)
        assert np.abs((rows[:, row] - numeric) / largest).max() < 1e-8


@pytest.mark.bart
def test_rf_spoiled_echoes_and_their_derivatives_equal_barts(tmp_path: Path) -> None:
    """`bart epg -F -s 1`: phases that grow by 50, 100, 150 .. degrees, read at the pulse.

    Its derivatives are theta ds/dtheta, of B1 times B1 once more (see test_fse), and 0.8.00 receives at minus the phase
    of the pulse. That phase is summed in single precision, where 2 pi has an ulp of 4.8e-7: half of it a pulse, in
    transmitter and receiver, of signals below 0.25; the operators round 6e-8 a pulse besides. Off-resonance changes
    nothing: a gradient that dephases by 2 pi has isochromats of all phases anyhow.
    """
    t1, t2, b1, hz, tr, degrees, n = 1.1, 0.08, 0.9, 7.0, 0.01, 15.0, 40
    options = ("-F", "-s", 1, "-1", t1, "-2", t2, "-b", b1, "-o", hz, "-r", tr, "-f", degrees, "-n", n, "-u", 7)
    signal, _, scaled = models_case.bart(tmp_path, "epg", *options, outputs=3)
    phases = np.deg2rad(50) * np.cumsum(np.arange(n))
    schedule = Schedule()
    for phase in phases:
        schedule.pulse(np.deg2rad(degrees), phase).read(0.0, -phase).relax(tr).shift()
    theta, columns = np.array([[t1, t2, b1, 2 * np.pi * hz]]), (epg.T1, epg.T2, epg.B1)
    states = epg.simulate(schedule.rows, hard_pulse(1.0), theta, tangents=columns, accuracy=0.0)
    signal_of_ours, *jac = -1j * states[0]
    assert np.abs(signal_of_ours - signal).max() < 1.2e-7 * n
    for row, scale, theirs in zip(jac, (t1, t2, b1**2), scaled.T[:3], strict=True):
        assert np.abs(scale * row - theirs).max() < 1.2e-7 * n
        assert np.abs(theirs).max() > 0.01


def test_a_spin_echo_undoes_off_resonance() -> None:
    """90 - tau - 180 - tau: the phase of w0 is gone, and what is left is exp(-2 tau / T2)."""
    tau = 0.02
    rows = Schedule().pulse(np.pi / 2, np.pi / 2).relax(tau).pulse(np.pi, 0.0).read(tau, 0.0).rows
    theta = TISSUES * [1, 1, 0, 1] + [0, 0, 1, 0]
    echo = epg.simulate(rows, hard_pulse(4.0), theta, tangents=(epg.W0,), accuracy=0.0)
    assert np.abs(np.abs(echo[:, 0, 0]) - np.exp(-2 * tau / theta[:, 1])).max() < 1e-13
    assert np.abs(echo[:, 1]).max() < 1e-13
