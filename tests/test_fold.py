"""The fold against numpy's dense SVD of D = [(1 - l) S, l J]."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crbsvd_plugin import crb, models
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fold import BasisAccumulator, compute_basis
from crbsvd_plugin.model import Batch, Parameter
from crbsvd_plugin.prior import PRESETS, iter_batches

Array = NDArray[Any]
Kind = Literal["complex", "real", "imaginary", "mixed"]
KINDS: tuple[Kind, ...] = ("complex", "real", "imaginary", "mixed")
T, RANK = 23, 4
PARAMETERS = (Parameter("a", "s", 0, 1), Parameter("n", "", 0, 1, nuisance=True), Parameter("b", "1/s", 0, 1))


def make_batches(rng: np.random.Generator, kind: Kind, sizes: tuple[int, ...] = (17, 40, 23)) -> list[Batch]:
    """Return one batch per class, the singular values of each falling by 0.6 per index."""
    shapes = np.linalg.qr(rng.standard_normal((T, T)) + 1j * rng.standard_normal((T, T)))[0] * 0.6 ** np.arange(T)
    batches = []
    for i, (size, label) in enumerate(zip(sizes, ("wm", "gm", "csf"), strict=True)):
        phases = rng.standard_normal((size, 4, T)) + 1j * rng.standard_normal((size, 4, T))
        rows = phases @ shapes.T * np.array([1.0, 4e4, 1.0, 2e-3])[:, None]
        part = {"complex": rows, "real": rows.real + 0j, "imaginary": 1j * rows.imag}
        rows = part["real" if i % 2 else "imaginary"] if kind == "mixed" else part[kind]
        batches.append(Batch(rng.uniform(size=(size, 3)), rows[:, 0], rows[:, 1:], label, (1.0, 0.25, 3.0)[i]))
    return batches


def dense(
    batches: list[Batch],
    weight: float,
    *,
    conjugate: bool = False,
    fisher: crb.Fisher = "real",
    factors: Mapping[tuple[str, str], float] | None = None,
) -> tuple[Array, Array]:
    """Return the left singular vectors and the singular values of the dense matrix D."""
    columns = []
    for batch in batches:
        assert batch.jac is not None
        unit = crb.orthogonalise(batch.signal, batch.jac, targets=[0, 2], fisher=fisher).unit
        blocks = {"signal": (1 - weight) * batch.signal, "a": weight * unit[:, 0], "b": weight * unit[:, 1]}
        for name, block in blocks.items():
            factor = (factors or {}).get((batch.label, name), 1.0)
            columns.append(np.sqrt(batch.weight * factor) * block.T)
    matrix = np.concatenate(columns, axis=1)
    if conjugate:
        # each counts by half
        matrix = np.concatenate([matrix, matrix.conj()], axis=1) / np.sqrt(2)
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    return u, s


def folded(batches: list[Batch], **options: Any) -> BasisAccumulator:
    accumulator = BasisAccumulator(PARAMETERS, T, **options)
    for batch in batches:
        accumulator.update(batch)
    return accumulator


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    assert batch.jac is not None
    for i in range(0, len(batch.theta), size):
        j = i + size
        yield replace(batch, theta=batch.theta[i:j], signal=batch.signal[i:j], jac=batch.jac[i:j])


def sine(a: Array, b: Array) -> float:
    """Return the sine of the largest angle between two subspaces of equal dimension."""
    return float(np.linalg.norm(b - a @ (a.conj().T @ b), 2))


def angle_tolerance(s: Array, rank: int = RANK) -> float:
    """Return how far rounding of the Gram matrix turns the subspace: Davis-Kahan, its norm over the gap."""
    return float(100 * np.finfo(float).eps * s[0] ** 2 / (s[rank - 1] ** 2 - s[rank] ** 2))


@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 0.9, 1])
def test_the_basis_equals_the_dense_svd(rng: np.random.Generator, kind: Kind, weight: float, conjugate: bool) -> None:
    batches = make_batches(rng, kind)
    u, s = dense(batches, weight, conjugate=conjugate)
    basis = folded(batches, conjugate=conjugate).finish(RANK, weight)
    tolerance = angle_tolerance(s)
    assert tolerance < 1e-11
    assert sine(u[:, :RANK], basis.phi) < tolerance
    assert sine(basis.phi, u[:, :RANK]) < tolerance
    np.testing.assert_allclose(basis.singular_values, s, atol=1e-7 * s[0])
    np.testing.assert_allclose(basis.singular_values[:RANK], s[:RANK], rtol=1e-11)
    assert np.iscomplexobj(basis.phi) is (kind == "complex" and not conjugate)
    assert np.linalg.norm(basis.phi.conj().T @ basis.phi - np.eye(RANK)) < 1e-13


@pytest.mark.parametrize("fisher", ["real", "complex"])
def test_both_fisher_matrices(rng: np.random.Generator, fisher: crb.Fisher) -> None:
    batches = make_batches(rng, "complex")
    other: crb.Fisher = "complex" if fisher == "real" else "real"
    phi = folded(batches, fisher=fisher).finish(RANK, 0.5).phi
    assert sine(dense(batches, 0.5, fisher=fisher)[0][:, :RANK], phi) < 1e-11
    assert sine(dense(batches, 0.5, fisher=other)[0][:, :RANK], phi) > 1e-3


@settings(max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    size=st.integers(1, 45),
    order=st.randoms(use_true_random=False),
    n_parts=st.integers(1, 5),
    weight=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_batch_size_order_and_merge_tree_do_not_matter(
    kind: Kind, size: int, order: Any, n_parts: int, weight: float
) -> None:
    batches = make_batches(np.random.default_rng(7), kind)
    cut = [piece for batch in batches for piece in pieces(batch, size)]
    order.shuffle(cut)
    trees = [folded(cut[i::n_parts]) for i in range(n_parts)]
    while len(trees) > 1:
        a, b = (trees.pop(order.randrange(len(trees))) for _ in range(2))
        a.merge(b)
        trees.append(a)
    found, expected = trees[0].finish(RANK, weight), folded(batches).finish(RANK, weight)
    assert trees[0].n_atoms == {"wm": 17, "gm": 40, "csf": 23}
    # column by column, phases and signs included
    np.testing.assert_allclose(found.phi, expected.phi, atol=1e-10)
    np.testing.assert_allclose(found.singular_values[:RANK], expected.singular_values[:RANK], rtol=1e-12)
    assert found.info["losses"]["all"] == pytest.approx(expected.info["losses"]["all"], abs=1e-12)
    u, s = dense(batches, weight)
    assert sine(u[:, :RANK], found.phi) < angle_tolerance(s)


def test_merging_leaves_the_other_accumulator_alone(rng: np.random.Generator) -> None:
    wm, gm, csf = make_batches(rng, "complex")
    a, b = folded([wm]), folded([gm])
    before = {key: gram.copy() for key, gram in b.grams.items()}
    a.merge(b)
    a.update(gm)
    a.merge(folded([csf]))
    for key, gram in before.items():
        np.testing.assert_array_equal(b.grams[key], gram)
    assert a.labels == ["wm", "gm", "csf"]


@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 0.9, 1])
def test_weighting_by_losses_equals_another_weight_of_eq_12(rng: np.random.Generator, weight: float) -> None:
    accumulator = folded(make_batches(rng, "complex"))
    squared = weight**2 / ((1 - weight) ** 2 + weight**2)
    by_svd, by_loss = accumulator.finish(RANK, weight), accumulator.finish(RANK, squared, weighting="loss")
    np.testing.assert_allclose(by_svd.phi, by_loss.phi, atol=1e-11)
    # the dense matrix of Eq. (5): square roots of the weights
    batches = make_batches(np.random.default_rng(3), "complex")
    roots = {(label, name): 1 / max(weight, 1e-300) for label in ("wm", "gm", "csf") for name in "ab"}
    roots |= {(label, "signal"): 1 / max(1 - weight, 1e-300) for label in ("wm", "gm", "csf")}
    u, s = dense(batches, weight, factors=roots)
    assert sine(u[:, :RANK], folded(batches).finish(RANK, weight, weighting="loss").phi) < angle_tolerance(s)


def test_weights_of_parameters_and_classes(rng: np.random.Generator) -> None:
    batches = make_batches(rng, "complex")
    accumulator = folded(batches)
    weights: dict[Any, float] = {"gm": 3.0, ("wm", "b"): 0.0, ("csf", "signal"): 0.5}
    basis = accumulator.finish(RANK, 0.3, parameter_weights={"a": 7.0}, class_weights=weights)
    factors = {
        ("wm", "a"): 7.0, ("wm", "b"): 0.0, ("gm", "signal"): 3.0, ("gm", "a"): 21.0, ("gm", "b"): 3.0,
        ("csf", "a"): 7.0, ("csf", "signal"): 0.5,
    }  # fmt: skip
    u, s = dense(batches, 0.3, factors=factors)
    assert sine(u[:, :RANK], basis.phi) < angle_tolerance(s)
    np.testing.assert_allclose(basis.singular_values[:RANK], s[:RANK], rtol=1e-11)
    assert sine(accumulator.finish(RANK, 0.3).phi, basis.phi) > 1e-3
    # a class without weight is one that was never met
    zero = accumulator.finish(RANK, 0.3, class_weights={"csf": 0})
    np.testing.assert_allclose(zero.phi, folded(batches[:2]).finish(RANK, 0.3).phi, atol=1e-11)


@pytest.mark.parametrize("fisher", ["real", "complex"])
def test_losses_equal_those_of_dense_float64(rng: np.random.Generator, fisher: crb.Fisher) -> None:
    batches = make_batches(rng, "complex")
    accumulator = folded(batches, fisher=fisher)
    for rank, weight in itertools.product((1, 5, 12), (0, 0.5, 0.9)):
        basis = accumulator.finish(rank, weight)
        u = dense(batches, weight, fisher=fisher)[0][:, :rank]
        energy, whole, kept, n = 0.0, 0.0, np.zeros(2), 0.0
        for batch in batches:
            assert batch.jac is not None
            outside = batch.signal.T - u @ (u.conj().T @ batch.signal.T)
            size = float(np.linalg.norm(batch.signal)) ** 2
            here = basis.info["losses"][batch.label]["signal"]
            assert abs(here - np.linalg.norm(outside) ** 2 / size) < 1e-10
            energy += batch.weight * float(np.linalg.norm(outside)) ** 2
            whole += batch.weight * size
            unit = crb.orthogonalise(batch.signal, batch.jac, targets=[0, 2], fisher=fisher).unit
            rest = unit - unit @ u.conj() @ u.T
            kept += batch.weight * np.sum(np.abs(rest) ** 2, axis=(0, 2))
            n += batch.weight * len(unit)
        losses = basis.info["losses"]["all"]
        assert abs(losses["signal"] - energy / whole) < 1e-10
        assert abs(losses["a"] - kept[0] / n) < 1e-7
        assert abs(losses["b"] - kept[1] / n) < 1e-7
        assert set(losses) == {"signal", "a", "b"}


def test_zero_and_dependent_derivatives_are_counted_and_logged(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    batch = make_batches(rng, "complex")[1]
    assert batch.jac is not None
    jac = batch.jac.copy()
    jac[[3, 5], 0] = 0
    jac[7, 2] = 2 * batch.signal[7]
    with caplog.at_level(logging.WARNING):
        accumulator = folded([replace(batch, jac=jac), batch])
    assert accumulator.n_dependent == {"a": 2, "b": 1}
    assert "d/da of 2 fingerprints" in caplog.text
    assert str(batch.theta[3].tolist()) in caplog.text
    basis = accumulator.finish(RANK, 0.5)
    assert basis.info["n_dependent"] == {"a": 2, "b": 1}
    assert np.isfinite(basis.phi).all()
    assert np.isclose(accumulator.grams["gm", "a"].trace().real, 0.25 * 78, rtol=1e-12)
    accumulator.merge(accumulator)
    assert accumulator.n_dependent == {"a": 4, "b": 2}
    assert accumulator.n_atoms == {"gm": 160}


@pytest.mark.parametrize(
    ("rank", "weight", "options", "match"),
    [
        (0, 0.3, {}, f"rank is 0, expected 1 to the number of frames, {T}"),
        (T + 1, 0.3, {}, f"rank is {T + 1}, expected 1"),
        (2, 1.1, {}, "crb weight is 1.1"),
        (2, -0.1, {}, "crb weight is -0.1"),
        (2, float("nan"), {}, "crb weight is nan"),
        (2, 0.3, {"weighting": "lost"}, "weighting is 'lost'"),
        (2, 0.3, {"parameter_weights": {"n": 1}}, r"parameter weight of 'n': unknown, expected one of \['a', 'b'\]"),
        (2, 0.3, {"class_weights": {"fat": 1}}, "class weight of 'fat': unknown"),
        (2, 0.3, {"class_weights": {("gm", "n"): 1}}, "unknown"),
        (2, 0.3, {"class_weights": {"gm": -1}}, "at least 0"),
        (2, 0.3, {"parameter_weights": {"a": float("nan")}}, "finite"),
        (2, 1.0, {"parameter_weights": {"a": 0, "b": 0}}, "nothing is left"),
        (2, 0.3, {"class_weights": dict.fromkeys(("wm", "gm", "csf"), 0)}, "nothing is left"),
    ],
)
def test_what_the_user_can_mend(
    rng: np.random.Generator, rank: int, weight: float, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        folded(make_batches(rng, "real")).finish(rank, weight, **options)
    with pytest.raises(UserError, match="is the prior empty"):
        BasisAccumulator(PARAMETERS, T).finish(1, 0.3)


def test_batches_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    batch = make_batches(rng, "complex")[0]
    assert batch.jac is not None
    accumulator = BasisAccumulator(PARAMETERS, T)
    nan = batch.signal.copy()
    nan[2, 3] = np.nan
    for wrong, match in (
        (replace(batch, jac=None), "and derivatives"),
        (replace(batch, jac=batch.jac[:, :2]), r"\(17, 2, 23\), expected \(B, P, T\) with P = 3"),
        (replace(batch, signal=batch.signal[:, :-1], jac=batch.jac[..., :-1]), "22 frames, expected 23"),
        (replace(batch, signal=nan), "atom 2"),
    ):
        with pytest.raises(ValueError, match=match):
            accumulator.update(wrong)
    assert not accumulator.grams
    for other in (BasisAccumulator(PARAMETERS[:2], T), BasisAccumulator(PARAMETERS, T, fisher="complex")):
        with pytest.raises(ValueError, match="cannot be merged"):
            accumulator.merge(other)


def test_fisp_is_real_and_equals_the_dense_svd(frozen: Callable[..., Array]) -> None:
    flips = models.build({"name": "mrf-fisp"}).spec["flip_angles"][::8]
    model = models.build({"name": "mrf-fisp", "flip_angles": flips, "b1": True})
    prior = PRESETS["mao-mrf-table1"].thinned(150, model.parameters)
    basis = compute_basis(model, prior, rank=3, crb_weight=0.5)
    assert basis.phi.dtype == np.float64
    assert basis.info["model"] == model.spec
    columns = []
    for batch in iter_batches(model, prior, batch_size=10_000):
        assert batch.jac is not None
        unit = crb.orthogonalise(batch.signal, batch.jac, targets=[0, 1]).unit
        columns += [np.sqrt(batch.weight) * block.T for block in (batch.signal, unit[:, 0], unit[:, 1])]
    u, s, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    assert sine(u[:, :3], basis.phi) < angle_tolerance(s, 3)
