"""The rows of a sweep against plain loops over `crb.bounds`, and its convergence against separate trainings."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import charts, crb, request, sweep
from crbsvd_plugin.advice import Row, recommend
from crbsvd_plugin.distribution import Grid, Uniform
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.model import Batch, Parameter
from crbsvd_plugin.prior import Prior, Tissue
from crbsvd_plugin.progress import silent
from crbsvd_plugin.spec import Spec

Array = np.ndarray
T, SAVE = 13, charts._save


@dataclass
class Decay:
    """Complex: s = exp((i w - r + i b r t) t) + 0.4 exp(-(r + b) t), w a nuisance. Keeps what it simulated."""

    parameters: tuple[Parameter, ...] = (
        Parameter("r", "1/s", 0, 9),
        Parameter("w", "rad/s", -9, 9, nuisance=True),
        Parameter("b", "", 0, 9),
    )
    n_frames: int = T
    spec: dict[str, Any] = field(default_factory=lambda: {"name": "decay"})
    calls: list[Array] = field(default_factory=list)

    def signal(self, theta: Array) -> Array:
        return self._rows(theta)[0]

    def signal_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
        self.calls.append(np.array(theta))
        return self._rows(theta)

    def _rows(self, theta: Array) -> tuple[Array, Array]:
        t = np.linspace(0.1, 2, self.n_frames)
        columns = dict(zip((p.name for p in self.parameters), theta.T[..., None], strict=True))
        r, w, b = columns["r"], columns["w"], columns.get("b", 0.3)
        u, v = np.exp((1j * w - r + 1j * b * r * t) * t), 0.4 * np.exp(-(r + b) * t)
        slopes = {"r": (1j * b * t - 1) * t * u - t * v, "w": 1j * t * u, "b": 1j * r * t**2 * u - t * v}
        return u + v, np.stack([slopes[name] for name in columns], axis=1)


RANGES = {"r": Uniform(0.3, 2), "w": Uniform(-2, 2), "b": Uniform(0.2, 1)}
PRIOR = Prior("two", (Tissue("x", RANGES, 2.5, 40), Tissue("y", {**RANGES, "r": Uniform(3, 4)}, 1.0, 17)))
ASKED = sweep.Request(spec="decay", train="grid", crb_weights=(0.0, 0.3, 1.0), rank=6, checkpoint=None)
Planned = Callable[..., sweep.Plan]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Plan a sweep of this model with a prior; its figures stay empty, drawing them takes most of the time."""
    monkeypatch.setattr(charts, "_save", lambda _, path: path.touch())

    def plan(asked: sweep.Request, prior: Prior = PRIOR, folder: str = "out", **model: Any) -> sweep.Plan:
        monkeypatch.setattr(request, "resolve", lambda *_: Spec(Decay(**model), prior, prior))
        return sweep.plan(asked, str(tmp_path / folder), force=False)

    return plan


def content(plan: sweep.Plan) -> dict[str, Any]:
    return json.loads((plan.folder / "sweep.json").read_text())


def rows_of(plan: sweep.Plan) -> dict[tuple[Any, ...], tuple[float, ...]]:
    rows = [tuple(row.values()) for row in content(plan)["rows"]]
    found = {row[:5]: row[5:] for row in rows}
    assert len(found) == len(rows)
    return found


def trained(plan: sweep.Plan, thetas: list[tuple[str, Array, float]]) -> BasisAccumulator:
    asked, model = plan.request, plan.model
    accumulator = BasisAccumulator(model.parameters, T, fisher=asked.fisher, conjugate=asked.conjugate)
    for label, theta, weight in thetas:
        accumulator.update(Batch(theta, *model.signal_and_jacobian(theta), label, weight))
    return accumulator


def figures(plan: sweep.Plan, phi: Array) -> list[tuple[str, float, dict[tuple[str, str], float]]]:
    """Return tissue, weight and figures of every held-out fingerprint, one by one."""
    model, found = plan.model, []
    targets = [i for i, parameter in enumerate(model.parameters) if not parameter.nuisance]
    for atoms in plan.held_out:
        signal, jac = model.signal_and_jacobian(atoms.theta)
        bounds = crb.bounds(signal, jac, phi, targets=targets, fisher=plan.request.fisher)
        for n, s in enumerate(signal):
            energy = 1 - np.linalg.norm(phi.conj().T @ s) ** 2 / np.linalg.norm(s) ** 2
            values = {("signal", "energy"): float(energy)}
            for i, target in enumerate(targets):
                name, full = model.parameters[target].name, bounds.uncompressed[n, i]
                values[name, "approximate"] = float(1 - full / bounds.approximate[n, i])
                values[name, "exact"] = float(1 - full / bounds.exact[n, i])
                values[name, "retained"] = float(full / bounds.exact[n, i])
            found.append((atoms.label, atoms.weight, values))
    return found


