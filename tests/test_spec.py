"""What a SPEC means, and whether a model keeps its contract."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crbsvd_plugin import models
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.model import Parameter, SignalModel
from crbsvd_plugin.quantity import quantity
from crbsvd_plugin.spec import resolve
from crbsvd_plugin.testing import check_model

Array = NDArray[Any]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5 ms", 5e-3), ("5ms", 5e-3), (" 4  ms", 4e-3), ("2.5e-3 s", 2.5e-3), ("1e3 us", 1e-3),
        ("90 deg", np.pi / 2), ("-30deg", -np.pi / 6), ("0.5 rad", 0.5), ("20 1/s", 20.0), ("+.5 rad/s", 0.5),
        ("50 Hz", 100 * np.pi), ("5. s", 5.0),
    ],
)  # fmt: skip
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "ms", "5", "5 m", "5 Ms", "five ms", "5 ms ms", "5e ms", "1 2 ms", "5 ms 3", "51/s", "nan s"]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a quantity, expected a number and one of s, ms, us, rad, deg"):
        quantity(text)


def test_a_quantity_has_the_unit_that_is_asked_for() -> None:
    assert quantity("5 ms", si="s") == 5e-3
    for text, si, match in (
        ("5 deg", "s", "'5 deg' is not a quantity, expected a number and one of s, ms, us, as in '5 s'"),
        ("5 Hz", "1/s", "expected a number and one of 1/s, as in '5 1/s'"),
        ("5 ms", "", "'5 ms' is not a quantity, expected a plain number"),
    ):
        with pytest.raises(UserError, match=match):
            quantity(text, si=si)


def test_a_name_gives_the_model_with_its_priors() -> None:
    spec = resolve("mrf-fisp")
    assert spec.model.spec == models.build({"name": "mrf-fisp"}).spec
    assert (spec.prior.name, spec.fit_prior.name) == ("mao-mrf-table1", "t1-t2")


def test_a_toml_file_and_settings_that_replace_its_own(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(
        'name = "mrf-fisp"\nte = "4 ms"\nflip_angles = ["10 deg", 0.5, "30 deg"]\ntr = [0.01, "11 ms", 0.012]\n'
        'ti = "none"\nb1 = true\nfit_prior = "mao-mrf-table1"\n'
    )
    spec = resolve(str(path), ["te=3ms", " recovery = none", "slice_positions=3", "accuracy=0"])
    found = spec.model.spec
    assert (found["te"], found["ti"], found["recovery"], found["b1"], found["slice_positions"]) == (
        0.003,
        None,
        None,
        True,
        3,
    )
    np.testing.assert_allclose(found["flip_angles"], [np.pi / 18, 0.5, np.pi / 6])
    np.testing.assert_allclose(found["tr"], [0.01, 0.011, 0.012])
    assert (spec.prior.name, spec.fit_prior.name) == ("mao-mrf-table1", "mao-mrf-table1")
    assert models.build(found).spec == found
    lists = resolve(str(path), ['flip_angles=["10 deg", "20 deg"]', "tr=12 ms", "prior=t1-t2"])
    assert lists.model.n_frames == 2
    assert lists.prior.name == "t1-t2"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["te"], "--set 'te' has no '=', expected key=value"),
        (["tee=5 ms"], r"setting 'tee' is unknown, expected one of: flip_angles, .*did you mean 'te'\?"),
        (["flip_angle=[1]"], "did you mean 'flip_angles'"),
        (["te=five"], "te: 'five' is not a quantity, expected a number and one of s, ms, us, as in"),
        (["te=30 deg"], "te: '30 deg' is not a quantity, expected a number and one of s, ms, us, as in"),
        (['tr=["10 ms", "20 deg"]'], r"tr\[1\]: '20 deg' is not a quantity, expected a number and one of s, ms, us"),
        (["flip_angles=[0.1, '5 ms']"], r"flip_angles\[1\]: '5 ms' is not .* one of rad, deg, as in '5 rad'"),
        (["inversion_efficiency=0.9 s"], "inversion_efficiency: '0.9 s' is not a quantity, expected a plain number"),
        (["te=20 ms"], r"te is 0.02 s, expected between 0 and the shortest tr, 0.01 s"),
        (["te=nan"], "te is nan s"),
        (["flip_angles=[]"], "flip_angles is empty"),
        (["flip_angles=10"], "flip_angles has a wrong type: Expected `array | null`, got `int`"),
        (["flip_angles=[[0.1], [0.2]]"], "flip_angles has a wrong type"),
        (["tr=[0.01]"], "tr has 1 entries, expected 1040"),
        (["te=none"], "te has a wrong type: Expected `float`, got `null`"),
        (["te=2020-01-01"], "expected a number, a quantity or a list"),
        (["te=" + 5001 * "1"], "1' is not a quantity, expected a number and one of"),
        (["slice_positions=2.5"], "slice_positions has a wrong type: Expected `int`, got `float`"),
        (["b1=1"], "b1 has a wrong type"),
        (["inversion_efficiency=2"], "inversion_efficiency is 2"),
        (
            ["prior=t1-t3"],
            r"prior 't1-t3' is unknown, expected a table or one of: mao-mrf-table1, .* \(did you mean 't1-t2'\?\)",
        ),
        (["fit_prior=5"], "fit_prior 5 is unknown"),
        (["name=nothing"], "model 'nothing' is unknown, expected one of: mrf-fisp"),
    ],
)
def test_settings_that_cannot_be_understood(settings: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        resolve("mrf-fisp", settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*models.names(), "pulseq"])
def test_every_setting_has_the_unit_that_its_docstring_says(name: str) -> None:
    """So that none is taken in another one; those of blocks are tested there."""
    documentation = inspect.getdoc(models._model(name)) or ""
    for key in models.settings(name):
        if key in ("blocks", "operators"):  # tables, and what no user writes
            continue
        described = re.search(rf"^{key} : .*\n((?:    .*\n)+)", documentation + "\n", re.MULTILINE)
        said = re.search(r"\[(s|rad)\]", described[1]) if described else None
        assert key in models.UNITS
        assert described is None or models.UNITS[key] == (said[1] if said else "")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("te = ", "is not valid TOML"),
        ("te = " + 5001 * "1", "is not valid TOML"),
        ("te = 0.004", "model None is unknown"),
        ('name = "mrf-fips"', "model 'mrf-fips' is unknown.*did you mean 'mrf-fisp'"),
        ("name = [1]", r"model \[1\] is unknown"),
        ('name = "mrf-fisp"\n[te]\nms = 4', "te is {'ms': 4}, expected a number"),
    ],
)
def test_files_that_cannot_be_understood(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        resolve(str(path))


def test_what_is_neither_a_model_nor_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    for text, match in (
        ("mrf-fips", "is unknown, expected a .toml file or one of: mrf-fisp, qmt-hsfp, .*did you mean 'mrf-fisp'"),
        (str(tmp_path / "gone.toml"), "does not exist"),
        (str(tmp_path / "folder.toml"), "cannot be read"),
        (str(tmp_path / "latin.toml"), "not valid TOML"),
    ):
        with pytest.raises(UserError, match=match):
            resolve(text)


def test_a_model_is_built_from_numpy_values_too() -> None:
    model = models.build(
        {"name": "mrf-fisp", "flip_angles": np.array([0.1, 0.2]), "tr": [np.float64(0.01), 1], "b1": np.True_}
    )
    assert model.spec["flip_angles"] == [0.1, 0.2]
    assert model.spec["tr"] == [0.01, 1.0]
    assert len(model.parameters) == 3
    assert isinstance(model, SignalModel)


class Echo:
    """A complex decay, correct unless a test breaks it; its third parameter changes nothing."""

    parameters = (Parameter("R", "1/s", 0, 100), Parameter("W", "rad/s", -100, 100), Parameter("N", "", 0, 1))
    n_frames = 7

    def __init__(self, fault: str = "") -> None:
        self.spec = {"name": "echo"}
        self.fault, self.calls = fault, 0

    def signal(self, theta: Array) -> Array:
        self.calls += 1
        time = np.linspace(0.01, 0.1, 7)
        signal = np.exp((-theta[:, :1] + 1j * theta[:, 1:2]) * time)
        if self.fault == "changes":
            theta += 1
        if self.fault == "random":
            signal = signal * (1 + 1e-14 * self.calls)
        if self.fault == "signal-shape":
            return signal[:, :1]
        return signal

    def signal_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
        time, signal = np.linspace(0.01, 0.1, 7), Echo().signal(theta)
        jac = np.stack([-time * signal, 1j * time * signal, 0 * signal], axis=1)
        faults: dict[str, Callable[[], Any]] = {
            "changes-with-jacobian": lambda: theta.__iadd__(1),
            "sign": lambda: jac[:, 1].__imul__(-1),
            "conjugate": lambda: np.conj(jac, out=jac),
            "small": lambda: jac[:, 0].__imul__(1 + 1e-5),
            "one-atom": lambda: jac[1].__imul__(1 + 1e-4),
            "never-zero": lambda: jac[:, 2].__iadd__(1e-3),
            "nan": lambda: jac[0, 0].__setitem__(0, np.nan),
            "disagree": lambda: signal.__imul__(1 + 1e-10),
        }
        faults.get(self.fault, lambda: None)()
        jac = {"jacobian-shape": jac[:, :2], "transposed": jac.transpose(0, 2, 1)}.get(self.fault, jac)
        return signal, jac


# the second atom's derivatives are 1e-4 of the others': its errors must not hide behind them
THETA = np.array([[5.0, 20.0, 0.3], [900.0, -3.0, 0.3], [12.0, 0.0, 0.3]])


def test_check_model_accepts_what_is_right(frozen: Callable[..., Array]) -> None:
    check_model(Echo(), frozen(THETA))
    check_model(Echo(), THETA[:1])


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("sign", r"d/dW is off by 2\.00e\+00"),
        ("conjugate", "d/dR is off by"),
        ("small", r"d/dR is off by 1\.00e-05 of its largest entry, expected 1e-06"),
        ("one-atom", r"d/dR is off by .* at theta = \[900\.0, -3\.0, 0\.3\]"),
        ("never-zero", "d/dN is off by"),
        ("jacobian-shape", r"jacobian has shape \(3, 2, 7\), expected \(3, 3, 7\)"),
        ("transposed", "jacobian has shape"),
        ("signal-shape", r"signal\(\) gives shape \(3, 1\), expected \(3, 7\)"),
        ("changes", "the model changed theta"),
        ("changes-with-jacobian", "the model changed theta"),
        ("random", "not deterministic"),
        ("disagree", "disagree"),
        ("nan", "jacobian is not finite"),
    ],
)
def test_check_model_rejects_what_is_wrong(fault: str, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        check_model(Echo(fault), THETA)


def test_check_model_wants_theta_of_the_model() -> None:
    with pytest.raises(AssertionError, match=r"theta has shape \(3, 2\), expected \(B, 3\)"):
        check_model(Echo(), THETA[:, :2])


@pytest.mark.parametrize("slice_positions", [1, 7])
@pytest.mark.parametrize("b1", [False, True])
@pytest.mark.parametrize("quadratic", [False, True])
def test_check_model_accepts_mrf_fisp(slice_positions: int, b1: bool, quadratic: bool) -> None:
    count = np.arange(61)
    model = models.build(
        {
            "name": "mrf-fisp", "flip_angles": 0.1 + 0.8 * np.sin(count / 20) ** 2, "recovery": 2.0, "b1": b1,
            "phases": count * (count + 1) if quadratic else 0 * count, "accuracy": 0,
            "slice_positions": slice_positions,
        }
    )  # fmt: skip
    theta = np.array([[0.8, 0.05, 1.0], [1.35, 0.095, 0.9], [4.0, 2.0, 1.1], [0.38, 0.1, 1.2]])
    check_model(model, theta if b1 else theta[:, :2])
