"""Preparations between pulses: a schedule of heartbeats in TOML against isochromats, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import gradient_echo

from crbsvd_plugin import Basis, crb, models, testing
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.spec import resolve

Array = NDArray[Any]
# four heartbeats of six pulses: inversion, nothing, and two T2 preparations after rests
CARDIAC = """
name = "mrf-fisp"
flip_angles = [{angles}]
tr = "6 ms"
te = "2 ms"
ti = "none"
recovery = "none"
accuracy = 0.0

[[blocks]]
before = 0
kind = "inversion"
efficiency = 0.95
delay = "21 ms"

[[blocks]]
before = 6
kind = "delay"
time = "0.6 s"

[[blocks]]
before = 12
kind = "delay"
time = "0.55 s"

[[blocks]]
before = 12
kind = "t2-preparation"
te = "30 ms"

[[blocks]]
before = 18
kind = "delay"
time = 0.62

[[blocks]]
before = 18
kind = "t2-preparation"
te = "60 ms"
delay = "4 ms"
"""
ANGLES = np.deg2rad([4, 8, 12, 16, 20, 25] * 4)
# columns: T1 and T2 in s, of blood, heart muscle and fat
TISSUES = np.array([[1.9, 0.25], [1.25, 0.045], [0.37, 0.1]])


@pytest.fixture
def cardiac(tmp_path: Path) -> Path:
    path = tmp_path / "cardiac.toml"
    path.write_text(CARDIAC.format(angles=", ".join(map(repr, ANGLES.tolist()))))
    return path


def reference(model: Any, theta: Array, **changes: Any) -> Array:
    spec = model.spec
    train = {key: spec[key] for key in ("flip_angles", "phases", "tr", "blocks", "recovery")} | changes
    te = [spec["te"]] * model.n_frames
    tissues = [dict(zip(("T1", "T2"), row, strict=True)) for row in theta]
    return np.array([gradient_echo.signal(tissue, te=te, dephased=True, **train) for tissue in tissues])


def test_a_cardiac_schedule_equals_isochromats(cardiac: Path) -> None:
    """Some 100 operators at rounding; without the blocks it is another sequence."""
    model = resolve(str(cardiac)).model
    signal = model.signal(TISSUES)
    assert np.abs(signal - reference(model, TISSUES)).max() < 1e-12
    assert np.abs(signal - reference(model, TISSUES, blocks=[])).max() > 0.1
    testing.check_model(model, TISSUES)


@pytest.mark.parametrize("recovery", [0.5, 3.0])
def test_blocks_are_repeated_with_the_train(cardiac: Path, recovery: float) -> None:
    model = resolve(str(cardiac), [f"recovery={recovery}"]).model
    assert np.abs(model.signal(TISSUES) - reference(model, TISSUES)).max() < 1e-12
    testing.check_model(model, TISSUES)


def test_an_inversion_block_is_the_inversion_of_the_train() -> None:
    settings = {"name": "mrf-fisp", "flip_angles": [0.3, 0.5], "accuracy": 0.0, "inversion_efficiency": 0.9}
    block = {"before": 0, "kind": "inversion", "efficiency": 0.9, "delay": 0.03}
    ours = models.build(settings | {"ti": None, "blocks": [block]})
    for mine, other in zip(
        ours.signal_and_jacobian(TISSUES),
        models.build(settings | {"ti": 0.03}).signal_and_jacobian(TISSUES),
        strict=True,
    ):
        assert np.array_equal(mine, other)


def test_t2_preparation_before_the_first_pulse() -> None:
    """M = 1 + (exp(-te / T2) - 1) exp(-delay / T1); te = 0 changes nothing, and a long one is saturation."""
    for te, delay in ((0.05, 0.01), (0.0, 0.01), (1e3, 0.2)):
        block = {"before": 0, "kind": "t2-preparation", "te": te, "delay": delay}
        model = models.build({"name": "mrf-fisp", "flip_angles": [np.pi / 2], "ti": None, "recovery": None,
                              "blocks": [block]})  # fmt: skip
        t1, t2 = TISSUES.T
        expected = (1 + (np.exp(-te / t2) - 1) * np.exp(-delay / t1)) * np.exp(-0.005 / t2)
        assert np.abs(model.signal(TISSUES)[:, 0] + 1j * expected).max() < 1e-13


def test_t2_preparation_lowers_the_bound_of_t2(cardiac: Path) -> None:
    """What it is for: at small flip angles little else tells T2."""
    with_blocks = resolve(str(cardiac)).model
    spec = with_blocks.spec
    without = models.build(spec | {"blocks": [b for b in spec["blocks"] if b["kind"] != "t2-preparation"]})
    bounds = [crb.orthogonalise(*model.signal_and_jacobian(TISSUES)).bound for model in (with_blocks, without)]
    assert (bounds[0][:, 1] < 0.2 * bounds[1][:, 1]).all()


def test_a_basis_of_it_and_its_sidecar(cardiac: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "b")
    assert main(["basis", str(cardiac), "-o", out, "--train", "200", "--atoms", "100"]) == 0
    model = Basis.load(out).info["model"]
    assert [block["kind"] for block in model["blocks"]].count("t2-preparation") == 2
    assert np.array_equal(models.build(model).signal(TISSUES), resolve(str(cardiac)).model.signal(TISSUES))


@pytest.mark.parametrize(
    ("block", "match"),
    [
        ("{ before = 0, kind = 'saturation' }", r"blocks has a wrong type: Invalid value 'saturation'"),
        ("{ before = 0 }", "blocks has a wrong type: Object missing required field `kind`"),
        ("{ before = 0, kind = 't2-preparation' }", "blocks has a wrong type: Object missing required field `te`"),
        ("{ before = 0, kind = 'delay', time = 1.0, te = 1.0 }", "blocks has a wrong type: .*unknown field `te`"),
        ("{ before = 24, kind = 'delay', time = 1.0 }", r"mrf-fisp: blocks\[0\]: before is 24, expected 0 to 23"),
        ("{ before = 0, kind = 'inversion', efficiency = 1.5 }", r"efficiency is 1.5, expected 0 to 1"),
        ("{ before = 0, kind = 'delay', time = -1 }", r"time is -1.0, expected 0 to 10000"),
        ("{ before = 0, kind = 'delay', time = nan }", r"time is nan"),
        ("{ before = 0, kind = 'delay', time = '30 deg' }", r"blocks\[0\]: time: '30 deg' is not .* of s, ms, us"),
        ("{ before = 0, kind = 't2-preparation', te = '30 rad' }", r"blocks\[0\]: te: '30 rad' is not a quantity"),
        ("{ before = 0, kind = 'inversion', delay = '1 Hz' }", r"blocks\[0\]: delay: '1 Hz' is not a quantity"),
        ("{ before = 0, kind = 'inversion', efficiency = '1 s' }", "efficiency: '1 s' is not .* a plain number"),
        ("{ before = '1 s', kind = 'delay', time = 1 }", "before: '1 s' is not a quantity, expected a plain number"),
        ("5", "blocks has a wrong type"),
    ],
)
def test_blocks_that_are_refused(cardiac: Path, block: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        resolve(str(cardiac), [f"blocks=[{block}]"])
    assert "\n" not in str(error.value)
