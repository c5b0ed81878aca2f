"""Bases with exact bounds: what they cost against CRB-SVD and the least possible, and when the start is kept."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from crb_case import FISHERS, Array, Fisher, gaussian

from crbsvd_plugin import choose, crb, fingerprints, models
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.choose import improved
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fingerprints import prepared
from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.frontier import Frontier
from crbsvd_plugin.model import SignalModel
from crbsvd_plugin.prior import Atoms
from crbsvd_plugin.training import Training
from crbsvd_plugin.weighting import Block, Weighting

RANK = 4


pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Case:
    """A small training, real (FISP) or complex (balanced, with off-resonance)."""

    training: Training
    held_out: Sequence[Atoms]
    accumulator: BasisAccumulator
    factors: dict[Block, float]

    def start(self, rank: int = RANK, weight: float = 0.5) -> Basis:
        return self.accumulator.finish(rank, weight)

    def losses(self, phi: Array, atoms: Sequence[Atoms], *, worst: bool = False) -> tuple[float, float]:
        """Return energy and mean exact CRB loss, weighted, from the bounds in time."""
        model, fisher = self.training.model, self.training.fisher
        targets = crb.interesting(model.parameters)
        lost, whole, losses, weights = 0.0, 0.0, [], []
        for part in atoms:
            signal, jac = model.signal_and_jacobian(part.theta)
            found = crb.bounds(signal, jac, phi, targets=targets, fisher=fisher)
            energy = part.weight * self.factors[part.label, "signal"] * crb.energy(signal)
            lost, whole = lost + float(energy @ crb.energy_loss(signal, phi)), whole + float(energy.sum())
            losses.append(crb.crb_loss(found.uncompressed, found.exact))
            names = [model.parameters[i].name for i in targets]
            weights.append(np.tile([part.weight * self.factors[part.label, n] for n in names], (len(signal), 1)))
        loss, weight = np.concatenate(losses), np.concatenate(weights)
        if worst:
            assert np.ptp(weight) == 0
            loss = np.sort(loss, axis=0)[::-1][: len(loss) // 10]
            return lost / whole, float(loss.mean())
        return lost / whole, float(np.sum(weight * loss) / weight.sum())


def made(model: SignalModel, classes: Sequence[Atoms], held_out: Sequence[Atoms], **options: Any) -> Case:
    training = Training(model=model, atoms=classes, **options)
    accumulator = training.run()
    return Case(training, held_out, accumulator, Weighting(0.5).factors(accumulator.blocks))


def fisp(rng: np.random.Generator, n: int = 40) -> Case:
    model = models.build({"name": "mrf-fisp", "flip_angles": np.linspace(0.1, 1.1, 61), "recovery": None})
    draw = lambda size: np.stack([rng.uniform(0.5, 2, size), rng.uniform(0.03, 0.2, size)], axis=1)  # noqa: E731
    return made(
        model, [Atoms("a", draw(n)), Atoms("b", draw(7), 2.5)], [Atoms("a", draw(21)), Atoms("b", draw(5), 2.5)]
    )


def balanced(rng: np.random.Generator, fisher: Fisher) -> Case:
    angles = 0.3 + 0.25 * np.sin(np.arange(61) / 7)
    model = models.build({"name": "bssfp-mrf", "flip_angles": angles, "tr": 5e-3, "phases": np.zeros(61)})

    def draw(size: int) -> Array:
        columns = [rng.uniform(0.5, 2, size), rng.uniform(0.03, 0.2, size), rng.uniform(-300, 300, size)]
        return np.stack(columns, axis=1)

    return made(model, [Atoms("a", draw(40))], [Atoms("a", draw(20))], fisher=fisher)


def cases(rng: np.random.Generator) -> list[Case]:
    return [fisp(rng), *(balanced(rng, fisher) for fisher in FISHERS)]


def test_costs_are_those_of_the_bounds_in_time(rng: np.random.Generator) -> None:
    for case in cases(rng):
        found = prepared(case.accumulator, case.training, case.held_out, case.factors)
        basis = improved(case.start(), case.accumulator, found, case.factors)
        assert np.iscomplexobj(basis.phi) == np.iscomplexobj(case.start().phi)
        facts = basis.info["exact"]
        shares = Frontier(case.accumulator, case.factors, RANK, found.columns).shares
        for atoms, end in ((case.training.atoms, ""), (case.held_out, "_held_out")):
            for phi, name in ((basis.phi, "cost"), (case.start().phi, "start")):
                energy, crb_loss = case.losses(phi, atoms)
                # outside of the dimensions of the fold is less than 1e-18 of any block
                assert facts[name + end] == pytest.approx(shares[0] * energy + shares[1] * crb_loss, rel=1e-7)
        assert facts["least"] < facts["cost"] < facts["start"]
        assert facts["cost_held_out"] <= facts["start_held_out"]
        assert basis.info["method"] == "exact"


def test_columns_are_in_order_and_stay_orthonormal(rng: np.random.Generator) -> None:
    for case in cases(rng):
        found = prepared(case.accumulator, case.training, case.held_out, case.factors)
        basis = improved(case.start(), case.accumulator, found, case.factors)
        np.testing.assert_allclose(basis.phi.conj().T @ basis.phi, np.eye(RANK), atol=1e-12)
        assert (np.diff(basis.singular_values) < 0).all()
        # each column is orthogonal to the others in what it keeps, too
        gram = case.accumulator.weighed(case.factors)[0]
        small = basis.phi.conj().T @ case.accumulator.subspace.columns
        kept = small @ gram @ small.conj().T
        np.testing.assert_allclose(kept, np.diag(basis.singular_values**2), atol=1e-9 * basis.singular_values[0] ** 2)


def test_no_basis_costs_less_than_the_certificate(rng: np.random.Generator) -> None:
    for case in cases(rng):
        found = prepared(case.accumulator, case.training, case.held_out, case.factors)
        frontier = Frontier(case.accumulator, case.factors, RANK, found.columns)
        least = frontier.least(frontier.shares)
        weighted = [case.start(weight=w).phi for w in (0.0, 0.3, 0.7, 1.0)]
        random = [np.linalg.qr(gaussian(rng, 61, RANK))[0] for _ in range(3)]
        for phi in (*weighted, *random):
            energy, crb_loss = case.losses(phi, case.training.atoms)
            assert frontier.shares[0] * energy + frontier.shares[1] * crb_loss > least
        # it is what CRB-SVD leaves with approximate bounds
        losses = case.accumulator.losses(case.start().phi)["all"]
        wholes = [case.accumulator.weighed({k: f for k, f in case.factors.items() if k[1] == n})[1] for n in losses]
        approximate = sum(w * loss for w, loss in zip(wholes, losses.values(), strict=True)) / sum(wholes)
        if len(set(case.factors.values())) == 1:
            assert least == pytest.approx(approximate, rel=1e-6)


def test_random_starts_find_nothing_better(rng: np.random.Generator) -> None:
    """They may end in other minima of so small a training, but not below what was found from CRB-SVD on."""
    for case in cases(rng)[:2]:
        found = prepared(case.accumulator, case.training, case.held_out, case.factors)
        frontier = Frontier(case.accumulator, case.factors, RANK, found.columns)
        price = partial(choose._linear, frontier.shares)
        cost = improved(case.start(), case.accumulator, found, case.factors).info["exact"]["cost"]
        for _ in range(3):
            start = np.zeros((found.columns.shape[1], RANK), np.complex128 if case.accumulator.over_complex else float)
            start[:9] = np.linalg.qr(
                gaussian(rng, 9, RANK) if np.iscomplexobj(start) else rng.standard_normal((9, RANK))
            )[0]
            phi = choose._minimised([found.training], price, start, lambda _: None)
            # a search ends where an iteration gains less than 1e-7, of at most a few hundred
            assert found.training(phi, price)[0] > cost * (1 - 1e-4)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_the_energy_loss_is_kept(rng: np.random.Generator, share: float) -> None:
    for case in cases(rng)[:2]:
        ends = [case.losses(case.start(weight=w).phi, case.training.atoms)[0] for w in (0.0, 0.98)]
        energy_loss = ends[0] + share * (ends[1] - ends[0])
        found = prepared(case.accumulator, case.training, case.held_out, case.factors)
        basis = improved(case.start(), case.accumulator, found, case.factors, energy_loss=energy_loss)
        energy, crb_loss = case.losses(basis.phi, case.training.atoms)
        facts = basis.info["exact"]
        assert energy <= energy_loss
        assert crb_loss == pytest.approx(facts["cost"], rel=1e-6)
        assert facts["least"] < facts["cost"] < facts["start"]
        # no basis of CRB-SVD that keeps the energy loses less
        for weight in np.linspace(0, 0.98, 25):
            phi = case.start(weight=float(weight)).phi
            found = case.losses(phi, case.training.atoms)
            if found[0] <= energy_loss:
                assert found[1] > facts["cost"]
                assert found[1] > facts["least"]


def test_the_worst_tenth_loses_less(rng: np.random.Generator) -> None:
    case = balanced(rng, "real")
    bases = {}
    for worst in (False, True):
        found = prepared(case.accumulator, case.training, case.training.atoms, case.factors, worst=worst)
        bases[worst] = improved(case.start(), case.accumulator, found, case.factors)
        facts = bases[worst].info["exact"]
        assert facts["least"] < facts["cost"] < facts["start"]
        assert facts["worst"] == worst
    mean, tail = (
        [case.losses(bases[w].phi, case.training.atoms, worst=t)[1] for w in (False, True)] for t in (False, True)
    )
    assert mean[0] < mean[1]
    assert tail[1] < tail[0]


def test_the_start_is_kept_where_it_is_better(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = fisp(rng)
    found = prepared(case.accumulator, case.training, case.held_out, case.factors)
    bad = np.linalg.qr(rng.standard_normal((found.columns.shape[1], RANK)))[0]
    monkeypatch.setattr(choose, "_minimised", lambda *_: bad)
    with caplog.at_level(logging.WARNING):
        basis = improved(case.start(), case.accumulator, found, case.factors)
    assert "the latter is kept" in caplog.text
    np.testing.assert_allclose(basis.phi @ basis.phi.T, case.start().phi @ case.start().phi.T, atol=1e-7)
    assert basis.info["exact"]["cost"] == basis.info["exact"]["start"]


def test_some_of_the_fingerprints_where_all_take_too_much(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = fisp(rng, 41)
    monkeypatch.setattr(fingerprints, "_LIMIT", case.training.size * 3 * 16 * 61 // 2)
    found = prepared(case.accumulator, case.training, case.held_out, case.factors)
    some = [Atoms(part.label, part.theta[::2], part.weight * 2) for part in case.training.atoms]
    phi = case.start().phi
    found = found.training.losses(found.columns.T @ phi)
    np.testing.assert_allclose(found, case.losses(phi, some), rtol=1e-7)


def test_an_energy_loss_that_no_basis_has(rng: np.random.Generator) -> None:
    case = fisp(rng)
    found = prepared(case.accumulator, case.training, case.held_out, case.factors)
    with pytest.raises(UserError, match="every basis of rank 4 loses"):
        improved(case.start(), case.accumulator, found, case.factors, energy_loss=1e-9)


@pytest.mark.parametrize("fisher", FISHERS)
def test_ranks_that_are_too_small(rng: np.random.Generator, fisher: Fisher) -> None:
    with pytest.raises(UserError, match="--rank is 2, at which"):
        choose.check_rank(fisp(rng).training, 2)
    choose.check_rank(fisp(rng).training, 3)
    # three real parameters and a complex M0: five real unknowns
    case = balanced(rng, fisher)
    with pytest.raises(UserError, match="take a larger rank"):
        choose.check_rank(case.training, 2)
    choose.check_rank(case.training, 3 if fisher == "real" else 4)


def test_fingerprints_without_bounds(rng: np.random.Generator) -> None:
    """One class has no dependence on a parameter, or none has."""

    class Numb:
        """FISP whose derivatives by T2 are zero at T1 above 1 s."""

        def __init__(self, model: SignalModel, limit: float):
            self.model, self.limit = model, limit
            self.parameters, self.n_frames = model.parameters, model.n_frames

        def signal_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
            signal, jac = self.model.signal_and_jacobian(theta)
            jac[theta[:, 0] > self.limit] = 0
            return signal, jac

    training = fisp(rng).training
    ends = [Atoms(name, np.array([[t1, 0.1]] * 9)) for name, t1 in (("numb", 2.0), ("other", 0.9))]
    for order in (ends, ends[::-1]):
        some: Any = replace(training, model=Numb(training.model, 1.0), atoms=order)
        choose.check_rank(some, 3)
        with pytest.raises(UserError, match="--rank is 2, at which"):
            choose.check_rank(some, 2)
        none: Any = replace(training, model=Numb(training.model, 0.5), atoms=order)
        with pytest.raises(UserError, match="infinite even without a basis"):
            choose.check_rank(none, 3)


def test_bases_of_all_dimensions_lose_nothing(rng: np.random.Generator) -> None:
    """Of rank T: the search has no room, and costs are rounding, not below zero."""
    model = models.build({"name": "mrf-fisp", "flip_angles": np.linspace(0.1, 1.1, 5), "recovery": None})
    theta = np.stack([rng.uniform(0.5, 2, 30), rng.uniform(0.03, 0.2, 30)], axis=1)
    case = made(model, [Atoms("a", theta)], [Atoms("a", theta[:9])], tolerance=0.0)
    for worst, energy_loss in itertools.product((False, True), (None, 0.1)):
        found = prepared(case.accumulator, case.training, case.held_out, case.factors, worst=worst)
        basis = improved(case.start(5), case.accumulator, found, case.factors, energy_loss=energy_loss)
        np.testing.assert_allclose(basis.phi.conj().T @ basis.phi, np.eye(5), atol=1e-12)
        facts = basis.info["exact"]
        for name in ("cost", "start", "cost_held_out", "start_held_out"):
            # losses of h and kept, each good to eps times the condition of derivatives of unit norm, below 1e4 here
            assert 0 <= facts[name] < 1e-11
        assert 0 <= facts["least"] < 1e-11
