"""What is checked before a training, what is estimated, and what is passed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import request
from crbsvd_plugin.cli.basis import command as basis_verb
from crbsvd_plugin.cli.sweep import command as sweep_verb
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.prior import Atoms
from crbsvd_plugin.progress import silent
from crbsvd_plugin.request import Request
from crbsvd_plugin.subspace import TOLERANCE

ASKED = Request(spec="mrf-fisp", settings=("flip_angles=[0.2, 0.5, 0.9, 0.4, 0.1, 0.7, 0.3]",))
ATOMS = (
    Atoms("wm", np.array([[0.8, 0.05], [0.9, 0.06], [1.0, 0.07]]), 2.0),
    Atoms("csf", np.array([[4.0, 2.0]])),
)


class Slow:
    """Two parameters, one of them a nuisance; an atom takes 2 ms, with derivatives 5 ms, and compiling 100 s."""

    parameters = (Parameter("T1", "s", 0, 10), Parameter("T2", "s", 0, 10, nuisance=True))
    n_frames = 7
    spec: Mapping[str, Any] = MappingProxyType({})

    def __init__(self) -> None:
        self.now, self.compiled = 0.0, False

    def run(self, n_atoms: int, each: float) -> None:
        self.now += each * n_atoms + (0 if self.compiled else 100)
        self.compiled = True

    def signal(self, theta: np.ndarray) -> np.ndarray:
        self.run(len(theta), 0.002)
        return np.ones((len(theta), 7), complex)

    def signal_and_jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.run(len(theta), 0.005)
        return np.ones((len(theta), 7), complex), np.ones((len(theta), 2, 7), complex)


@pytest.mark.parametrize(("jacobian", "each"), [(False, 0.002), (True, 0.005)])
def test_seconds_are_those_of_all_atoms_without_compiling(
    monkeypatch: pytest.MonkeyPatch, jacobian: bool, each: float
) -> None:
    model = Slow()
    monkeypatch.setattr(request.time, "perf_counter", lambda: model.now)
    many = [*ATOMS, Atoms("gm", np.ones((996, 2)))]
    assert np.isclose(request.seconds(model, many, jacobian=jacobian), 1000 * each)


def test_memory_is_at_least_that_of_the_arrays() -> None:
    training = Request(spec="").training(Slow(), ATOMS)
    found = (request.mebibytes(training) - request.PROGRAM) * 2**20
    # a batch of 3 atoms with signal and 2 derivatives of 7 complex numbers, the subspace of 7 dimensions, and
    # 2 classes x 2 blocks of 7 x 7 complex numbers
    batch, frame, gram = 16 * 3 * 3 * 7, 8 * 7 * 7, 16 * 7 * 7
    assert batch + frame + 4 * gram <= found <= 6 * batch + frame + 4 * gram
    more = (request.mebibytes(training, n_accumulators=3) - request.PROGRAM) * 2**20
    assert np.isclose(more - found, 2 * (frame + 4 * gram))


def test_a_training_has_what_was_asked_for() -> None:
    model = ASKED.resolved().model
    assert model.n_frames == 7
    asked = replace(ASKED, fisher="complex", conjugate=True)
    training = asked.training(model, ATOMS)
    assert (training.fisher, training.conjugate, training.atoms, training.size) == ("complex", True, ATOMS, 4)
    seen: list[tuple[str, int, int]] = []
    accumulator = asked.run(training, pool=None, report=lambda *step: seen.append(step))
    assert accumulator.n_atoms == {"wm": 3, "csf": 1}
    assert (accumulator.fisher, accumulator.conjugate) == ("complex", True)
    assert seen[0] == ("fingerprints", 0, 4)
    assert seen[-1] == ("fingerprints", 4, 4)


def test_a_run_is_kept_in_the_checkpoint(tmp_path: Any) -> None:
    asked = replace(ASKED, checkpoint=str(tmp_path / "kept"))
    training = asked.training(asked.resolved().model, ATOMS)
    first = asked.run(training, pool=None, report=silent)
    assert (tmp_path / "kept").is_file()
    again = asked.run(training, pool=None, report=silent)
    np.testing.assert_array_equal(again.finish(3, 0.5).phi, first.finish(3, 0.5).phi)
    other = replace(asked, fisher="complex")
    with pytest.raises(UserError, match='fisher is "real" in it and "complex" now'):
        other.run(other.training(training.model, ATOMS), pool=None, report=silent)


def test_a_cluster_is_connected_to_only_where_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    @contextmanager
    def connect(**options: Any) -> Iterator[str]:
        asked.append(options)
        yield "pool"

    monkeypatch.setattr("crbsvd_plugin.cluster.session.connect", connect)
    with ASKED.pool() as pool:
        assert pool is None
    for options in ({"workers": 2}, {"scheduler": "tcp://a:1"}):
        with replace(ASKED, **options).pool() as pool:
            assert pool == "pool"
    assert asked == [{"workers": 2, "scheduler": None}, {"workers": None, "scheduler": "tcp://a:1"}]


def test_sizes() -> None:
    prior, model = PRESETS["mao-mrf-table1"], ASKED.resolved().model
    assert request.sized(prior, "grid", "--train", model) is prior
    small = request.sized(prior, "300", "--train", model)
    assert small == prior.thinned(300, model.parameters)
    assert request.sized(prior, "9" * 15, "--train", model) is prior
    for wrong in ("", "-1", "1e3", "2.5", "Grid", "none", "²", "9" * 400, "9" * 5000):
        with pytest.raises(UserError, match=r"--train is '.*', expected grid or a number"):
            request.sized(prior, wrong, "--train", model)
    with pytest.raises(UserError, match="number of atoms is 0"):
        request.sized(prior, "0", "--train", model)


@pytest.mark.parametrize(
    ("change", "rank", "weights", "match"),
    [
        ({}, 0, [0.3], "--rank is 0, expected 1 to the number of frames, 7"),
        ({}, 8, [0.3], "--rank is 8"),
        ({}, 3, [0.3, 1.1], "--crb-weight is 1.1, expected 0 to 1"),
        ({}, 3, [-0.1], "--crb-weight is -0.1"),
        ({}, 3, [float("nan")], "--crb-weight is nan"),
        ({"parameter_weights": {"T22": 1}}, 3, [0.3], r"parameter weight of 'T22': .* \(did you mean 'T2'\?\)"),
        ({"parameter_weights": {"T1": -1}}, 3, [0.3], "weight of 'T1' is -1, expected 0 to 1e.12"),
        ({"parameter_weights": {"T1": float("nan")}}, 3, [0.3], "weight of 'T1' is nan"),
        ({"parameter_weights": {"signal": 1}}, 3, [0.3], "parameter weight of 'signal': unknown"),
        ({"class_weights": {"cfs": 1}}, 3, [0.3], r"class weight of 'cfs': .* \(did you mean 'csf'\?\)"),
        ({"class_weights": {("csf", "T22"): 1}}, 3, [0.3], r"\(did you mean 'T2'\?\)"),
        ({"class_weights": {("cfs", "T1"): 1}}, 3, [0.3], r"\(did you mean 'csf'\?\)"),
        ({"class_weights": {"csf": float("inf")}}, 3, [0.3], "weight of 'csf' is inf"),
        ({"class_weights": {"csf": 0, "wm": 0}}, 3, [0.3], "with a crb weight of 0.3 nothing has a weight above zero"),
        ({"parameter_weights": {"T1": 0, "T2": 0}}, 3, [0.5, 1], "with a crb weight of 1 nothing has a weight"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_work(
    change: dict[str, Any], rank: int, weights: list[float], match: str
) -> None:
    asked = replace(ASKED, **change)
    training = asked.training(ASKED.resolved().model, ATOMS)
    with pytest.raises(UserError, match=match) as found:
        asked.check(training, rank=rank, crb_weights=weights)
    assert "\n" not in str(found.value)


def test_what_can_be_made_is_not_refused() -> None:
    asked = replace(
        ASKED, parameter_weights={"T2": 0}, class_weights={"csf": 0, ("wm", "T1"): 0.5, ("csf", "signal"): 2}
    )
    asked.check(asked.training(ASKED.resolved().model, ATOMS), rank=7, crb_weights=[0, 0.5, 1])
    # a nuisance is no parameter of interest
    with pytest.raises(UserError, match=r"parameter weight of 'T2': unknown, expected one of \['T1'\]"):
        asked.check(asked.training(Slow(), ATOMS), rank=7, crb_weights=[0])


def test_the_tolerance_is_that_of_the_fold_or_of_the_model() -> None:
    for verb in (basis_verb, sweep_verb):
        (option,) = (option for option in verb.params if option.name == "tolerance")
        assert f"else {TOLERANCE:g}, of qmt-hsfp 1e-4" in option.help
    for name, expected in (("mrf-fisp", TOLERANCE), ("qmt-hsfp", 1e-4)):
        asked = Request(spec=name)
        spec = asked.resolved()
        assert asked.settled(spec).training(spec.model, ATOMS).tolerance == expected
        assert replace(asked, tolerance=1e-12).settled(spec).training(spec.model, ATOMS).tolerance == 1e-12


def test_the_forecast_of_a_long_train_is_above_what_was_met() -> None:
    """6 x 1142 pulses of the paper: where its subspace is cut, a sweep of 8,239 fingerprints took 2.19 GB."""
    alpha = np.full((6, 1142), 0.3).tolist()
    settings = [f"alpha={alpha}", f"TRF={np.full((6, 1142), 3e-4).tolist()}"]
    asked = Request(spec="qmt-hsfp", settings=settings, train="8192")
    spec = asked.resolved()
    atoms = spec.prior.thinned(8192, spec.model.parameters).atoms(spec.model.parameters)
    assert 2090 < request.mebibytes(asked.settled(spec).training(spec.model, atoms)) < 3800
