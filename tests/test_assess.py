"""Losses of several bases at all ranks against plain loops over `crb.bounds`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from crb_case import FISHERS, Array, Fisher, gaussian, random_data

from crbsvd_plugin import crb, models
from crbsvd_plugin.assess import Tally, assess
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.model import Batch, Parameter
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.training import compute_basis

PARAMETERS = [Parameter("a", "s", 0, 1), Parameter("n", "", 0, 1, nuisance=True), Parameter("b", "1", 0, 1)]
TARGETS = [0, 2]


def batches(rng: np.random.Generator) -> list[Batch]:
    """Three batches of two classes; b of atom 1 of the second batch cannot be estimated, its atom 2 has no signal."""
    found = []
    for label, n, weight in (("x", 5, 1.0), ("y", 4, 2.5), ("x", 3, 1.0)):
        signal, jac = random_data(rng, n=n)
        if label == "y":
            jac[1, 2], signal[2] = 0, 0
        found.append(Batch(rng.random((n, 3)), signal, jac, label, weight))
    return found


def phis(rng: np.random.Generator) -> list[Array]:
    return [np.linalg.qr(gaussian(rng, 11, 6))[0], np.linalg.qr(rng.standard_normal((11, 4)))[0]]


def tallied(data: list[Batch], bases: list[Array], fisher: Fisher = "real") -> Tally:
    tally = Tally(PARAMETERS, bases, fisher=fisher)
    for batch in data:
        tally.update(batch)
    return tally


def plain(data: list[Batch], phi: Array, label: str, fisher: Fisher) -> tuple[dict[Any, Array], Array]:
    """Return all figures (B,) of one class, or of all, and the weights (B,)."""
    chosen = [batch for batch in sorted(data, key=lambda b: b.label) if label in (batch.label, "all")]
    rows: dict[Any, list[Array]] = {}
    for batch in chosen:
        found = crb.bounds(batch.signal, batch.jac, phi, targets=TARGETS, fisher=fisher)
        rows.setdefault(("signal", "energy"), []).append(crb.energy_loss(batch.signal, phi))
        for i, name in enumerate("ab"):
            with np.errstate(invalid="ignore"):
                approximate = 1 - found.uncompressed[:, i] / found.approximate[:, i]
                exact = 1 - found.uncompressed[:, i] / found.exact[:, i]
            for figure, values in (("approximate", approximate), ("exact", exact), ("retained", 1 - exact)):
                rows.setdefault((name, figure), []).append(values)
    weights = np.concatenate([np.full(len(batch.theta), batch.weight) for batch in chosen])
    return {key: np.concatenate(parts) for key, parts in rows.items()}, weights


def quantile(values: Array, weights: Array, share: float) -> float:
    """Return the least value that `share` of the weight does not exceed."""
    for value in np.sort(values):
        if weights[values <= value].sum() >= share * weights.sum() * (1 - 1e-12):
            return float(value)
    raise AssertionError


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("label", ["x", "y", "all"])
def test_statistics_of_every_basis_and_rank_by_plain_loops(
    rng: np.random.Generator, label: str, fisher: Fisher
) -> None:
    data, bases = batches(rng), phis(rng)
    tally = tallied(data, bases, fisher)
    for basis, phi in enumerate(bases):
        for rank in range(1, phi.shape[1] + 1):
            expected, weights = plain(data, phi[:, :rank], label, fisher)
            losses, counts = tally.losses(basis, rank)[label], tally.counts(basis, rank)[label]
            assert {(name, figure) for name, figures in losses.items() for figure in figures} == set(expected)
            for (name, figure), values in expected.items():
                known = ~np.isnan(values)
                # figures of single atoms are kept as float32; a loss is a difference of numbers of order 1
                kept = tally.values(label, name, figure, basis, rank)
                np.testing.assert_allclose(kept, values, rtol=1.2e-7, atol=1.2e-7 if figure == "retained" else 1e-13)
                found, w = losses[name][figure], weights[known]
                assert np.isclose(found["mean"], np.average(values[known], weights=w), rtol=1e-12, atol=1e-14)
                for statistic, share in (("median", 0.5), ("worst_decile", 0.1 if figure == "retained" else 0.9)):
                    wanted = quantile(values[known], w, share)
                    assert np.isclose(found[statistic], wanted, rtol=1.2e-7, atol=1.2e-7)
                if figure == "exact":
                    finite = np.count_nonzero(values[known] < 1)
                    numbers = {"counted": known.sum(), "left_out": (~known).sum(), "finite": finite}
                    assert counts[name] == numbers
            assert tally.means(basis, rank)[label]["a"]["exact"] == losses["a"]["exact"]["mean"]
    assert tally.losses()[label] == tally.losses(0, 6)[label]
    assert tally.counts()["y"]["b"]["left_out"] == tally.counts()["y"]["signal"]["left_out"] == 1


def test_parameters_and_weights_stand_beside_the_values(rng: np.random.Generator) -> None:
    data = batches(rng)
    tally = tallied(data, phis(rng))
    assert tally.labels == ["x", "y"]
    assert tally.names == ["a", "b"]
    np.testing.assert_array_equal(tally.theta("x"), np.concatenate([data[0].theta, data[2].theta]))
    np.testing.assert_array_equal(tally.theta(), np.concatenate([data[i].theta for i in (0, 2, 1)]))
    np.testing.assert_array_equal(tally.weights(), [1.0] * 8 + [2.5] * 4)


def test_pieces_of_a_batch_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    data, bases = batches(rng), phis(rng)
    whole = tallied(data, bases)
    # the package has a function of the name of the module
    monkeypatch.setattr(sys.modules["crbsvd_plugin.assess"], "_PIECE", 1)
    single = tallied(data, bases)
    for label in ("x", "y"):
        # products of other shapes round differently, by 1e-16 of the coefficients; float32 may then differ by 6e-8
        one, other = (tally.values(label, "a", "exact") for tally in (whole, single))
        np.testing.assert_allclose(one, other, rtol=1.2e-7, atol=1e-13)


def test_a_state_is_restored_exactly_and_goes_on(rng: np.random.Generator, frozen: Callable[..., Array]) -> None:
    data, bases = batches(rng), phis(rng)
    whole, first = tallied(data, bases), tallied(data[:2], bases)
    values, arrays = first.state()
    arrays = {name: frozen(array) for name, array in arrays.items()}
    second = tallied([], bases)
    second.restore(values, arrays)
    assert second.losses(1, 3) == first.losses(1, 3)
    second.update(data[2])
    assert second.state()[0] == values == {"labels": ["x", "y"]}
    for name, array in whole.state()[1].items():
        np.testing.assert_array_equal(second.state()[1][name], array, strict=True)
    np.testing.assert_array_equal(first.state()[1]["0.atoms.energy"], arrays["0.atoms.energy"])
    for wrong in ({}, {**arrays, "1.atoms.energy": np.zeros((9, 4))}):
        with pytest.raises(ValueError, match=r"arrays .* expected 10 ranks"):
            second.restore(values, wrong)
    assert second.losses() == whole.losses()


def test_merging_equals_one_after_the_other(rng: np.random.Generator) -> None:
    data, bases = batches(rng), phis(rng)
    whole, one, other = tallied(data, bases), tallied(data[:1], bases), tallied(data[1:], bases)
    before = other.losses()
    one.merge(other)
    assert one.losses(0, 5) == whole.losses(0, 5)
    assert other.losses() == before
    for wrong in (tallied([], bases[:1]), tallied([], bases, "complex"), tallied([], [-phi for phi in bases])):
        with pytest.raises(ValueError, match="different parameters, bases or fisher"):
            one.merge(wrong)


def test_one_atom_one_frame_and_a_class_called_all(rng: np.random.Generator) -> None:
    tally = Tally(PARAMETERS[:1], [np.ones((1, 1))])
    signal = gaussian(rng, 1, 1)
    tally.update(Batch(np.ones((1, 1)), signal, signal[:, None] * 1j, "all"))
    # d/da is i times the signal: nothing can be estimated
    assert tally.counts() == {
        "all": {
            "signal": {"counted": 1, "left_out": 0, "finite": 1},
            "a": {"counted": 0, "left_out": 1, "finite": 0},
        }
    }
    found = tally.losses()["all"]
    assert abs(found["signal"]["energy"]["mean"]) < 1e-15
    assert np.isnan(list(found["a"]["exact"].values())).all()
    assert Tally(PARAMETERS, [np.ones((1, 1))]).losses() == {}


def test_what_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    batch, bases = batches(rng)[0], phis(rng)
    for wrong in ([], [np.ones(11)], [np.ones((11, 2)), np.ones((10, 2))], [np.ones((11, 0))]):
        with pytest.raises(ValueError, match=r"expected \(T, K\) with one T for all"):
            Tally(PARAMETERS, wrong)
    tally = tallied([batch], bases)
    assert batch.jac is not None
    for jac in (None, batch.jac[:, :2], batch.jac[..., :-1]):
        with pytest.raises(ValueError, match=r"derivatives, expected \(3, 11\) per atom"):
            tally.update(Batch(batch.theta, batch.signal, jac, "x"))
    for args, match in (
        (("z", "a", "exact"), r"no tissue class 'z', expected one of \['x', 'all'\]"),
        (("x", "n", "exact"), "no 'exact' of 'n'"),
        (("x", "a", "energy"), "no 'energy' of 'a'"),
        (("x", "a", "exact", 2), "basis is 2, expected 0 to 1"),
        (("x", "a", "exact", 1, 5), "rank is 5, expected 1 to 4"),
        (("x", "a", "exact", 1, 0), "rank is 0, expected 1 to 4"),
    ):
        with pytest.raises(ValueError, match=match):
            tally.values(*args)  # type: ignore[arg-type]


def test_assess_is_the_mean_of_the_losses_and_at_rank_3_crb_svd_loses_less_than_the_svd() -> None:
    model = models.build(
        {"name": "mrf-fisp", "flip_angles": models.build({"name": "mrf-fisp"}).spec["flip_angles"][::4]}
    )
    prior = PRESETS["mao-mrf-table1"].thinned(400, model.parameters)
    svd, ours = (compute_basis(model, prior, rank=3, crb_weight=weight) for weight in (0.0, 0.3))
    lost = [assess(model, prior.shifted(), basis) for basis in (svd, ours)]
    for name in ("T1", "T2"):
        assert lost[1]["all"][name]["exact"] < lost[0]["all"][name]["exact"]
        assert lost[1]["all"][name]["approximate"] < lost[0]["all"][name]["approximate"]
    assert lost[0]["all"]["signal"]["energy"] < lost[1]["all"]["signal"]["energy"]
    _agrees_with_plain_means(model, prior, ours)


def _agrees_with_plain_means(model: Any, prior: Any, basis: Basis) -> None:
    found, sums, total = assess(model, prior, basis), np.zeros(2), 0.0
    for atoms in prior.atoms(model.parameters):
        signal, jac = model.signal_and_jacobian(atoms.theta)
        bounds = crb.bounds(signal, jac, basis.phi)
        exact = 1 - bounds.uncompressed / bounds.exact
        means = [np.mean(crb.energy_loss(signal, basis.phi)), np.mean(exact, axis=0)[1]]
        assert np.isclose(found[atoms.label]["signal"]["energy"], means[0], rtol=1e-9)
        assert np.isclose(found[atoms.label]["T2"]["exact"], means[1], rtol=1e-9)
        sums += np.array(means) * len(signal) * atoms.weight
        total += len(signal) * atoms.weight
    assert np.isclose(found["all"]["signal"]["energy"], sums[0] / total, rtol=1e-9)
    assert np.isclose(found["all"]["T2"]["exact"], sums[1] / total, rtol=1e-9)
    assert np.isclose(found["all"]["T2"]["retained"], 1 - sums[1] / total, rtol=1e-9)
