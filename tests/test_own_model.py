"""A user's own model: what it may be, how its derivatives are found, what is refused, and that no basis loads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import checkup, derivatives, models
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.model import Parameter, SignalModel
from crbsvd_plugin.spec import resolve
from crbsvd_plugin.user import UserModel, probes

HEAD = """
import numpy as np
t = np.arange(1, 24) * 0.01
parameters = [("T2", "s", 0.02, 0.2), ("w0", "rad/s", -200.0, 200.0)]
"""
# complex, and analytic in both parameters
SIGNAL = HEAD + "def decay(theta):\n    return np.exp((1j * theta[:, 1:] - 1 / theta[:, :1]) * t)\n"
# the same of a kind that complex numbers do not get through
REAL_ONLY = (
    HEAD
    + "def decay(theta):\n    a, b = np.abs(theta).T[:, :, None]\n"
    + ("    return np.exp((1j * np.sign(theta[:, 1:].real) * b - 1 / a) * t)\n")
)
CLASS = (
    HEAD
    + """
class Decay:
    n_frames = 23
    def __init__(self, scale=1.0, wrong=1.0):
        self.scale, self.wrong = scale, wrong
    def signal(self, theta):
        return self.scale * np.exp((1j * theta[:, 1:] - 1 / theta[:, :1]) * t)
    def signal_and_jacobian(self, theta):
        s = self.signal(theta)
        return s, np.stack([s * t / theta[:, :1] ** 2 * self.wrong, 1j * t * s], axis=1)
