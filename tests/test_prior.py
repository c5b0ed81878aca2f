"""Priors of grids and of draws: their atoms, their thinning, and how they are split."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from crbsvd_plugin.distribution import Grid, Normal, Uniform, fixed
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.prior import Atoms, Prior, Tissue, split

Array = NDArray[Any]
T1_T2 = (Parameter("T1", "s", 1e-3, 20), Parameter("T2", "s", 1e-3, 20))
B1 = Parameter("B1", "", 0.1, 2, nuisance=True)
TABLE1, RELAXATION = PRESETS["mao-mrf-table1"], PRESETS["t1-t2"]


def theta_of(prior: Prior, parameters: tuple[Parameter, ...] = T1_T2) -> dict[str, Array]:
    return {atoms.label: atoms.theta for atoms in prior.atoms(parameters)}


def test_table_1_of_the_paper() -> None:
    assert TABLE1.size(T1_T2) == 281_250
    expected = {
        "gm+wm": (500, 0.5, 1.5, 0.010, 0.200),
        "fat": (125, 0.25, 0.55, 0.060, 0.140),
        "csf": (125, 3.0, 5.0, 1.5, 2.5),
    }
    assert [tissue.label for tissue in TABLE1.tissues] == list(expected)
    for tissue in TABLE1.tissues:
        n, *ranges = expected[tissue.label]
        theta = theta_of(TABLE1)[tissue.label]
        assert theta.shape == (n * n, 2)
        assert len(np.unique(theta, axis=0)) == n * n
        for column, low, high in zip(theta.T, ranges[::2], ranges[1::2], strict=True):
            step = (high - low) / n
            assert column.min() == low
            assert abs(column.max() - (high - step)) < 1e-12
            np.testing.assert_allclose(np.diff(np.unique(column)), step, rtol=1e-6)
        assert tissue.weight == 1


def test_b1_is_one_and_optional() -> None:
    for prior in (TABLE1, RELAXATION):
        for with_b1, plain in zip(prior.atoms((*T1_T2, B1)), prior.atoms(T1_T2), strict=True):
            np.testing.assert_array_equal(with_b1.theta[:, 2], 1)
            np.testing.assert_array_equal(with_b1.theta[:, :2], plain.theta)
    # columns in the order of the model's parameters
    swapped = theta_of(TABLE1, T1_T2[::-1])["fat"]
    assert swapped[:, 0].max() < 0.14
    assert swapped[:, 1].min() == 0.25


@pytest.mark.parametrize("n_atoms", [30, 1000, 20_000, 100_000])
def test_thinning_keeps_the_share_of_every_class(n_atoms: int) -> None:
    thin = TABLE1.thinned(n_atoms, T1_T2)
    assert abs(thin.size(T1_T2) / n_atoms - 1) < (0.3 if n_atoms < 1000 else 0.06)
    for tissue, whole in zip(thin.tissues, TABLE1.tissues, strict=True):
        here, there = theta_of(thin)[tissue.label], theta_of(TABLE1)[tissue.label]
        assert np.isclose(len(here) * tissue.weight, len(there), rtol=1e-12)
        np.testing.assert_array_equal(here.min(axis=0), there.min(axis=0))
        assert np.all(here < [whole.values[name].high for name in ("T1", "T2")])
    again = thin.thinned(max(n_atoms // 3, 12), T1_T2)
    assert np.isclose(sum(len(a.theta) * a.weight for a in again.atoms(T1_T2)), 281_250, rtol=1e-12)


@pytest.mark.parametrize("n_atoms", [8, 50, 3000])
def test_thinning_keeps_the_share_where_an_order_leaves_atoms_out(n_atoms: int) -> None:
    grids = {"T1": Grid(0.1, 0.9, 500), "T2": Grid(0.55, 0.9, 500)}
    other = Tissue("b", {"T1": fixed(0.9), "T2": Grid(0.1, 0.8, 900)})
    prior = Prior("ordered", (Tissue("a", grids, 2.0), other), (("T2", "T1"),))
    thin = prior.thinned(n_atoms, T1_T2)
    for here, there in zip(thin.atoms(T1_T2), prior.atoms(T1_T2), strict=True):
        assert len(here.theta) < len(there.theta)
        assert np.isclose(len(here.theta) * here.weight, len(there.theta) * there.weight, rtol=1e-12)


def test_thinning_leaves_small_priors_and_single_values_alone() -> None:
    assert TABLE1.thinned(281_250, T1_T2) is TABLE1
    assert TABLE1.thinned(10**9, T1_T2) is TABLE1
    one = TABLE1.thinned(1, (*T1_T2, B1))
    assert [len(theta) for theta in theta_of(one, (*T1_T2, B1)).values()] == [4, 4, 4]
    with pytest.raises(UserError, match="number of atoms is 0, expected at least 1"):
        TABLE1.thinned(0, T1_T2)


@pytest.mark.parametrize("n_atoms", [None, 3000])
def test_the_prior_of_a_fit_has_no_holes(n_atoms: int | None) -> None:
    prior = RELAXATION if n_atoms is None else RELAXATION.thinned(n_atoms, T1_T2)
    (tissue,) = prior.tissues
    theta = theta_of(prior)["all"]
    if n_atoms is not None:
        assert abs(len(theta) / n_atoms - 1) < 0.06
    assert np.all(theta[:, 1] <= theta[:, 0])
    t1, t2 = (tissue.values[name].values for name in ("T1", "T2"))
    # nothing but the order is left out, and neighbours differ by no more than one step
    assert len(theta) == sum(np.count_nonzero(t2 <= value) for value in t1)
    for values, low, high in ((t1, 0.1, 5.5), (t2, 0.005, 3.0)):
        step = (high / low) ** (1 / len(values))
        np.testing.assert_allclose(values[1:] / values[:-1], step, rtol=1e-9)
        np.testing.assert_allclose([values[0], values[-1]], [low, high / step], rtol=1e-9)
    assert np.count_nonzero((t1 > 1.5) & (t1 < 3)) >= 5
    for t1_wanted, t2_wanted in ((0.8, 0.05), (1.4, 0.1), (2.2, 0.5), (1.6, 1.4), (4.5, 2.0)):
        distance = np.abs(np.log(theta / [t1_wanted, t2_wanted]))
        steps = np.log([t1[1] / t1[0], t2[1] / t2[0]])
        assert np.any(np.all(distance <= 0.5001 * steps, axis=1))


def test_grids_that_do_not_fit_the_model_are_refused() -> None:
    tissue = Tissue("x", {"T1": Grid(1, 2, 3), "R2": fixed(1)})
    with pytest.raises(UserError, match=r"'x' has no values of T2, which the model needs"):
        tissue.theta(T1_T2)
    np.testing.assert_allclose(tissue.theta(T1_T2[:1])[:, 0], Grid(1, 2, 3).values)
    varied = Tissue("x", {"T1": Grid(1, 2, 3), "R2": Grid(1, 2, 2)})
    with pytest.raises(UserError, match=r"'x' varies R2, which the model does not have"):
        varied.theta(T1_T2[:1])


BRAIN = Prior(
    "brain",
    (
        Tissue("wm", {"T2": Uniform(0.02, 0.2, "log"), "T1": Normal(0.8, 0.1, 0.5, 1.2), "B1": fixed(1.0)}, 2.0, 3001),
        Tissue("gm", {"T1": Normal(1.3, 0.1), "T2": Grid(0.05, 0.1, 5), "B1": Uniform(0.8, 1.2)}, n=999),
        Tissue("csf", {"T1": Grid(3.0, 5.0, 7), "T2": Grid(1.5, 2.5, 4), "B1": fixed(1.0)}, 0.5),
    ),
    ordered=(("T2", "T1"),),
)
ALL = (*T1_T2, B1)


def test_draws_are_distributed_as_they_are_said_to_be() -> None:
    theta = theta_of(BRAIN, ALL)
    expected = {
        ("wm", 0): scipy.stats.truncnorm(-3, 4, 0.8, 0.1),
        ("wm", 1): scipy.stats.loguniform(0.02, 0.2),
        ("gm", 0): scipy.stats.norm(1.3, 0.1),
        ("gm", 2): scipy.stats.uniform(0.8, 0.4),
    }
    for (label, column), distribution in expected.items():
        values = theta[label][:, column]
        n = len(values)
        # random draws have 0.87 on the average
        assert scipy.stats.kstest(values, distribution.cdf).statistic < 0.3 / np.sqrt(n)
        assert len(np.unique(values)) == n
        assert abs(values.mean() - distribution.mean()) < 0.5 * distribution.std() / np.sqrt(n)  # random draws: 1
    # parameters are independent, and so is each from the other tissue's
    assert abs(np.corrcoef(theta["wm"][:, 0], theta["wm"][:, 1])[0, 1]) < 0.01
    assert abs(np.corrcoef(theta["gm"][:, 0], theta["gm"][:, 2])[0, 1]) < 0.01
    assert abs(np.corrcoef(theta["gm"][:, 2], theta["wm"][:999, 1])[0, 1]) < 0.5
    # a fixed value is one; a grid gives its own values, equally often
    np.testing.assert_array_equal(theta["wm"][:, 2], 1)
    values, counts = np.unique(theta["gm"][:, 1], return_counts=True)
    np.testing.assert_array_equal(values, Grid(0.05, 0.1, 5).values)
    assert np.ptp(counts) <= 8
    assert theta["csf"].shape == (28, 3)


def test_draws_are_the_same_again_and_can_be_extended() -> None:
    draws = {n: Tissue("wm", BRAIN.tissues[0].values, n=n).theta(ALL) for n in (1, 500, 3001)}
    for n, theta in draws.items():
        assert theta.shape == (n, 3)
        np.testing.assert_array_equal(theta, theta_of(BRAIN, ALL)["wm"][:n])
    # the order of the model's parameters is that of the columns and changes no value
    np.testing.assert_array_equal(BRAIN.tissues[0].theta(ALL[::-1]), draws[3001][:, ::-1])
    other = Tissue("white", BRAIN.tissues[0].values, n=500).theta(ALL)
    assert not np.isin(other[:, :2], draws[3001][:, :2]).any()


def test_thinned_draws_keep_their_share() -> None:
    thin = BRAIN.thinned(400, ALL)
    assert [tissue.n for tissue in thin.tissues] == [298, 99, None]
    assert abs(thin.size(ALL) - 400) < 20
    for here, there in zip(thin.atoms(ALL), BRAIN.atoms(ALL), strict=True):
        assert np.isclose(len(here.theta) * here.weight, len(there.theta) * there.weight, rtol=1e-12)
    np.testing.assert_array_equal(theta_of(thin, ALL)["wm"], theta_of(BRAIN, ALL)["wm"][:298])
    assert BRAIN.thinned(4028, ALL) is BRAIN
    assert [len(theta) for theta in theta_of(BRAIN.thinned(1, ALL), ALL).values()] == [1, 1, 4]


@pytest.mark.parametrize("prior", [BRAIN, BRAIN.thinned(100, ALL), TABLE1.thinned(500, ALL)], ids=lambda p: p.name)
def test_shifted_priors_have_no_point_in_common(prior: Prior) -> None:
    found = [theta_of(p, ALL) for p in (prior, prior.shifted(), prior.shifted().shifted())]
    for tissue in prior.tissues:
        thetas = [theta[tissue.label] for theta in found]
        for column in range(3):
            values = [set(theta[:, column]) for theta in thetas]
            if len(values[0]) > 1:
                assert not values[0] & values[1]
                assert not values[0] & values[2]
                assert not values[1] & values[2]
        assert [len(theta) for theta in thetas] == [len(thetas[0])] * 3
    values = theta_of(BRAIN.shifted(), ALL)["wm"][:, 0]
    assert scipy.stats.kstest(values, scipy.stats.truncnorm(-3, 4, 0.8, 0.1).cdf).statistic < 0.3 / np.sqrt(3001)


def test_a_tissue_of_fixed_values_only() -> None:
    one = Prior("one", (Tissue("x", {"T1": fixed(1.0), "T2": fixed(0.1)}),))
    np.testing.assert_array_equal(theta_of(one)["x"], [[1.0, 0.1]])
    np.testing.assert_array_equal(theta_of(one.shifted())["x"], [[1.0, 0.1]])
    assert one.thinned(1, T1_T2) is one


UNIFORM = Uniform(0.1, 0.2)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Prior("p", ()), "prior 'p' has no tissues, expected at least one"),
        (lambda: Prior("p", (BRAIN.tissues[0],) * 2), "prior 'p' has 2 tissues 'wm'; rename all but one"),
        (lambda: Tissue("x", {"T1": UNIFORM}), "'x' has no n, which says how many values of T1 to draw; give it"),
        (lambda: Tissue("x", {"T1": UNIFORM}, n=0), "'x' has n = 0, expected at least 1 draw"),
        (lambda: Tissue("x", {"T1": UNIFORM}, 0.0, n=1), "'x' has weight 0, expected above 0, to 1e.12"),
        (lambda: Tissue("x", {"T1": UNIFORM}, np.nan, n=1), "'x' has weight nan"),
        (lambda: Tissue("x", {"T1": UNIFORM}, n=5).theta(T1_T2), "'x' has no values of T2, which the model needs"),
        (lambda: Tissue("x", {"T1": UNIFORM, "R2": UNIFORM}, n=5).theta(T1_T2[:1]), "'x' varies R2, which the model"),
        (
            lambda: Prior("p", BRAIN.tissues[2:], (("B1", "T1"),)).atoms(T1_T2),
            r"prior 'p' orders B1, which the model lacks; it has \['T1', 'T2'\]",
        ),
        (
            lambda: Prior("p", BRAIN.tissues, (("T1", "T2"),)).size(ALL),
            "prior 'p': no atom of 'wm' has T1 <= T2; change their ranges, or leave out the order",
        ),
        (
            lambda: Prior("p", (Tissue("x", {"T1": Normal(0.1, 0.1), "T2": UNIFORM}, n=500),)).atoms(T1_T2),
            r"'x' has T1 from -0\.\d+ to 0\.\d+ s, but the model is defined from 0.001 to 20; narrow the prior",
        ),
        (lambda: split((), 0.0), "share of held-out atoms is 0.0, expected between 0 and 1"),
        (lambda: split((), 1.0), "share of held-out atoms is 1.0"),
    ],
)  # fmt: skip
def test_priors_that_make_no_sense(make: Callable[[], object], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_prior_can_be_written_into_a_sidecar() -> None:
    spec = json.loads(json.dumps(RELAXATION.spec, allow_nan=False))
    assert spec["tissues"][0]["values"]["T1"] == {"kind": "grid", "low": 0.1, "high": 5.5, "n": 400, "spacing": "log"}
    assert spec["ordered"] == [["T2", "T1"]]
    wm, gm, _ = json.loads(json.dumps(BRAIN.shifted().spec, allow_nan=False))["tissues"]
    assert (wm["label"], wm["n"], wm["weight"], wm["offset"]) == ("wm", 3001, 2.0, 1)
    assert wm["values"]["T2"] == {"kind": "log-uniform", "low": 0.02, "high": 0.2}
    assert gm["values"]["T1"] == {"kind": "normal", "mean": 1.3, "sd": 0.1, "low": None, "high": None}


def assert_split(atoms: Atoms, share: float = 0.33) -> tuple[Array, Array]:
    (training,), held_out = split([atoms], share)
    assert all((part.label, part.weight) == (atoms.label, atoms.weight) for part in (training, *held_out))
    parts = training.theta, held_out[0].theta if held_out else np.empty((0, atoms.theta.shape[1]))
    # complete and disjoint: the rows, sorted, are the same
    both = np.concatenate(parts)
    np.testing.assert_array_equal(both[np.lexsort(both.T)], atoms.theta[np.lexsort(atoms.theta.T)])
    return parts


@pytest.mark.parametrize("sizes", [(70, 50), (12, 40), (89, 60), (60, 89), (99, 33), (30, 169), (3, 99), (31, 32, 33)])
def test_a_product_grid_is_split_evenly_along_every_parameter(sizes: tuple[int, ...]) -> None:
    parameters = ALL[: len(sizes)]
    grids = [Grid(0.2, 1.2, n, spacing) for n, spacing in zip(sizes, ("log", "linear", "log"), strict=False)]
    values = {parameter.name: grid for parameter, grid in zip(parameters, grids, strict=True)}
    (atoms,) = Prior("p", (Tissue("x", values, 3.0),)).atoms(parameters)
    training, held_out = assert_split(atoms)
    assert len(held_out) == round(0.33 * len(atoms.theta))
    for column, n in enumerate(sizes):
        counts = [np.count_nonzero(held_out[:, column] == value) for value in np.unique(atoms.theta[:, column])]
        of_each = len(atoms.theta) / n
        # of the n positions on a line, every stretch of the circle gets its share to within one and a half; and the
        # common threshold is off by as much
        assert np.max(np.abs(np.array(counts) - 0.33 * of_each)) <= 3 * of_each / min(
            sizes[:column] + sizes[column + 1 :]
        )
        assert set(training[:, column]) == set(atoms.theta[:, column])


def test_draws_and_ordered_grids_are_split_evenly() -> None:
    for prior, parameters in ((BRAIN, ALL), (RELAXATION.thinned(5000, T1_T2), T1_T2)):
        for atoms in prior.atoms(parameters):
            training, held_out = assert_split(atoms)
            assert len(held_out) == round(0.33 * len(atoms.theta))
            for part in (training, held_out):
                for column in range(len(parameters)):
                    # a random choice has 0.7 on the average; were the two sequences related, it would be about 10
                    distance = scipy.stats.ks_2samp(part[:, column], atoms.theta[:, column]).statistic
                    assert distance < 0.55 / np.sqrt(len(held_out))
    # one parameter alone: every stretch of the sorted draws has its share to within two, and the draws likewise
    (atoms,) = Prior("p", (Tissue("x", {"T1": Uniform(1, 2)}, n=1000),)).atoms(T1_T2[:1])
    for part in assert_split(atoms):
        assert scipy.stats.kstest(part[:, 0], "uniform", (1, 1)).statistic < 4 / 330


@pytest.mark.parametrize(
    ("n", "share", "n_out"), [(1, 0.33, 0), (2, 0.01, 1), (2, 0.99, 1), (3, 0.33, 1), (10, 0.5, 5)]
)
def test_small_classes_are_split_too(n: int, share: float, n_out: int) -> None:
    training, held_out = assert_split(Atoms("x", np.arange(2.0 * n).reshape(n, 2), 2.0), share)
    assert (len(training), len(held_out)) == (n - n_out, n_out)
    # atoms that are all the same
    training, held_out = assert_split(Atoms("x", np.ones((n, 2))), share)
    assert (len(training), len(held_out)) == (n - n_out, n_out)
