"""Balanced SSFP fingerprinting against Bloch rotations, BART, closed forms, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models_case
import numpy as np
import pytest
from numpy.typing import NDArray
from reference import gradient_echo

from crbsvd_plugin import crb, models, testing
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.spec import resolve

Array = NDArray[Any]
# columns: T1 and T2 in s, w0 in rad/s, relative B1
TISSUES = np.array([[0.8, 0.05, 0.0, 1.0], [1.35, 0.095, 130.0, 0.85], [4.0, 2.0, -240.0, 1.1], [0.38, 0.1, 77.0, 1.2]])
CASES: dict[str, dict[str, Any]] = {
    "alternating": {},
    "quadratic": {"phases": (0.4 * np.arange(30) ** 2).tolist(), "te": 0.004},
    "repeated": {"recovery": 0.4},
    "prepared": {
        "ti": None,
        "recovery": 1.0,
        "blocks": [
            {"before": 0, "kind": "inversion", "efficiency": 0.9, "delay": 0.02},
            {"before": 11, "kind": "delay", "time": 0.3},
            {"before": 11, "kind": "t2-preparation", "te": 0.04},
        ],
    },
}


def model_of(**settings: Any) -> Any:
    rng = np.random.default_rng(3)
    train = {"flip_angles": rng.uniform(0, 1.2, 30).tolist(), "tr": rng.uniform(0.009, 0.014, 30).tolist()}
    return models.build({"name": "bssfp-mrf", "b1": True} | train | settings)


@pytest.mark.parametrize("case", CASES)
def test_signals_equal_bloch_rotations(case: str) -> None:
    """To the rounding of some 200 operators, and the table of pulses, 3e-15 each; derivatives to the differences'."""
    model = model_of(**CASES[case])
    spec = model.spec
    inversion = {"before": 0, "kind": "inversion", "efficiency": spec["inversion_efficiency"], "delay": spec["ti"]}
    blocks = [*([] if spec["ti"] is None else [inversion]), *spec["blocks"]]
    te = [tr / 2 if spec["te"] is None else spec["te"] for tr in spec["tr"]]
    train = {key: spec[key] for key in ("flip_angles", "phases", "tr", "recovery")}
    for theta, signal in zip(TISSUES, model.signal(TISSUES), strict=True):
        tissue = dict(zip(("T1", "T2", "w0", "B1"), theta, strict=True))
        expected = gradient_echo.signal(tissue, te=te, dephased=False, blocks=blocks, **train)
        assert np.abs(signal - expected).max() < 1e-12
    testing.check_model(model, TISSUES)


@pytest.mark.bart
@pytest.mark.parametrize("w0", [0.0, 60.0])
def test_it_equals_barts_bloch_equations(w0: float, tmp_path: Path) -> None:
    """`bart sim`: alpha/2, then equal pulses of 0.1 us; precession and first pulse the other way round.

    It solves the equations of 7 pulses and 7 rests to 3e-7 each, 4.2e-6 in all. The derivatives are those by R1 and R2,
    -T^2 d/dT; by the logarithms, which are as good as the signal (see test_simulator), they are 1.4e-2 and more: 3e-4.
    """
    t1, t2, tr, n = 1.0, 0.1, 0.0045, 6
    sequence = f"IR-BSSFP,TR={tr},TE={tr / 2},Nrep={n},pinv,ipl=0,isp=0.005,ppl={tr / 2},Trf=1e-7,FA=45,BWTP=4,off={w0}"
    options = ("--ODE", "--seq", sequence, "--other", "ode-tol=3e-7", "-1", f"{t1}:{t1}:1", "-2", f"{t2}:{t2}:1")
    signal, jac = models_case.bart(tmp_path, "sim", *options, outputs=2)
    model = models.build(
        {"name": "bssfp-mrf", "flip_angles": [np.pi / 8] + [np.pi / 4] * n, "tr": [tr / 2] + [tr] * n, "ti": 0.005}
    )
    ours, ours_jac = (rows[0, ..., 1:] for rows in model.signal_and_jacobian(np.array([[t1, t2, -w0]])))
    assert np.abs(ours + signal).max() < 4.2e-6
    for row, value, index in ((0, t1, 0), (1, t2, 2)):  # of R1, M0, R2, B1
        assert np.abs(jac[index]).max() / value > 1.3e-2
        assert np.abs(value**2 * ours_jac[row] - jac[index]).max() < 3e-4 * np.abs(jac[index]).max()


