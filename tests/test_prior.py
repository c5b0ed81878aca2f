"""Priors: their grids, their thinning, and the batches simulated from them."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.prior import PRESETS, Grid, Prior, Tissue, iter_batches

Array = NDArray[Any]
T1_T2 = (Parameter("T1", "s", 1e-3, 20), Parameter("T2", "s", 1e-3, 20))
B1 = Parameter("B1", "", 0.1, 2, nuisance=True)
TABLE1, RELAXATION = PRESETS["mao-mrf-table1"], PRESETS["t1-t2"]


class Exponentials:
    """T = 3 frames whose values say which atom they are of."""

    parameters = T1_T2
    n_frames = 3
    spec = MappingProxyType({"name": "exponentials"})

    def signal(self, theta: Array) -> Array:
        return np.stack([theta[:, 0], theta[:, 1], theta.sum(axis=1)], axis=1) + 0j

    def signal_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
        return self.signal(theta), np.ones((len(theta), 2, 3), complex)


def test_grids_are_half_open() -> None:
    np.testing.assert_allclose(Grid(1, 3, 4).values, [1, 1.5, 2, 2.5])
    np.testing.assert_allclose(Grid(1, 16, 4, "log").values, [1, 2, 4, 8])
    np.testing.assert_array_equal(Grid(0.7, 0.7, 1).values, [0.7])
    np.testing.assert_array_equal(Grid(0.7, 5, 1, "log").values, [0.7])


@given(
    low=st.floats(1e-3, 10),
    ratio=st.floats(1.01, 1e3),
    n=st.integers(2, 50),
    spacing=st.sampled_from(["linear", "log"]),
)
def test_shifted_grids_lie_within_the_steps(low: float, ratio: float, n: int, spacing: Any) -> None:
    grid = Grid(low, low * ratio, n, spacing)
    edges = np.append(grid.values, grid.high)
    points = grid.shifted().values
    share = np.log(points / edges[:-1]) / np.log(edges[1:] / edges[:-1])
    if spacing == "linear":
        share = (points - edges[:-1]) / np.diff(edges)
    # differences of the logarithms of numbers that are 1 % / 50 apart at the least
    np.testing.assert_allclose(share, 0.6180339887498949, atol=1e-10)
    assert Grid(low, low * ratio, 1, spacing).shifted() == Grid(low, low * ratio, 1, spacing)


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
        theta = TABLE1.atoms(tissue, T1_T2)
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
        theta = prior.atoms(prior.tissues[0], (*T1_T2, B1))
        np.testing.assert_array_equal(theta[:, 2], 1)
        np.testing.assert_array_equal(theta[:, :2], prior.atoms(prior.tissues[0], T1_T2))
    # columns in the order of the model's parameters
    swapped = TABLE1.atoms(TABLE1.tissues[1], T1_T2[::-1])
    assert swapped[:, 0].max() < 0.14
    assert swapped[:, 1].min() == 0.25


@pytest.mark.parametrize("n_atoms", [30, 1000, 20_000, 100_000])
def test_thinning_keeps_the_share_of_every_class(n_atoms: int) -> None:
    thin = TABLE1.thinned(n_atoms, T1_T2)
    assert abs(thin.size(T1_T2) / n_atoms - 1) < (0.3 if n_atoms < 1000 else 0.06)
    for tissue, whole in zip(thin.tissues, TABLE1.tissues, strict=True):
        here, there = thin.atoms(tissue, T1_T2), TABLE1.atoms(whole, T1_T2)
        assert np.isclose(len(here) * tissue.weight, len(there), rtol=1e-12)
        np.testing.assert_array_equal(here.min(axis=0), there.min(axis=0))
        assert np.all(here < [whole.grids[name].high for name in ("T1", "T2")])
    again = thin.thinned(max(n_atoms // 3, 12), T1_T2)
    assert np.isclose(sum(len(again.atoms(t, T1_T2)) * t.weight for t in again.tissues), 281_250, rtol=1e-12)


def test_thinning_leaves_small_priors_and_single_values_alone() -> None:
    assert TABLE1.thinned(281_250, T1_T2) is TABLE1
    assert TABLE1.thinned(10**9, T1_T2) is TABLE1
    one = TABLE1.thinned(1, (*T1_T2, B1))
    assert [len(one.atoms(tissue, (*T1_T2, B1))) for tissue in one.tissues] == [4, 4, 4]
    with pytest.raises(UserError, match="number of atoms is 0, expected at least 1"):
        TABLE1.thinned(0, T1_T2)


@pytest.mark.parametrize("n_atoms", [None, 3000])
def test_the_prior_of_a_fit_has_no_holes(n_atoms: int | None) -> None:
    prior = RELAXATION if n_atoms is None else RELAXATION.thinned(n_atoms, T1_T2)
    (tissue,) = prior.tissues
    theta = prior.atoms(tissue, T1_T2)
    if n_atoms is not None:
        assert abs(len(theta) / n_atoms - 1) < 0.06
    assert np.all(theta[:, 1] <= theta[:, 0])
    t1, t2 = tissue.grids["T1"].values, tissue.grids["T2"].values
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
    tissue = Tissue("x", {"T1": Grid(1, 2, 3), "R2": Grid(1, 2, 1)})
    with pytest.raises(UserError, match=r"'x' has no values of T2, which the model needs"):
        tissue.theta(T1_T2)
    np.testing.assert_allclose(tissue.theta(T1_T2[:1])[:, 0], Grid(1, 2, 3).values)
    varied = Tissue("x", {"T1": Grid(1, 2, 3), "R2": Grid(1, 2, 2)})
    with pytest.raises(UserError, match=r"'x' varies R2, which the model does not have"):
        varied.theta(T1_T2[:1])


@pytest.mark.parametrize("batch_size", [1, 7, 24, 1000])
@pytest.mark.parametrize("jacobian", [False, True])
def test_batches_hold_every_atom_once_in_order(batch_size: int, jacobian: bool) -> None:
    prior = Prior(
        "p",
        (
            Tissue("a", {"T1": Grid(1, 2, 5), "T2": Grid(0.1, 3, 5)}, 2.5),
            Tissue("b", {"T1": Grid(3, 4, 3), "T2": Grid(0.1, 0.2, 4)}),
        ),
        ordered=(("T2", "T1"),),
    )
    model = Exponentials()
    done: list[int] = []
    batches = list(iter_batches(model, prior, batch_size=batch_size, jacobian=jacobian, progress=done.append))
    for tissue in prior.tissues:
        own = [batch for batch in batches if batch.label == tissue.label]
        theta = prior.atoms(tissue, T1_T2)
        np.testing.assert_array_equal(np.concatenate([batch.theta for batch in own]), theta)
        np.testing.assert_array_equal(np.concatenate([batch.signal for batch in own]), model.signal(theta))
        assert {batch.weight for batch in own} == {tissue.weight}
    assert max(len(batch.theta) for batch in batches) <= batch_size
    assert done == [len(batch.theta) for batch in batches]
    assert sum(done) == prior.size(T1_T2) == 12 + sum(len(prior.atoms(prior.tissues[0], T1_T2)) for _ in "a")
    assert all((batch.jac is not None) is jacobian for batch in batches)


def test_a_prior_can_be_written_into_a_sidecar() -> None:
    spec = json.loads(json.dumps(RELAXATION.spec))
    assert spec["tissues"][0]["grids"]["T1"] == {"low": 0.1, "high": 5.5, "n": 400, "spacing": "log"}
    assert spec["ordered"] == [["T2", "T1"]]
