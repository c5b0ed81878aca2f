"""IR-FLASH against the Bloch equations pulse by pulse, BART, closed forms, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models_case
import numpy as np
import pytest
from numpy.typing import NDArray

from crbsvd_plugin import models
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.spec import resolve

Array = NDArray[Any]
# columns: T1 in s, relative B1
TISSUES = np.array([[0.8, 1.0], [1.35, 0.85], [4.0, 1.12], [0.3, 0.7]])
PERIODIC = {
    "n_frames": 7, "pulses_per_frame": 3, "flip_angle": 0.3, "tr": 0.03, "ti": 0.02, "inversion_efficiency": 0.93,
    "recovery": 0.6,
}  # fmt: skip
SINGLE = PERIODIC | {"recovery": None}


def model_of(**settings: Any) -> Any:
    return models.build({"name": "ir-flash"} | settings)


def one_by_one(settings: dict[str, Any], theta: Array, *, repetitions: int = 400) -> Array:
    """Return the last of many repetitions of inversion, pulses and rest, Mz being followed from pulse to pulse."""
    frames, per_frame, angle = (settings[key] for key in ("n_frames", "pulses_per_frame", "flip_angle"))
    single = settings["recovery"] is None
    out = np.empty((len(theta), frames))
    for row, (t1, b1) in zip(out, theta, strict=True):

        def rest(mz: float, time: float, t1: float = t1) -> float:
            return 1 + (mz - 1) * float(np.exp(-time / t1))

        mz = 1.0
        for _ in range(1 if single else repetitions):
            mz = rest(-settings["inversion_efficiency"] * mz, settings["ti"])
            signal = []
            for _ in range(frames * per_frame):
                signal.append(mz * np.sin(b1 * angle))
                mz = rest(mz * np.cos(b1 * angle), settings["tr"])
            mz = mz if single else rest(mz, settings["recovery"])
        row[:] = np.reshape(signal, (frames, per_frame)).mean(axis=1)
    return out


@pytest.mark.parametrize(
    "settings",
    [
        PERIODIC,
        SINGLE,
        PERIODIC | {"flip_angle": 2.0},
        PERIODIC | {"n_frames": 1, "pulses_per_frame": 1},
        PERIODIC | {"ti": 0.0, "recovery": 0.0},
    ],
    ids=["periodic", "single", "beyond-90", "one-pulse", "no-rest"],
)
def test_frames_equal_pulses_one_by_one(settings: dict[str, Any]) -> None:
    """To rounding: after 400 repetitions of at least 0.6 s the first is forgotten, exp(-400 x 0.6 / 4)."""
    assert np.abs(model_of(**settings).signal(TISSUES) - one_by_one(settings, TISSUES)).max() < 1e-13


@pytest.mark.bart
@pytest.mark.parametrize("average", [1, 4])
def test_it_equals_bart_but_for_the_steady_state(average: int, tmp_path: Path) -> None:
    """`bart signal -F -I` has Mz for M* = R1 / R1*, R1* = R1 - ln(cos alpha) / TR, the limit of TR << T1*.

    Both have q = exp(-TR R1*), so that the difference is M* - R1 / R1* times 1 - q^n, to BART's single precision.
    """
    t1, tr, degrees, n = 0.9, 0.006, 8.0, 40
    (theirs,) = models_case.bart(
        tmp_path, "signal", "-F", "-I", "-1", f"{t1}:{t1}:1", "-r", tr, "-f", degrees, "-n", n, "--av-spokes", average
    )
    alpha = np.deg2rad(degrees)
    model = model_of(n_frames=n, pulses_per_frame=average, flip_angle=alpha, tr=tr, ti=0.0, b1=False)
    ours = model.signal(np.array([[t1]]))[0].real / np.sin(alpha)
    e, rate = np.exp(-tr / t1), 1 / t1 - np.log(np.cos(alpha)) / tr
    exact, limit = (1 - e) / (1 - e * np.cos(alpha)), 1 / t1 / rate
    decay = np.exp(-tr * rate * np.arange(n * average)).reshape(n, average).mean(axis=1)
    assert exact - limit > 1e-3  # a reason is needed at all
    assert np.abs(ours - theirs - (exact - limit) * (1 - decay)).max() < 1e-5


@pytest.mark.bart
def test_a_train_from_equilibrium_and_its_derivatives_equal_barts_phase_graphs(tmp_path: Path) -> None:
    """`bart epg -F -s 0`: ideal spoiling, read at the pulse, so that T2 has no part; an endless TI makes equilibrium.

    Its derivatives are theta ds/dtheta, of B1 times B1 once more (see test_fse); single precision, 6e-8 a pulse.
    """
    t1, b1, tr, degrees, n = 1.1, 0.9, 0.01, 15, 40
    options = ("-F", "-s", 0, "-1", t1, "-2", 0.08, "-b", b1, "-r", tr, "-f", degrees, "-n", n, "-u", 7)
    signal, _, scaled = models_case.bart(tmp_path, "epg", *options, outputs=3)
    model = model_of(n_frames=n, flip_angle=np.deg2rad(degrees), tr=tr, ti=1e5)
    ours, jac = model.signal_and_jacobian(np.array([[t1, b1]]))
    assert np.abs(-1j * ours[0] - signal).max() < 6e-8 * n
    for row, scale, column in ((0, t1, 0), (1, b1**2, 2)):
        assert np.abs(scaled[:, column]).max() > 0.01
        assert np.abs(-1j * scale * jac[0, row] - scaled[:, column]).max() < 6e-8 * n
    assert not scaled[:, 1].any()


def test_late_frames_are_the_steady_state_of_spoiled_echoes() -> None:
    """Ernst: sin a (1 - E) / (1 - E cos a), reached to exp(-20 s / 0.8 s)."""
    theta = TISSUES[[0, 3]]
    late = model_of(n_frames=4000, tr=0.005).signal(theta)[:, -1]
    a, e = np.pi / 30 * theta[:, 1], np.exp(-0.005 / theta[:, 0])
    assert np.abs(late - np.sin(a) * (1 - e) / (1 - e * np.cos(a))).max() < 1e-10


def test_at_once_and_after_long_waits() -> None:
    """TI = 0 gives -f sin a; a TI or a rest of many T1 make equilibrium, and the derivative by T1 vanish."""
    at_once = model_of(ti=0.0, inversion_efficiency=0.9, n_frames=1).signal(TISSUES)[:, 0]
    assert np.abs(at_once + 0.9 * np.sin(np.pi / 30 * TISSUES[:, 1])).max() < 1e-15
    signal, jac = model_of(ti=1e5, n_frames=1).signal_and_jacobian(TISSUES)
    assert np.abs(signal[:, 0] - np.sin(np.pi / 30 * TISSUES[:, 1])).max() < 1e-15
    assert np.abs(jac[:, 0]).max() < 1e-15
    rested = model_of(**PERIODIC | {"recovery": 1e5}).signal_and_jacobian(TISSUES)
    for found, expected in zip(rested, model_of(**SINGLE).signal_and_jacobian(TISSUES), strict=True):
        assert np.abs(found - expected).max() < 1e-13


def test_a_pulse_of_90_degrees_forgets() -> None:
    """Q = 0, where powers of it and their derivatives are 0 and 1: saturation recovery from the second pulse on."""
    model = model_of(n_frames=4, flip_angle=np.pi / 2, tr=0.3)
    theta = np.array([[0.9, 1.0]])
    signal, jac = model.signal_and_jacobian(theta)
    assert np.abs(signal[0, 1:] - (1 - np.exp(-0.3 / 0.9))).max() < 1e-15
    assert np.abs(jac[0, 0, 1:] + 0.3 / 0.9**2 * np.exp(-0.3 / 0.9)).max() < 1e-15


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["n_frames=0"], "ir-flash: n_frames is 0, expected 1 to 100000"),
        (["flip_angle=6"], "ir-flash: flip_angle is 6 rad, expected above 0, to 3.14159"),
        (["tr=0"], "ir-flash: tr is 0 s"),
        (["ti=-0.1"], "ir-flash: ti is -0.1 s"),
        (["ti=none"], "ti has a wrong type"),
        (["inversion_efficiency=1.1"], "inversion_efficiency is 1.1, expected 0 to 1"),
        (["recovery=nan"], "recovery is nan s"),
    ],
)
def test_settings_that_are_refused(settings: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        resolve("ir-flash", settings)
    assert "\n" not in str(error.value)