def test_equal_pulses_reach_the_steady_state() -> None:
    """On resonance with phases by turns: sin a (1 - E1) / (1 - (E1 - E2) cos a - E1 E2) exp(-TE/T2), reached to 1e-11.

    The slower of the two modes decays in a time between T2 and T1.
    """
    a, tr = 0.7, 0.005
    theta = np.array([[0.3, 0.08, 0.0], [0.5, 0.5, 0.0]])
    model = models.build({"name": "bssfp-mrf", "flip_angles": [a] * 3000, "tr": tr})
    e1, e2 = np.exp(-tr / theta[:, 0]), np.exp(-tr / theta[:, 1])
    steady = np.sin(a) * (1 - e1) / (1 - (e1 - e2) * np.cos(a) - e1 * e2) * np.exp(-tr / 2 / theta[:, 1])
    assert np.abs(model.signal(theta)[:, -1] + 1j * steady).max() < 1e-11


def test_off_resonance_turns_the_first_echo_and_repeats_every_turn() -> None:
    """exp(i w0 TE) before anything else; with equal TRs and all signals at TE, w0 + 2 pi / TR adds that phase alone."""
    tr, te, w0 = 0.005, 0.002, 170.0
    model = models.build({"name": "bssfp-mrf", "flip_angles": [0.3, 0.9, 0.5, 0.7], "tr": tr, "te": te, "ti": None})
    here, there = model.signal(np.array([[1.0, 0.1, w0], [1.0, 0.1, w0 + 2 * np.pi / tr]]))
    assert here[0] == pytest.approx(-1j * np.sin(0.3) * np.exp((1j * w0 - 1 / 0.1) * te), abs=1e-14)
    assert np.abs(there - here * np.exp(2j * np.pi * te / tr)).max() < 1e-13


def test_the_other_side_of_resonance_is_the_conjugate() -> None:
    """But for the sign, with pulses of phase 0 and pi: so a basis may count conjugates, and is real."""
    model = models.build({"name": "bssfp-mrf"})
    theta = np.array([[1.2, 0.08, 140.0], [1.2, 0.08, -140.0]])
    there, back = model.signal(theta)
    assert np.abs(back + there.conj()).max() < 1e-12
    assert resolve("bssfp-mrf").conjugates
    assert not resolve("bssfp-mrf", ["flip_angles=[0.3, 0.4]", "phases=[0.0, 1.0]"]).conjugates


def test_default_train() -> None:
    """1000 pulses within the published ranges, TR varying at random, angles wandering; the same everywhere."""
    spec = resolve("bssfp-mrf").model.spec
    degrees, tr = np.rad2deg(spec["flip_angles"]), 1e3 * np.array(spec["tr"])
    assert len(degrees) == len(tr) == 1000
    assert 5 <= degrees.min() < 15 < 50 < degrees.max() <= 60
    assert 10.5 <= tr.min() < 10.6 < 13.9 < tr.max() <= 14
    assert abs(np.corrcoef(tr[1:], tr[:-1])[0, 1]) < 0.1
    assert np.corrcoef(degrees[1:], degrees[:-1])[0, 1] > 0.9
    x = 16807 * 495 % (2**31 - 1)
    assert tr[0] == pytest.approx(10.5 + 3.5 * x / (2**31 - 1))


def test_off_resonance_costs_little_precision() -> None:
    """Not knowing w0 raises the bounds of T1 and T2 by less than half: the train tells w0 as well."""
    model = models.build({"name": "bssfp-mrf"})
    signal, jac = model.signal_and_jacobian(np.array([[1.1, 0.07, 90.0]]))
    known = crb.orthogonalise(signal, jac[:, :2]).bound[0]
    unknown = crb.orthogonalise(signal, jac, targets=[0, 1]).bound[0]
    assert (known <= unknown).all()
    assert (unknown < 1.5 * known).all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["flip_angles=[]"], "bssfp-mrf: flip_angles is empty"),
        (["flip_angles=[45.0]"], "bssfp-mrf: flip_angles reach 45 rad, expected at most 2 pi; degrees"),
        (["tr=[0.01]"], "bssfp-mrf: tr has 1 entries, expected 1000"),
        (["tr=0"], "bssfp-mrf: tr falls to 0.0 s"),
        (["te=20 ms"], "bssfp-mrf: te is 0.02 s, expected between 0 and the shortest tr"),
        (["ti=-1"], "bssfp-mrf: ti is -1.0 s"),
        (["slice_positions=3"], "bssfp-mrf: setting 'slice_positions' is unknown"),
    ],
)
def test_settings_that_are_refused(settings: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        resolve("bssfp-mrf", settings)
    assert "\n" not in str(error.value)