"""
)
PARAMETERS = (Parameter("T2", "s", 0.02, 0.2), Parameter("w0", "rad/s", -200.0, 200.0))


def truth(theta: Any) -> Any:
    t = np.arange(1, 24) * 0.01
    signal = np.exp((1j * theta[:, 1:] - 1 / theta[:, :1]) * t)
    return signal, np.stack([signal * t / theta[:, :1] ** 2, 1j * t * signal], axis=1)


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_NAMED", {})


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "how", "tolerance"),
    # circle: eps |s| / h of 8 values, with h down to 1 % of theta / 16; differences: eps^(4/5) of a fourth-order rule,
    # times a factor for w0, whose fifth derivative is (w t)^5
    [(SIGNAL, "complex step", 1e-10), (REAL_ONLY, "differences", 1e-7)],
)
def test_derivatives_of_a_function_without(tmp_path: Path, text: str, how: str, tolerance: float) -> None:
    model = UserModel(write(tmp_path, text), "decay")
    assert isinstance(model, SignalModel)
    assert model.derivatives == how
    # the ends of both ranges, and off-resonance zero, are among them
    theta = np.array([[0.02, -200.0], [0.2, 200.0], [0.05, 0.0], [0.1, 37.0], [0.033, -3.0]])
    if how == "differences":
        theta = theta[[0, 1, 3, 4]]  # |w0| has no derivative at 0
    signal, jac = model.signal_and_jacobian(theta)
    expected = truth(theta)
    np.testing.assert_allclose(signal, expected[0], rtol=1e-14)
    size = np.abs(expected[1]).max(axis=2, keepdims=True)
    assert np.all(np.abs(jac - expected[1]) <= tolerance * size)


def test_a_step_that_is_too_long_is_shortened() -> None:
    # 1 % of w0 turns the last frame by 20 rad: without control of the step both rules are off by more than everything
    t = np.linspace(0, 2.0, 9)
    theta, parameter = np.array([[1000.0], [-700.0]]), (Parameter("w0", "rad/s", -2000.0, 2000.0),)
    for way in (derivatives.complex_step, derivatives.differences):
        found = way(lambda theta: np.exp(1j * theta * t), theta, parameter)
        expected = 1j * t * np.exp(1j * theta * t)
        # eps w t / (h t) at best; (h t)^4 / 30 of differences balances it near 1e-10
        assert np.abs(found[:, 0] - expected).max() <= 1e-8 * 2.0


def test_differences_stay_within_the_range() -> None:
    def strict(theta: Any) -> Any:
        assert np.all((theta >= 0.5) & (theta <= 0.501)), theta
        return theta ** np.arange(1, 4)

    theta = np.array([[0.5], [0.501], [0.5004]])
    found = derivatives.differences(strict, theta, (Parameter("x", "", 0.5, 0.501),))
    np.testing.assert_allclose(found[:, 0], np.arange(1, 4) * theta ** np.arange(3), rtol=1e-9)


def test_a_class_with_derivatives_and_settings_from_a_toml_file(tmp_path: Path) -> None:
    write(tmp_path, CLASS)
    (tmp_path / "mine.toml").write_text('name = "mine.py:Decay"\nscale = 3.0\n')
    spec = resolve(str(tmp_path / "mine.toml"))
    theta = probes(spec.model.parameters, 5)
    np.testing.assert_allclose(spec.model.signal(theta), 3 * truth(theta)[0], rtol=1e-14)
    assert spec.model.parameters == PARAMETERS
    # no prior is told: all of the ranges, evenly in log T2 (a factor of 10) and in w0
    (part,) = spec.prior.atoms(spec.model.parameters)
    assert abs(np.median(np.log(part.theta[:, 0])) - np.log(0.02 * 10**0.5)) < 0.01
    assert abs(np.median(part.theta[:, 1])) < 1


def test_parameters_and_priors_of_the_toml_file(tmp_path: Path) -> None:
    write(tmp_path, SIGNAL)
    (tmp_path / "mine.toml").write_text(
        'name = "mine.py:decay"\n[[parameters]]\nname = "T2x"\nunit = "s"\nlow = 0.03\nhigh = 0.1\n'
        '[[parameters]]\nname = "w"\nunit = "rad/s"\nlow = -9.0\nhigh = 9.0\nnuisance = true\n'
        '[[prior.tissues]]\nlabel = "a"\nT2x = { kind = "grid", low = "40 ms", high = 0.1, n = 3 }\nw = 0.0\n'
        "[prior]\n".replace("[prior]\n", "")
    )
    spec = resolve(str(tmp_path / "mine.toml"))
    assert spec.model.parameters[1] == Parameter("w", "rad/s", -9.0, 9.0, nuisance=True)
    np.testing.assert_allclose(spec.prior.atoms(spec.model.parameters)[0].theta[:, 0], [0.04, 0.06, 0.08])
    assert spec.fit_prior.name == "ranges"


@pytest.mark.parametrize(
    ("text", "name", "match"),
    [
        ("x = (", "f", r"mine.py fails when it is loaded: SyntaxError"),
        ("raise SystemExit(3)", "f", r"fails when it is loaded: SystemExit: 3 \(line 1 of mine.py\)"),
        (SIGNAL, "dekay", r"has no class or function 'dekay'; it has decay \(did you mean 'decay'\?\)"),
        ("def f(theta):\n    return theta", "f", r"does not say what its parameters are"),
        (HEAD + "parameters = [('T1', 's', 1, 1)]\ndef f(theta): return theta", "f", r"no finite range"),
        (
            HEAD + "def f(theta):\n    return 1 / 0",
            "f",
            r"the signal fails: ZeroDivisionError: .* \(line 6 of mine.py\)",
        ),
        (HEAD + "def f(theta):\n    return theta[0]", "f", r"the signal has shape \(2,\), expected \(3, 2\)"),
        (HEAD + "def f(theta):\n    return theta.astype(str)", "f", r"the signal has dtype <U32"),
        (HEAD + "def f(theta):\n    return 0 * theta / 0", "f", r"that are not finite, first at theta = \["),
        (HEAD + "rng = np.random.default_rng()\ndef f(theta):\n    return theta + rng.random()", "f", "another signal"),
        (HEAD + "def f(theta):\n    return theta / theta.sum()", "f", r"the signals of a batch and of one atom differ"),
        (SIGNAL.replace('"s"', '"ms"'), "decay", r"T2 is in 'ms', expected SI units: s"),
        (HEAD + "def f(theta, te):\n    return theta", "f", r"missing a required argument: 'te'"),
        (CLASS.replace("1j * t * s]", "t * s]"), "Decay", r"d/dw0 is off by 1.4 of its largest entry"),
        (CLASS.replace("wrong=1.0", "wrong=1.25"), "Decay", r"d/dT2 is off by 0.25 .* \(it is about 1.25 times"),
        (CLASS.replace(", 1j * t * s]", "]"), "Decay", r"the derivative has shape \(3, 1, 23\), expected \(3, 2, 23\)"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(tmp_path: Path, text: str, name: str, match: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(UserError, match=match):
        resolve(f"{write(tmp_path, text)}:{name}")


def test_check_model_says_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"{write(tmp_path, CLASS)}:Decay"
    assert main(["check-model", spec]) == 0
    out = capsys.readouterr().out
    assert "23 frames, derivatives: its own" in out
    assert "T2 [s] 0.02 to 0.2  derivative within" in out
    assert main(["check-model", spec, "--set", "wrong=1.01"]) == 2
    assert "d/dT2 is off by 0.01 of its largest entry (it is about 1.01 times" in capsys.readouterr().err


def test_check_model_of_a_model_of_ours() -> None:
    assert main(["check-model", "mrf-fisp", "--set", "flip_angles=[0.2, 0.5, 0.9, 0.3, 0.1]", "--points", "6"]) == 0


def test_a_derivative_that_is_wrong_in_one_tissue_only_is_found() -> None:
    class Wrong:
        parameters = PARAMETERS
        n_frames = 23

        def signal(self, theta: Any) -> Any:
            return truth(theta)[0]

        def signal_and_jacobian(self, theta: Any) -> Any:
            signal, jac = truth(theta)
            jac[theta[:, 1] > 100, 0, 4] *= 1.01
            return signal, jac

    theta = probes(PARAMETERS, 40)
    (problem,) = checkup.examine(Wrong(), theta).problems  # type: ignore[arg-type]
    assert problem.startswith("d/dT2 is off by 0.0")
    assert float(problem.split(", ")[-1].rstrip("]")) > 100


def test_a_basis_of_an_own_model_never_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path, CLASS + f"\nopen({str(marker)!r}, 'a').close()\n")
    name = str(tmp_path / "b")
    assert main(["basis", f"{path}:Decay", "-o", name, "--train", "300", "--atoms", "500", "--rank", "4"]) == 0
    monkeypatch.setattr(models, "_NAMED", {})  # another process
    marker.unlink()
    basis = Basis.load(name)
    assert main(["info", name]) == 0
    with pytest.raises(UserError, match=r"the model mine.py:Decay, which is no part of this program.*--model"):
        basis.model()
    assert not marker.exists()
    resolve(f"{path}:Decay")
    theta = probes(PARAMETERS, 4)
    np.testing.assert_allclose(basis.model().signal(theta), truth(theta)[0], rtol=1e-14)
    monkeypatch.setattr(models, "_NAMED", {})
    path.write_text(path.read_text() + "# changed\n")
    resolve(f"{path}:Decay")
    with pytest.raises(UserError, match=r"mine.py:Decay or its settings are not those .* \(hashes differ\)"):
        basis.model()


def test_maps_from_a_basis_of_an_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crbsvd_plugin import run
    from crbsvd_plugin.bart import write_cfl
    from crbsvd_plugin.progress import silent

    spec, name = f"{write(tmp_path, CLASS)}:Decay", str(tmp_path / "b")
    assert main(["basis", spec, "-o", name, "--train", "2000", "--atoms", "4000", "--rank", "6"]) == 0
    monkeypatch.setattr(models, "_NAMED", {})
    basis = Basis.load(name)
    theta = probes(PARAMETERS, 15)
    coeff = basis.project(truth(theta)[0]).T.reshape(6, 3, 5)
    write_cfl(tmp_path / "c", np.asfortranarray(coeff.transpose(2, 1, 0).reshape(5, 3, 1, 1, 1, 1, 6)))
    # matching needs the dictionary alone: what a server does
    written = run.fit(str(tmp_path / "c"), name, str(tmp_path / "m"), like=None, mask_level=0.0, std=True, force=False,
                      report=silent)  # fmt: skip
    assert any(path.name == "T2map.nii.gz" for path in written)
    assert not any("std" in path.name or "MISFIT" in path.name for path in written)
    fit = ["fit", str(tmp_path / "c"), name, "-o", str(tmp_path / "n"), "--method", "nlls", "--mask-level", "0"]
    assert main(fit) == 2
    assert "name it with --model" in capsys.readouterr().err
    assert main([*fit, "--model", spec, "--signals", "exact"]) == 0
    import nibabel

    found = np.asarray(nibabel.load(tmp_path / "n" / "T2map.nii.gz").dataobj).squeeze()
    # coefficients were stored as complex64: 6e-8 times the condition of the fit, a few hundred at rank 6
    np.testing.assert_allclose(np.sort(found.ravel()), np.sort(theta[:, 0]), rtol=1e-3)


def test_a_model_goes_to_a_worker_by_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, CLASS)
    model = UserModel(path, "Decay", {"scale": 2.0})
    make, arguments = model.__reduce__()
    assert make(*arguments).spec == model.spec
    path.write_text(CLASS + "\n")
    with pytest.raises(UserError, match=r"has changed since"):
        make(*arguments)