def share(values: list[float], weights: list[float], part: float) -> float:
    """Return the least value that this share of the weight does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(np.array(weights)[order]) >= part * sum(weights) * (1 - 1e-12)
    return float(np.array(values)[order][np.argmax(reached)])


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "complex fisher, conjugates, losses": {"fisher": "complex", "conjugate": True, "weighting": "loss"},
    "weights": {"parameter_weights": {"b": 3.0}, "class_weights": {"y": 0.5, ("y", "r"): 0.0}},
}


@pytest.mark.parametrize("case", CASES)
def test_every_row_by_plain_loops(planned: Planned, case: str) -> None:
    plan = planned(replace(ASKED, **CASES[case]))
    choice = plan.make(report=silent).choice
    rows = rows_of(plan)
    accumulator = trained(plan, [(atoms.label, atoms.theta, atoms.weight) for atoms in plan.training.atoms])
    n_seen = 0
    for weight in plan.request.crb_weights:
        for rank in range(1, 7):
            options = {"weighting": plan.request.weighting, **{k: v for k, v in CASES[case].items() if "weights" in k}}
            atoms = figures(plan, accumulator.finish(rank, weight, **options).phi)
            for tissue in ("x", "y", "all"):
                chosen = [(w, values) for label, w, values in atoms if tissue in (label, "all")]
                weights = [one[0] for one in chosen]
                for key in chosen[0][1]:
                    values = [one[key] for _, one in chosen]
                    worst = 0.1 if key[1] == "retained" else 0.9
                    expected = (np.average(values, weights=weights), *(share(values, weights, p) for p in (0.5, worst)))
                    # The same batches are folded, so phi has the same bits. What remains is the rounding of
                    # projections: 1e-16 times the condition, squared, of an atom's compressed columns, which is
                    # below 1e3. Of single atoms float32 is kept: 6e-8.
                    found = rows[weight, rank, tissue, *key]
                    assert np.isclose(found[0], expected[0], rtol=0, atol=1e-9), (weight, rank, tissue, key)
                    np.testing.assert_allclose(found[1:], expected[1:], rtol=0, atol=1.2e-7)
                    n_seen += 1
    assert n_seen == len(rows) == 3 * 6 * 3 * (1 + 2 * 3)
    listed = [Row(**row) for row in content(plan)["rows"]]
    asked = plan.request
    if not asked.class_weights:  # what they do has a test of its own
        assert choice == recommend(listed, max_crb_loss=asked.max_crb_loss, max_energy_loss=asked.max_energy_loss)
    assert content(plan)["recommended"] == asdict(choice)


def test_training_and_held_out_share_no_fingerprint(planned: Planned) -> None:
    plan = planned(ASKED)
    wholes = PRIOR.atoms(plan.model.parameters)
    for train, held_out, whole in zip(plan.training.atoms, plan.held_out, wholes, strict=True):
        assert train.label == held_out.label == whole.label
        assert train.weight == held_out.weight == whole.weight
        both = np.concatenate([train.theta, held_out.theta])
        assert len(np.unique(both, axis=0)) == len(both) == len(whole.theta)
        np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(whole.theta, axis=0))
        assert abs(len(held_out.theta) - 0.33 * len(both)) <= 0.5
    plan.make(report=silent)
    found = content(plan)
    assert (found["n_atoms"], found["n_held_out"]) == ({"x": 27, "y": 11}, {"x": 13, "y": 6})


def test_the_files(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "_save", SAVE)
    plan = planned(replace(ASKED, **CASES["weights"]))
    choice = plan.make(report=silent).choice
    assert sorted(path.name for path in plan.folder.iterdir()) == [
        "regressions.csv",
        "scatter.png",
        "sweep.csv",
        "sweep.json",
        "sweep.png",
    ]
    found = content(plan)
    assert found["format"] == "crbsvd-sweep/1"
    assert found["crb_weights"] == [0.0, 0.3, 1.0]
    assert (found["parameter_weights"], found["class_weights"]) == ({"b": 3.0}, {"y": 0.5, "y:r": 0.0})
    assert (found["model"], found["prior"]) == ({"name": "decay"}, json.loads(json.dumps(PRIOR.spec)))
    assert found["n_dependent"] == {}
    assert 0 <= found["outside"] < 1e-9
    assert found["convergence"] is None
    accumulator = trained(plan, [(atoms.label, atoms.theta, atoms.weight) for atoms in plan.training.atoms])
    atoms = figures(plan, accumulator.finish(choice.rank, choice.crb_weight, **CASES["weights"]).phi)
    for name, line in found["regressions"].items():
        x, y = ([values[name, figure] for *_, values in atoms] for figure in ("approximate", "exact"))
        # both are kept as float32, and the slope is of order 1
        np.testing.assert_allclose([line["slope"], line["intercept"]], np.polyfit(x, y, 1), rtol=1e-5, atol=1e-6)
    assert set(found["regressions"]) == {"r", "b"}
    with (plan.folder / "regressions.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    # five real unknowns, M0 being two: fewer than three complex coefficients lose all
    assert [(float(line["crb_weight"]), int(line["rank"]), line["parameter"]) for line in lines] == [
        (weight, rank, name) for weight in ASKED.crb_weights for rank in range(3, 7) for name in ("r", "b", "all")
    ]
    (line,) = (one for one in lines if (one["crb_weight"], one["rank"], one["parameter"]) == ("0.3", "4", "all"))
    atoms = figures(plan, accumulator.finish(6, 0.3, **CASES["weights"]).phi[:, :4])
    x, y = ([values[name, f] for name in ("r", "b") for *_, values in atoms] for f in ("approximate", "exact"))
    # six digits
    np.testing.assert_allclose([float(line["slope"]), float(line["intercept"])], np.polyfit(x, y, 1), rtol=2e-5)
    assert float(line["r_squared"]) == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=2e-5)
    assert int(line["n"]) == len(x)
    assert choice.crb_weight > 0  # not the first
    for name in ("sweep.png", "scatter.png"):
        assert (plan.folder / name).read_bytes().startswith(b"\x89PNG")
    with (plan.folder / "sweep.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == list(asdict(Row(0, 0, "", "", "", 0, 0, 0)))
    for line, row in zip(table, found["rows"], strict=True):
        for name, text in line.items():
            # six digits
            assert text == row[name] if isinstance(row[name], str) else np.isclose(float(text), row[name], rtol=5e-6)


def test_convergence_is_that_of_separate_trainings(planned: Planned) -> None:
    plan = planned(replace(ASKED, converge=True, rank=4))
    plan.make(report=silent)
    calls, labels = list(plan.model.calls), ["x", "y"]
    # every fingerprint once: 1/5 of each class, up to 1/2 of it, the rest, and those that are held out
    assert len(np.unique(np.concatenate(calls), axis=0)) == sum(map(len, calls)) == 57
    n = [len(theta) for theta in calls]
    assert n[:2] == [round(27 / 5), round(11 / 5)]
    assert [n[0] + n[2], n[1] + n[3]] == [pytest.approx(27 / 2, abs=0.6), pytest.approx(11 / 2, abs=0.6)]
    weights = [2.5, 1.0]
    trainings = {}
    for fraction, n_parts in ((0.2, 1), (0.5, 2), (1.0, 3)):
        joined = [np.concatenate(calls[i : 2 * n_parts : 2]) for i in range(2)]
        trainings[fraction] = trained(plan, list(zip(labels, joined, weights, strict=True)))
    rows, found = rows_of(plan), content(plan)["convergence"]
    assert [(one["share"], one["crb_weight"], one["rank"]) for one in found] == [
        (fraction, weight, rank) for fraction in (1.0, 0.5, 0.2) for weight in ASKED.crb_weights for rank in range(1, 5)
    ]
    for one in found:
        weight, rank = one["crb_weight"], one["rank"]
        phi, full = (trainings[part].finish(rank, weight).phi for part in (one["share"], 1.0))
        # sin of the largest angle: what of one is outside of the other
        angle = np.arcsin(min(1.0, np.linalg.norm(phi - full @ (full.conj().T @ phi), 2)))
        # merging in another order rounds Gram matrices by 1e-15 of their largest value, and their gaps are above 1e-3
        # of it: an angle of 1e-12, which the condition takes to below 1e-9 in a loss
        assert np.isclose(one["angle"], angle, rtol=0, atol=1e-11)
        atoms = figures(plan, phi)
        for name, mean in one["losses"].items():
            key = (name, "energy" if name == "signal" else "exact")
            average = np.average([values[key] for *_, values in atoms], weights=[w for _, w, _ in atoms])
            assert np.isclose(mean, average, rtol=0, atol=1e-9)
            if one["share"] == 1:
                assert mean == rows[weight, rank, "all", *key][0]
        assert one["angle"] < 1e-14 if one["share"] == 1 else one["angle"] > 1e-6


def test_a_sweep_of_which_all_is_kept_simulates_nothing_again(planned: Planned, tmp_path: Path) -> None:
    asked = replace(ASKED, converge=True, checkpoint=str(tmp_path / "kept"), rank=4)
    first = planned(asked)
    first.make(report=silent)
    *folds, held_out = sorted(path.name for path in tmp_path.glob("kept*"))
    assert folds == ["kept.1", "kept.2", "kept.3"]
    assert held_out.startswith("kept.held-out-")
    again = planned(asked, folder="again")
    again.make(report=silent)
    assert first.model.calls
    assert not again.model.calls
    for name in ("sweep.csv", "sweep.json"):
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes()
    # other weights need no fold, but are measured anew
    other = planned(replace(asked, crb_weights=(0.5,)), folder="other")
    other.make(report=silent)
    assert sum(map(len, other.model.calls)) == sum(len(atoms.theta) for atoms in other.held_out)
    assert len(list(tmp_path.glob("kept.held-out-*"))) == 2


def test_what_has_no_weight_has_none_in_the_choice(planned: Planned) -> None:
    plan = planned(replace(ASKED, crb_weights=(0.5,), rank=4, class_weights={"y": 0.0, ("x", "signal"): 2.0}))
    choice = plan.make(report=silent).choice
    rows = {(row["rank"], row["tissue"], row["parameter"], row["figure"]): row["mean"] for row in content(plan)["rows"]}
    names = [name for rank, tissue, name, figure in rows if (rank, tissue, figure) == (4, "x", "exact")]
    # the class that is left alone decides, whatever the other one loses
    lost = max(rows[choice.rank, "x", name, "exact"] for name in names)
    assert np.isclose(choice.crb_loss, lost, rtol=1e-12)
    assert np.isclose(choice.energy_loss, rows[choice.rank, "x", "signal", "energy"], rtol=1e-12)
    assert not np.isclose(lost, max(rows[choice.rank, "all", name, "exact"] for name in names), rtol=1e-3)


@pytest.mark.parametrize("label", ["one", "all"])
def test_one_weight_one_rank_one_tissue_one_parameter(planned: Planned, label: str) -> None:
    parameters = Decay().parameters[:2]
    ranges = {"r": Uniform(0.3, 2), "w": Uniform(-2, 2)}
    prior = Prior("single", (Tissue(label, ranges, n=3),))
    # two unknowns and M0 are 4 real numbers, so 2 coefficients are just enough
    plan = planned(replace(ASKED, crb_weights=(0.5,), rank=2, converge=True), prior, parameters=parameters)
    choice = plan.make(report=silent).choice
    assert (choice.crb_weight, choice.rank) == (0.5, 2)
    found = content(plan)
    # of three fingerprints one is held out; a line needs two
    assert (found["n_held_out"], found["regressions"]) == ({label: 1}, {})
    assert {row["tissue"] for row in found["rows"]} == {label, "all"}
    assert {row["parameter"] for row in found["rows"]} == {"signal", "r"}
    assert [one["share"] for one in found["convergence"]] == [1.0, 1.0, 0.5, 0.5, 0.2, 0.2]


def test_what_the_fingerprints_do_not_support_leaves_no_files(planned: Planned, tmp_path: Path) -> None:
    prior = Prior("few", (Tissue("x", RANGES, n=3),))
    # two fingerprints with two derivatives are 6 columns
    with pytest.raises(UserError, match="rank is 7, but the fingerprints support only 6 columns"):
        planned(replace(ASKED, crb_weights=(0.5,), rank=7), prior).make(report=silent)
    single = Prior("one", (Tissue("x", {name: Grid(0.5, 1, 1) for name in RANGES}),))
    with pytest.raises(UserError, match="--train grid gives 1 fingerprints, too few to hold some of them out"):
        planned(ASKED, single)
    assert not list(tmp_path.iterdir())


def test_the_estimate_counts_the_losses_that_are_kept(planned: Planned) -> None:
    def memory(asked: sweep.Request) -> float:
        words = planned(asked).estimate().split()
        return float(words[words.index("MiB") - 1])

    assert planned(ASKED).estimate().startswith("38 fingerprints of 13 frames, 19 held out: about ")
    # 19 atoms: 5 figures of 4 bytes, twice, and of one signal, 3 derivatives and 2 orthogonalised ones two complex
    # numbers, for 3000 weights x 13 ranks = 164 MiB; thrice with shares
    many = replace(ASKED, crb_weights=tuple(np.linspace(0, 1, 3000).tolist()), rank=13)
    expected = 19 * (2 * 5 * 4 + 6 * 2 * 16) * 3000 * 13 / 2**20
    few = memory(ASKED)
    assert abs(memory(many) - few - expected) < 2
    assert abs(memory(replace(many, converge=True)) - few - 3 * expected) < 2
