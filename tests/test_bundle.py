"""From a request to the files of a basis with its dictionary."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import bundle, models
from crbsvd_plugin.assess import assess
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.bundle import Request
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.training import compute_basis

SHORT = (f"flip_angles={models.build({'name': 'mrf-fisp'}).spec['flip_angles'][::16]}",)
REQUEST = Request(spec="mrf-fisp", settings=SHORT, rank=3, train="150", atoms="100")


def silent(stage: str, done: int, total: int) -> None:
    pass


def made(request: Request, name: Path, *, force: bool = False) -> Basis:
    return bundle.plan(request, str(name), force=force).make(report=silent)


def test_the_files_belong_together(tmp_path: Path) -> None:
    basis = made(REQUEST, tmp_path / "b_0.3")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"b_0.3.{end}" for end in ("cfl", "h5", "hdr", "json")]
    content = json.loads((tmp_path / "b_0.3.json").read_text())
    for name, digest in content["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert len(content["files"]) == 3
    loaded = Basis.load(tmp_path / "b_0.3")
    assert loaded.digest == basis.digest == content["digest"]
    assert loaded.info == basis.info
    dictionary = Dictionary.load(tmp_path / "b_0.3", loaded)
    model = loaded.model()
    assert model.spec == basis.info["model"]
    # an atom is what the loaded model and basis give
    coeff = loaded.project(model.signal(dictionary.theta[40:43]))
    np.testing.assert_allclose(dictionary.coeff[40:43] * dictionary.norm[40:43, None], coeff, atol=1e-6)
    assert 80 < len(dictionary.theta) < 120
    assert dictionary.jac is None
    made(replace(REQUEST, derivatives=True), tmp_path / "derivatives")
    jac = Dictionary.load(tmp_path / "derivatives", loaded).jac
    assert jac is not None
    assert jac.shape == (*dictionary.theta.shape, 3)
    plain = made(replace(REQUEST, atoms="none"), tmp_path / "plain")
    np.testing.assert_array_equal(plain.phi, basis.phi)
    assert plain.info["dictionary_prior"] is None
    assert not (tmp_path / "plain.h5").exists()


def test_a_changed_dictionary_is_found_by_the_basis(tmp_path: Path) -> None:
    made(REQUEST, tmp_path / "b")
    path = tmp_path / "b.h5"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"hash of .*b\.h5 does not match"):
        Basis.load(tmp_path / "b")


def test_the_basis_is_that_of_the_request(tmp_path: Path) -> None:
    request = replace(REQUEST, rank=4, crb_weight=0.5, weighting="loss", fisher="complex", conjugate=True, atoms="none")
    plan = bundle.plan(request, str(tmp_path / "b"), force=False)
    expected = compute_basis(
        plan.model, plan.prior, rank=4, crb_weight=0.5, weighting="loss", fisher="complex", conjugate=True
    )
    basis = plan.make(report=silent)
    np.testing.assert_allclose(basis.phi, expected.phi, atol=1e-10)
    for key, value in (("crb_weight", 0.5), ("weighting", "loss"), ("fisher", "complex"), ("conjugate", True)):
        assert basis.info[key] == value
    assert basis.info["held_out"] == assess(plan.model, plan.held_out, basis, fisher="complex")
    # plans that differ only in weights share a fold
    other = bundle.plan(replace(request, crb_weight=0.0), str(tmp_path / "c"), force=False)
    again = other.finish(plan.fold(report=silent), report=silent)
    np.testing.assert_allclose(again.phi, made(replace(request, crb_weight=0.0), tmp_path / "d").phi, atol=1e-10)


@pytest.mark.parametrize("train", ["150", "1000", "20000"])
def test_losses_are_measured_off_the_points_of_the_training(tmp_path: Path, train: str) -> None:
    plan = bundle.plan(replace(REQUEST, train=train), str(tmp_path / "b"), force=False)
    parameters = plan.model.parameters
    for tissue, trained in zip(plan.held_out.atoms(parameters), plan.prior.atoms(parameters), strict=True):
        held_out, training = tissue.theta, trained.theta
        assert len(held_out) > 30
        same = np.isclose(held_out[:, None], training, rtol=1e-9).all(axis=-1)
        assert not same.any()
        assert np.all(held_out > training.min(axis=0))


@pytest.mark.parametrize(("weight", "rank", "warned"), [(0.9, 3, True), (0.9, 20, False), (0.0, 3, False)])
def test_a_weight_that_costs_much_energy_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, weight: float, rank: int, warned: bool
) -> None:
    request = replace(REQUEST, crb_weight=weight, rank=rank, atoms="none")
    with caplog.at_level(logging.WARNING):
        basis = made(request, tmp_path / "b")
    lost = basis.info["losses"]["all"]["signal"]
    assert (lost > 0.05) is warned
    assert ("of the signals' energy (more than 5.0 %)" in caplog.text) is warned
    if warned:
        assert f"a crb weight of 0.9 at rank 3 loses {100 * lost:.1f} %" in caplog.text
        caplog.clear()
        made(replace(request, max_energy_loss=lost + 1e-6), tmp_path / "c")
        assert not caplog.text


@pytest.mark.slow
def test_weight_09_at_rank_3_loses_28_percent_of_table_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    request = Request(spec="mrf-fisp", rank=3, crb_weight=0.9, train="1000", atoms="none")
    lost = made(request, tmp_path / "b").info["losses"]["all"]["signal"]
    assert abs(lost - 0.28) < 0.03
    assert "energy" in caplog.text


def test_a_train_too_short_for_its_parameters_still_gives_a_basis(tmp_path: Path) -> None:
    request = replace(REQUEST, settings=("flip_angles=[0.5]",), rank=1)
    basis = made(request, tmp_path / "b")
    # no bound is finite with one frame and three unknowns: nothing can be said of its loss
    assert Basis.load(tmp_path / "b").info["held_out"]["all"]["T1"]["exact"] is None
    assert sum(basis.info["n_dependent"].values()) == 2 * sum(basis.info["n_atoms"].values())
    for line in bundle.table(basis).splitlines()[1:]:
        assert line.split()[2:] == ["-"] * 4


def test_the_table_lists_classes_and_parameters(tmp_path: Path) -> None:
    basis = made(REQUEST, tmp_path / "b")
    lines = bundle.table(basis).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["gm+wm", "fat", "csf", "all"]
    values = [float(word) for word in lines[-1].split()[1:]]
    losses = basis.info["held_out"]["all"]
    expected = [losses["signal"]["energy"], *(losses[n][f] for n in ("T1", "T2") for f in ("exact", "approximate"))]
    np.testing.assert_allclose(values, 100 * np.array(expected), atol=5e-3)
    assert bundle.table(Basis(basis.phi, basis.singular_values)) == "losses are not known"
    assert "fingerprints of 65 frames" in bundle.plan(REQUEST, str(tmp_path / "c"), force=False).estimate()


def test_force_replaces_its_own_files_and_leaves_no_old_dictionary(tmp_path: Path) -> None:
    name, without = tmp_path / "b", replace(REQUEST, atoms="none", crb_weight=0.1)
    made(REQUEST, name)
    with pytest.raises(UserError, match="exists already"):
        bundle.plan(without, str(name), force=False)
    made(without, name, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.cfl", "b.hdr", "b.json"]
    with pytest.raises(UserError, match="does not exist: matching needs"):
        Dictionary.load(name, Basis.load(name))
    made(REQUEST, name, force=True)
    assert Dictionary.load(name, Basis.load(name)).rank == 3


def test_force_does_not_replace_a_dictionary_that_is_not_its_own(tmp_path: Path) -> None:
    name = tmp_path / "b"
    made(replace(REQUEST, atoms="none"), name)
    (tmp_path / "b.h5").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"b\.h5 exists and is not part of"):
        bundle.plan(REQUEST, str(name), force=True)
    made(replace(REQUEST, atoms="none"), name, force=True)
    assert (tmp_path / "b.h5").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rank": 0}, "--rank is 0, expected 1 to the number of frames, 65"),
        ({"rank": 66}, "--rank is 66"),
        ({"crb_weight": 1.5}, "--crb-weight is 1.5, expected 0 to 1"),
        ({"crb_weight": float("nan")}, "--crb-weight is nan"),
        ({"train": "none"}, "--train is 'none', expected grid or a number"),
        ({"train": "-5"}, "--train is '-5', expected grid or a number"),
        ({"atoms": "many"}, "--atoms is 'many'"),
        ({"atoms": "0"}, "number of atoms is 0"),
        ({"spec": "mrf-fips"}, "did you mean 'mrf-fisp'"),
    ],
)
def test_what_the_user_can_mend_is_found_before_the_work(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        bundle.plan(replace(REQUEST, **change), str(tmp_path / "b"), force=False)
    assert not list(tmp_path.iterdir())


def test_stages_are_reported_to_their_end(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    plan = bundle.plan(REQUEST, str(tmp_path / "b"), force=False)
    plan.make(report=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)))
    assert list(seen) == ["fingerprints", "losses", "dictionary"]
    for steps in seen.values():
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1] > 0


def test_a_rank_that_is_not_given_is_that_of_the_model_for_all_that_is_planned(tmp_path: Path) -> None:
    plan = bundle.plan(replace(REQUEST, rank=None, perk=True), str(tmp_path / "b"), force=False)
    assert plan.rank == 5


def test_exact_bounds_lose_less(tmp_path: Path) -> None:
    svd = made(replace(REQUEST, crb_weight=0.6), tmp_path / "svd")
    exact = made(replace(REQUEST, crb_weight=0.6, method="exact"), tmp_path / "exact")
    facts = exact.info["exact"]
    assert facts["least"] < facts["cost"] < facts["start"]
    assert facts["cost_held_out"] < facts["start_held_out"]
    loaded = Basis.load(tmp_path / "exact")
    assert loaded.info == exact.info
    assert loaded.info["method"] == "exact"
    assert "method" not in svd.info
    # a dictionary of its own
    assert Dictionary.load(tmp_path / "exact", loaded).coeff.shape[1] == 3
    told = f"Weighted loss with exact bounds: {100 * facts['cost']:.4g} %, of CRB-SVD {100 * facts['start']:.4g} %"
    assert told in bundle.table(exact)


def test_exact_bounds_at_an_energy_loss(tmp_path: Path) -> None:
    asked = replace(REQUEST, method="exact", energy_loss=0.02)
    bases = [made(replace(asked, crb_weight=weight), tmp_path / f"{weight}") for weight in (0.0, 0.9)]
    # whatever the weight
    assert bases[0].digest == bases[1].digest
    assert 0.02 * (1 - 2e-3) < bases[0].info["losses"]["all"]["signal"] < 0.02
    assert "Mean CRB loss at an energy loss of 2 % with exact bounds:" in bundle.table(bases[0])


def test_an_energy_loss_that_is_asked_for_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    basis = made(replace(REQUEST, method="exact", energy_loss=0.1, atoms="none"), tmp_path / "b")
    assert basis.info["losses"]["all"]["signal"] > REQUEST.max_energy_loss
    assert "energy" not in caplog.text


def test_the_worst_tenth_with_exact_bounds(tmp_path: Path) -> None:
    basis = made(replace(REQUEST, method="exact", crb_weight=0.6, worst_decile=True), tmp_path / "b")
    assert basis.info["exact"]["worst"]
    assert "(of every parameter the worst tenth)" in bundle.table(basis)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"worst_decile": True}, "--worst-decile and --energy-loss belong to --method exact"),
        ({"energy_loss": 0.1}, "--worst-decile and --energy-loss belong to --method exact"),
        ({"method": "exact", "energy_loss": 0.1, "parameter_weights": {"T1": 0, "T2": 0}}, "no parameter has a weight"),
        (
            {
                "method": "exact",
                "energy_loss": 0.1,
                "crb_weight": 1.0,
                "class_weights": {(label, "signal"): 0 for label in ("gm+wm", "fat", "csf")},
            },
            "no signal has a weight",
        ),
        ({"method": "exact", "rank": 2}, "--rank is 2, at which the exact bounds of M0 and 2 parameters are infinite"),
    ],
)
def test_what_does_not_go_with_the_method(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bundle.plan(replace(REQUEST, **changes), str(tmp_path / "b"), force=False)
    assert not list(tmp_path.iterdir())


def test_the_estimate_of_exact_bounds(tmp_path: Path) -> None:
    asked = replace(REQUEST, atoms="none", train="20000")
    svd, exact, worst = (
        bundle.plan(replace(asked, **options), str(tmp_path / "b"), force=False).estimate()
        for options in ({}, {"method": "exact"}, {"method": "exact", "worst_decile": True})
    )
    memory = [int(text.split("about ")[1].split(" MiB")[0]) for text in (svd, exact, worst)]
    assert memory[0] < memory[1] < memory[2]
    assert "a search that is not counted" in exact
    assert "search" not in svd
