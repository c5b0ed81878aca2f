"""BART as the simulator: which value is which fingerprint, derivatives, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import bart, models
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.spec import resolve

pytestmark = pytest.mark.bart
LOOK_LOCKER = "bart:signal -F -I -r0.005 -f8 -n40 -1 0.4:2.4:5"
SIM = "bart:sim --seq IR-FLASH,TR=0.005,TE=0.003,Nrep=12,pinv,ipl=0,ppl=0,Trf=0.00001,FA=8 --other ode-tol=3e-7"


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_NAMED", {})


def close(found: Any, expected: Any, tolerance: float) -> None:
    """Compare derivatives (N, T) relative to the largest entry of each."""
    size = np.abs(expected).max(axis=-1, keepdims=True)
    assert np.all(np.abs(found - expected) <= tolerance * size), (np.abs(found - expected) / size).max()


def test_multi_echo_gradient_echoes_against_their_formula() -> None:
    te, f0 = 0.002, np.array([-10.0, -2.0, 6.0])
    model = resolve("bart:signal -G -n7 -e0.002 -1 1:1:1 -2 0.02:0.1:4 -0 -10:14:3").model
    assert [(p.name, p.unit) for p in model.parameters] == [("T2star", "s"), ("w0", "rad/s")]
    t2 = 0.02 + 0.08 * np.arange(4) / 4
    theta = np.stack([axis.ravel() for axis in np.meshgrid(t2, 2 * np.pi * f0, indexing="ij")], axis=1)
    signal, jac = model.signal_and_jacobian(theta)  # refuses what it does not have
    t = te * np.arange(7)
    expected = np.exp((1j * theta[:, 1:] - 1 / theta[:, :1]) * t)
    # float32 of BART: 6e-8, of 2 pi w t and t / T2 too
    np.testing.assert_allclose(signal, expected, atol=1e-6)
    # rounding, 6e-8 of s and 6e-8 t / T2 from theta, times 1.8 / h with h = 0.06: 2e-6 |s| / theta, of which the
    # largest derivative is 0.1 or more; what the rule of sixth order leaves out is 36 h^6 = 2e-6
    close(jac[:, 0], expected * t / theta[:, :1] ** 2, 2.2e-5)
    # a step of w0 turns the last echo by 0.06 2 pi 8 Hz 12 ms = 0.036: 6e-8 1.8 / 0.036 = 3e-6, and theta as above
    close(jac[:, 1], 1j * t * expected, 1e-5)


def test_inversion_recovery_look_locker_against_its_formula() -> None:
    model = resolve(LOOK_LOCKER).model
    t1, tr, alpha = 0.4 + 0.4 * np.arange(5)[:, None], 0.005, np.deg2rad(8)

    def truth(t1: Any) -> Any:
        r1, steady = 1 / t1 - np.log(np.cos(alpha)) / tr, 1 / (1 - np.log(np.cos(alpha)) * t1 / tr)
        return steady - (1 + steady) * np.exp(-r1 * tr * np.arange(40))

    signal, jac = model.signal_and_jacobian(t1)
    np.testing.assert_allclose(signal, truth(t1), atol=2e-6)
    step = 1e-4
    numeric = (truth(t1 + step) - truth(t1 - step)) / (2 * step)
    # as above; the derivative by ln T1 is 0.13 to 0.46 of M0
    close(jac[:, 0], numeric, 1.8e-5)


def test_derivatives_of_bart_sim_are_its_own() -> None:
    """Those of a pulse in its middle: TI is half of its 10 us, TE half of it less, each a part in 1e3 to 1e4.

    BART solves the equations of every pulse and every rest to 3e-7, with the steps that the magnetisation needs, so
    derivatives by the logarithms of T1 and T2 are as good. Mz has 24 pieces, and its derivative is 11e-3 at its
    largest: 6.5e-4. What is transverse has 2 until it is spoiled, and 5e-3: 1.2e-4. A pulse of 2e-3 of a TR tilts by 8
    degrees, so that what relaxes in it differs by 2e-3 (1 - cos 8 degrees) = 2e-5.
    """
    model = resolve(f"{SIM} -1 0.5:1.5:3 --T2 0.05:0.1:2").model
    t1, t2 = (axis.ravel() for axis in np.meshgrid(0.5 + np.arange(3) / 3, [0.05, 0.075], indexing="ij"))
    signal, jac = model.signal_and_jacobian(np.stack([t1, t2], axis=1))
    half, te = 5e-6, 0.003 - 5e-6
    flash = {"name": "ir-flash", "n_frames": 12, "flip_angle": np.deg2rad(8), "tr": 0.005, "ti": half, "b1": False}
    expected, by_t1 = models.build(flash).signal_and_jacobian(t1[:, None])
    echo = 1j * np.exp(-te / t2)[:, None]
    np.testing.assert_allclose(signal, echo * expected, atol=24 * 3e-7)
    close(jac[:, 0], echo * by_t1[:, 0], 6.7e-4)
    close(jac[:, 1], echo * expected * te / t2[:, None] ** 2, 1.4e-4)


def test_steady_state_magnetisation_takes_the_place_of_t2() -> None:
    model = resolve("bart:signal -F -I -r0.005 -n9 -1 0.5:1.5:3 -3 0.4:0.8:2").model
    assert [p.name for p in model.parameters] == ["T1", "Mss"]
    model.signal(np.array([[0.5 + 1 / 3, 0.6]]))


def test_a_basis_from_a_command_of_bart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, name = "bart:signal -F -I -r0.005 -f8 -n60 -1 0.3:3:200", str(tmp_path / "b")
    assert main(["basis", spec, "-o", name, "--rank", "3", "--no-conjugate"]) == 0
    basis = Basis.load(name)
    monkeypatch.setattr(models, "_NAMED", {})
    with pytest.raises(UserError, match=r"needs the model bart:signal"):
        basis.model()
    monkeypatch.setattr(bart, "run", None)  # a basis starts no program either
    basis = Basis.load(name)
    monkeypatch.undo()
    model = resolve(spec).model
    assert basis.model().spec == model.spec
    theta = (0.3 + 2.7 * np.arange(0, 200, 20) / 200)[:, None]
    signal = model.signal(theta)
    left = np.linalg.norm(signal - basis.expand(basis.project(signal)), axis=1) / np.linalg.norm(signal, axis=1)
    assert left.max() < 0.05  # three exponentials fewer than 5 % off is what the basis is for


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("bart:pics -l2 a b c", r"is no command that simulates, expected bart:signal or bart:sim"),
        ("bart:signal -F -1 0.5:1:3 ../out", r"has '../out', expected options out of .*no names of outputs"),
        ("bart:signal -F -1 0.5:1:3 --output=x", r"has '--output=x', expected options"),
        ("bart:signal -F -1", r"-1 has no value"),
        ("bart:signal -F -1 0.5:1", r"range '0.5:1' of BART is none"),
        ("bart:signal -F -1 0.5:0.2:3", r"range '0.5:0.2:3' of BART is none"),
        ("bart:signal -F -n3 -1 1:1:1", r"has no range with several values"),
        ("bart:signal -F -I -1 0.5:1:3 -2 0.1:0.2:3 -3 0.1:0.2:3", r"ranges of -2 and -3"),
        ("bart:signal -T -n5 -e0.01 -1 0.5:1:3 -2 0.1:0.2:3", r"the signal does not depend on T1; leave .* -1 out"),
        ("bart:sim --seq nonsense -1 0.5:1:3", r"BART failed .*nonsense"),
        ("bart:signal 'x", r"cannot be read \(No closing quotation\)"),
    ],
)
def test_what_cannot_be_simulated_is_refused(text: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        resolve(text)


def test_settings_are_bart_s_own() -> None:
    with pytest.raises(UserError, match=r"'te' is no setting, expected the options of BART"):
        resolve(LOOK_LOCKER, ["te=5 ms"])
    assert resolve(LOOK_LOCKER, ['nuisance=["T1"]']).model.parameters[0].nuisance
