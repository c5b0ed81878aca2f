"""What holds for every built-in model: derivatives, settings, defaults, and the command that makes a basis of it."""

from __future__ import annotations

import json
from pathlib import Path

import models_case
import numpy as np
import pytest

from crbsvd_plugin import Basis, models, testing
from crbsvd_plugin.cli import main
from crbsvd_plugin.model import SignalModel
from crbsvd_plugin.prior import split
from crbsvd_plugin.spec import Spec, resolve

NAMES = models.names()


def small(name: str) -> Spec:
    return resolve(name, models_case.SMALL[name])


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_equal_central_differences(name: str) -> None:
    """At atoms of the default dictionary; `testing.check_model` derives its 1e-6 from the step.

    Of T2s, which moves the signal of `qmt-hsfp` least, rounding can be more than 1e-6 of the derivative.
    """
    model = models.smooth(small(name).model.spec)
    for atoms in small(name).fit_prior.thinned(40, model.parameters).atoms(model.parameters):
        low, high = np.array([(p.low, p.high) for p in model.parameters]).T
        margin = 2e-3 * np.abs(np.stack([low, high])) + 2e-5 * (high - low)  # of the differences
        theta = np.clip(atoms.theta, low + margin[0], high - margin[1])
        testing.check_model(model, theta, tolerance=2e-6 if name == "qmt-hsfp" else 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_built_again_from_its_spec(name: str) -> None:
    """Through JSON, as a sidecar holds it; the defaults as well as other settings."""
    for settings in ([], models_case.SMALL[name]):
        model = resolve(name, settings).model
        again = models.build(json.loads(json.dumps(model.spec)))
        assert isinstance(model, SignalModel)
        assert set(model.spec) - {"name"} == set(models.settings(name))
        assert again.spec == model.spec
        assert again.parameters == model.parameters
    theta = resolve(name).prior.thinned(3, model.parameters).atoms(model.parameters)[0].theta[:1]
    assert np.array_equal(model.signal(theta), again.signal(theta))


@pytest.mark.parametrize("name", NAMES)
def test_default_priors_fit_the_model_with_and_without_b1(name: str) -> None:
    switches = [[], *([["b1=true"], ["b1=false"]] if "b1" in models.settings(name) else [])]
    for switch in switches:
        found = resolve(name, switch)
        for prior in (found.prior, found.fit_prior):
            assert prior.thinned(2000, found.model.parameters).size(found.model.parameters) > 200
        trained, held_out = split(found.prior.thinned(200, found.model.parameters).atoms(found.model.parameters))
        assert len(trained) == len(held_out) == len(found.prior.tissues)


@pytest.mark.parametrize("name", NAMES)
def test_from_the_command_to_a_basis(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its default priors and rank; what `info` says is of this model."""
    settings = [word for setting in models_case.SMALL[name] for word in ("--set", setting)]
    rank = small(name).rank
    out = str(tmp_path / "b")
    assert main(["basis", name, *settings, "-o", out, "--rank", str(rank), "--train", "120", "--atoms", "60"]) == 0
    assert main(["info", out]) == 0
    said = capsys.readouterr().out
    assert f"sequence   {name}\n" in said
    assert f"prior      {small(name).prior.name}, " in said
    for parameter in small(name).model.parameters:
        assert (f"CRB {parameter.name}" in said) is not parameter.nuisance
    phi = Basis.load(out).phi
    # single precision of the file
    assert np.abs(phi.conj().T @ phi - np.eye(rank)).max() < 1e-6


def test_what_a_preset_has_beyond_the_model_is_left_out() -> None:
    """Values and orders of parameters that it lacks; those that a model lacks of the others are refused."""
    with_t1, without = resolve("fse"), resolve("fse", ["t1=1", "b1=false"])
    assert [p.name for p in without.model.parameters] == ["T2"]
    assert {name for tissue in without.prior.tissues for name in tissue.values} == {"T2"}
    assert {name for tissue in with_t1.prior.tissues for name in tissue.values} == {"T1", "T2", "B1"}
    assert resolve("mese", ["fit_prior=t1-t2"]).fit_prior.ordered == ()
