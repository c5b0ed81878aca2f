"""Fast spin echo against isochromats, BART, closed forms, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models_case
import numpy as np
import pytest
from numpy.typing import NDArray

from crbsvd_plugin import crb, models
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.spec import resolve

Array = NDArray[Any]
# columns: T2 and T1 in s, relative B1
TISSUES = np.array([[0.05, 0.8, 1.0], [0.095, 1.35, 0.85], [2.0, 4.0, 1.12], [0.1, 0.38, 0.7]])
ANGLES = [2.6, 1.8, 1.1, 3.3, 0.6, 1.3, np.pi, 1.9, 2.2, 0.3, 1.5]


def cpmg(angles: Any, spacing: float, theta: Array, *, saturation: float = 0.0) -> Array:
    """Return echoes of isochromats along crushers: excitation about y, refocusing about x, by rotation matrices.

    2 T crushers of j turns / n each: with n > 2 T isochromats the mean is the integral over a voxel.
    """
    n = 2 * len(angles) + 3
    plane = 2 * np.pi * np.arange(n) / n
    out = np.empty((len(theta), len(angles)), np.complex128)
    for row, (t2, t1, b1) in zip(out, theta, strict=True):
        e1, e2 = np.exp(-spacing / 2 / t1), np.exp(-spacing / 2 / t2)
        mz0, tip = 1 - saturation, b1 * np.pi / 2
        xy, z = np.full(n, mz0 * np.sin(tip), np.complex128), np.full(n, mz0 * np.cos(tip))
        for i, angle in enumerate(angles):
            xy, z = xy * e2 * np.exp(1j * plane), 1 + (z - 1) * e1
            c, s = np.cos(b1 * angle), np.sin(b1 * angle)
            y, z = c * xy.imag - s * z, s * xy.imag + c * z
            xy = (xy.real + 1j * y) * np.exp(1j * plane) * e2
            z = 1 + (z - 1) * e1
            row[i] = xy.mean()
    return out


@pytest.mark.parametrize("angles", [ANGLES, ANGLES[:1], [np.pi] * 6], ids=["random", "one", "180"])
def test_echoes_equal_isochromats(angles: list[float]) -> None:
    """To the rounding of some 50 operators, and 3e-15 of the table of pulses."""
    model = models.build({"name": "fse", "flip_angles": angles, "echo_spacing": 0.0071})
    assert np.abs(model.signal(TISSUES) - cpmg(angles, 0.0071, TISSUES)).max() < 1e-12


def test_what_was_saturated_before_only_scales_the_echoes() -> None:
    """Recovery during the train never comes to an echo: so there is no setting for TR."""
    whole, half = (cpmg(ANGLES, 0.01, TISSUES, saturation=s) for s in (0.0, 0.5))
    assert np.abs(half - whole / 2).max() < 1e-14


@pytest.mark.bart
@pytest.mark.parametrize("b1", [1.0, 0.9, 0.8])
def test_mese_and_its_derivatives_equal_barts(b1: float, tmp_path: Path) -> None:
    """`bart epg -C` (0.8.00 refocuses with 180 degrees whatever -f says), single precision: some 1e-7 a pulse.

    Its derivatives are theta ds/dtheta, of B1 times B1 once more: that the closed form of the first echo is
    sin(90 B1)^3 exp(-E / T2) tells who is right.
    """
    t1, t2, spacing, n = 1.1, 0.08, 0.009, 14
    signal, _, scaled = models_case.bart(
        tmp_path, "epg", "-C", "-1", t1, "-2", t2, "-b", b1, "-e", spacing, "-n", n, "-u", 7, outputs=3
    )
    model = models.build({"name": "mese", "n_echoes": n, "echo_spacing": spacing, "t1": None})
    ours, jac = model.signal_and_jacobian(np.array([[t2, t1, b1]]))
    assert np.abs(ours[0] - signal).max() < 1e-6 * n
    for row, scale, column in ((0, t2, 1), (1, t1, 0), (2, b1**2, 2)):
        assert np.abs(scale * jac[0, row] - scaled[:, column]).max() < 1e-6 * n
    angle = np.pi / 2 * b1
    by_b1 = 3 * np.sin(angle) ** 2 * np.cos(angle) * np.pi / 2 * np.exp(-spacing / t2)
    assert jac[0, 2, 0] == pytest.approx(by_b1, abs=1e-9)


def test_180_degrees_decay_with_t2_alone() -> None:
    """T1 has no effect, B1 none of first order; at B1 = 1 the echo at n E is exp(-n E / T2)."""
    model = models.build({"name": "mese", "n_echoes": 20, "t1": None})
    signal, jac = model.signal_and_jacobian(TISSUES * [1, 1, 0] + [0, 0, 1])
    times = 0.01 * np.arange(1, 21)
    assert np.abs(signal - np.exp(-times / TISSUES[:, :1])).max() < 1e-13
    assert np.abs(jac[:, 0] - times * signal / TISSUES[:, :1] ** 2).max() < 1e-10
    assert np.abs(jac[:, 1]).max() < 1e-13
    assert np.abs(jac[:, 2]).max() < 1e-8  # of the table of pulses, step^3 x 20 pulses


def test_longer_trains_with_the_first_angles_have_the_same_first_echoes() -> None:
    long, short = (models.build({"name": "fse", "flip_angles": ANGLES[:n]}) for n in (11, 4))
    assert np.abs(long.signal(TISSUES)[:, :4] - short.signal(TISSUES)).max() < 1e-15


def test_echoes_vanish_late_and_are_whole_at_once() -> None:
    """t to 0: full refocusing gives 1; t to infinity: nothing is left (exp(-1 / 0.02))."""
    at_once = models.build({"name": "mese", "n_echoes": 2, "echo_spacing": 1e-9, "b1": False}).signal(np.array([[0.1]]))
    late = models.build({"name": "fse", "echo_spacing": 1.0}).signal(np.array([[0.02, 1.0, 0.9]]))
    assert np.abs(at_once - 1).max() < 1e-7
    assert np.abs(late).max() < 1e-20


def test_default_angles_fall_and_rise() -> None:
    angles = np.rad2deg(resolve("fse").model.spec["flip_angles"])
    assert angles[0] == pytest.approx(150)
    assert angles[-1] == pytest.approx(120, abs=1e-6)
    assert 60 < angles.min() < 80
    assert len(angles) == 80


def test_low_angles_make_t1_matter() -> None:
    """The bound of T2 with T1 unknown is larger than with T1 known, but finite: T1 is worth being a nuisance."""
    theta = np.array([[0.06, 1.1, 0.95]])
    bounds = {}
    for t1 in (None, 1.1):
        model = models.build({"name": "fse", "t1": t1})
        signal, jac = model.signal_and_jacobian(theta if t1 is None else theta[:, [0, 2]])
        bounds[t1] = crb.orthogonalise(signal, jac, targets=[0]).bound[0, 0]
    assert 1.05 * bounds[1.1] < bounds[None] < 100 * bounds[1.1]


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("fse", ["flip_angles=[]"], "fse: flip_angles is empty"),
        ("fse", ["flip_angles=[nan, 1.0]"], "fse: flip_angles holds 1 non-finite"),
        ("fse", ["flip_angles=[120.0]"], "fse: flip_angles reach 120 rad"),
        ("fse", ["echo_spacing=0"], "fse: echo_spacing is 0 s, expected above 0, to 1"),
        ("fse", ["echo_spacing=nan"], "fse: echo_spacing is nan s"),
        ("fse", ["t1=-1"], "fse: t1 is -1 s, expected 0.01 to 20"),
        ("mese", ["n_echoes=0"], "mese: n_echoes is 0, expected 1 to 10000"),
        ("mese", ["flip_angles=[1.0]"], "mese: setting 'flip_angles' is unknown"),
    ],
)
def test_settings_that_are_refused(name: str, settings: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        resolve(name, settings)
    assert "\n" not in str(error.value)
