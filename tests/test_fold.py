"""The fold against numpy's dense SVD of D = [(1 - l) S, l J]."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fold_case import (
    EPS,
    FULL,
    KINDS,
    LEADING,
    PARAMETERS,
    RANK,
    Array,
    Kind,
    Shape,
    angle_tolerance,
    blocks_of,
    complex_normal,
    dense,
    dropped,
    folded,
    make_batches,
    sine,
)  # fmt: skip

from crbsvd_plugin import crb
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fold import BasisAccumulator

T = FULL.n_frames
SHAPES = [pytest.param(FULL, id="full"), pytest.param(LEADING, id="leading")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 0.9, 1])
def test_the_basis_equals_the_dense_svd(
    rng: np.random.Generator, kind: Kind, weight: float, conjugate: bool, shape: Shape
) -> None:
    batches = make_batches(rng, kind, shape=shape)
    u, s = dense(batches, weight, conjugate=conjugate)
    accumulator = folded(batches, conjugate=conjugate)
    basis = accumulator.finish(RANK, weight)
    lost = dropped(accumulator, batches, weight)
    if shape is FULL:
        assert lost == 0
        assert accumulator.subspace.dimension == T
    else:
        assert 0 < lost < 1e-8 * np.linalg.norm(s)
        assert accumulator.subspace.dimension < shape.n_frames / 2
    tolerance = angle_tolerance(s, lost=lost)
    assert tolerance < 1e-6
    assert sine(u[:, :RANK], basis.phi) < tolerance
    assert sine(basis.phi, u[:, :RANK]) < tolerance
    # Weyl; rounding squared: (100 eps)^(1/2) s_1 = 1.5e-7 s_1
    n = min(len(s), len(basis.singular_values))
    np.testing.assert_allclose(basis.singular_values[:n], s[:n], atol=1.5e-7 * s[0] + 2 * lost)
    np.testing.assert_allclose(basis.singular_values[:RANK], s[:RANK], rtol=1e-11 + 2 * lost / s[RANK - 1])
    assert np.iscomplexobj(basis.phi) is (kind == "complex" and not conjugate)
    assert np.linalg.norm(basis.phi.conj().T @ basis.phi - np.eye(RANK)) < 1e-13
    assert basis.info["dimension"] == accumulator.subspace.dimension
    assert basis.info["outside"] == max(accumulator.outside.values())


@pytest.mark.parametrize("fisher", ["real", "complex"])
def test_both_fisher_matrices(rng: np.random.Generator, fisher: crb.Fisher) -> None:
    batches = make_batches(rng, "complex")
    other: crb.Fisher = "complex" if fisher == "real" else "real"
    phi = folded(batches, fisher=fisher).finish(RANK, 0.5).phi
    u, s = dense(batches, 0.5, fisher=fisher)
    assert sine(u[:, :RANK], phi) < angle_tolerance(s)
    assert sine(dense(batches, 0.5, fisher=other)[0][:, :RANK], phi) > 1e-3


@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 0.9, 1])
def test_weighting_by_losses_equals_another_weight_of_eq_12(rng: np.random.Generator, weight: float) -> None:
    batches = make_batches(rng, "complex")
    accumulator = folded(batches)
    squared = weight**2 / ((1 - weight) ** 2 + weight**2)
    by_svd, by_loss = accumulator.finish(RANK, weight), accumulator.finish(RANK, squared, weighting="loss")
    np.testing.assert_allclose(by_svd.phi, by_loss.phi, atol=1e-11)
    # the dense matrix of Eq. (5): square roots of the weights
    roots = {(label, name): 1 / max(weight, 1e-300) for label in ("wm", "gm", "csf") for name in "ab"}
    roots |= {(label, "signal"): 1 / max(1 - weight, 1e-300) for label in ("wm", "gm", "csf")}
    u, s = dense(batches, weight, factors=roots)
    assert sine(u[:, :RANK], accumulator.finish(RANK, weight, weighting="loss").phi) < angle_tolerance(s)


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("fisher", ["real", "complex"])
def test_losses_equal_those_of_the_dense_basis(
    rng: np.random.Generator, fisher: crb.Fisher, conjugate: bool, shape: Shape
) -> None:
    batches = make_batches(rng, "complex", shape=shape)
    accumulator = folded(batches, fisher=fisher, conjugate=conjugate)
    blocks = {batch.label: blocks_of(batch, fisher) for batch in batches}
    for rank, weight in itertools.product((1, 5, 9), (0, 0.5, 0.9)):
        losses = accumulator.finish(rank, weight).info["losses"]
        u = dense(batches, weight, fisher=fisher, conjugate=conjugate)[0][:, :rank]
        for name, limit in (("signal", 1e-10), ("a", 1e-7), ("b", 1e-7)):
            lost, whole = 0.0, 0.0
            for batch in batches:
                rows = blocks[batch.label][name]
                rows = np.concatenate([rows, rows.conj()]) / np.sqrt(2) if conjugate else rows
                here = float(np.linalg.norm(rows - rows @ u.conj() @ u.T)) ** 2
                size = float(np.linalg.norm(rows)) ** 2
                assert abs(losses[batch.label][name] - here / size) < limit
                lost, whole = lost + batch.weight * here, whole + batch.weight * size
            assert abs(losses["all"][name] - lost / whole) < limit
        assert list(losses["all"]) == ["signal", "a", "b"]


def test_zero_and_dependent_derivatives_are_counted_and_logged(
    rng: np.random.Generator,
) -> None:
    batch = make_batches(rng, "complex")[1]
    assert batch.jac is not None
    jac = batch.jac.copy()
    jac[[3, 5], 0] = 0
    jac[7, 2] = 2 * batch.signal[7]
    accumulator = folded([replace(batch, jac=jac), batch])
    assert accumulator.n_dependent == {"a": 2, "b": 1}
    first = {("gm", "a"): batch.theta[3].tolist(), ("gm", "b"): batch.theta[7].tolist()}
    assert accumulator.dependent == first
    again = BasisAccumulator(accumulator.parameters, accumulator.n_frames)
    again.restore(*accumulator.state())
    assert again.dependent == first
    basis = accumulator.finish(RANK, 0.5)
    assert basis.info["n_dependent"] == {"a": 2, "b": 1}
    assert np.isfinite(basis.phi).all()
    # 40 + 38 unit vectors of weight 0.25
    gram = accumulator.state()[1]["gram1"]
    assert np.isclose(gram.trace().real, 0.25 * 78, rtol=1e-12)


def test_a_class_that_is_called_all(rng: np.random.Generator) -> None:
    batches = make_batches(rng, "complex")
    named = folded([replace(batches[0], label="all"), batches[1]]).finish(RANK, 0.5).info["losses"]
    assert named == {"all": folded(batches[:2]).finish(RANK, 0.5).info["losses"]["all"], "gm": named["gm"]}


def test_a_batch_that_is_refused_is_not_counted(rng: np.random.Generator) -> None:
    batch = make_batches(rng, "complex")[1]
    assert batch.jac is not None
    jac = batch.jac.copy()
    jac[3, 0] = 0
    accumulator = BasisAccumulator(PARAMETERS, batch.signal.shape[1])
    for wrong in ({"signal": np.full_like(batch.signal, 1e160)}, {"weight": float("nan")}, {"weight": -1.0}):
        with np.errstate(over="ignore"), pytest.raises(ValueError, match=r"not finite|weight of a batch is"):
            accumulator.update(replace(batch, jac=jac, **wrong))
    assert (accumulator.n_dependent, accumulator.dependent, accumulator.n_atoms) == ({}, {}, {})


@pytest.mark.parametrize("tolerance", [1e-16, 0])
@pytest.mark.parametrize("n_atoms", [4, 3000])
@pytest.mark.parametrize("kind", ["complex", "real", "imaginary"])
def test_a_dictionary_of_rank_three_gives_three_columns(
    rng: np.random.Generator, kind: Kind, n_atoms: int, tolerance: float
) -> None:
    part: dict[str, Any] = {"complex": lambda z: z, "real": lambda z: z.real + 0j, "imaginary": lambda z: 1j * z.imag}
    modes = part[kind](complex_normal(rng, 3, 61))
    mix = complex_normal(rng, n_atoms, 3) * [1, 1e-2, 1e-4]
    rows = (mix if kind == "complex" else mix.real) @ modes
    accumulator = BasisAccumulator(PARAMETERS, 61, tolerance=tolerance)
    accumulator.add("wm", [rows, rows, rows])
    basis = accumulator.finish(3, 0.5)
    # rank 3 exactly: all of the signals lies in it, up to the loss's own rounding
    assert abs(basis.info["losses"]["wm"]["signal"]) < 61 * EPS
    assert np.linalg.norm(rows - rows @ basis.phi.conj() @ basis.phi.T) < 1e-7 * np.linalg.norm(rows)
    for rank in (4, 61):
        with pytest.raises(UserError, match=rf"^rank is {rank}, but the fingerprints support only 3 columns .*$") as e:
            accumulator.finish(rank, 0.5)
        assert "\n" not in str(e.value)


def test_real_singular_values_are_supported_down_to_1e_9(rng: np.random.Generator) -> None:
    # eps^(1/2) = 1.5e-8 would be the end, did the Gram matrix square the condition
    s = 10.0 ** -np.arange(10)
    q, v = (np.linalg.qr(rng.standard_normal((n, 10)))[0] for n in (61, 50))
    rows = (v * s) @ q.T
    accumulator = BasisAccumulator(PARAMETERS, 61, tolerance=1e-24)
    accumulator.add("wm", [rows, rows, rows])
    basis = accumulator.finish(10, 0)
    np.testing.assert_allclose(basis.singular_values[:10], s, rtol=1e-6)
    assert sine(q, basis.phi) < 1e-6


def test_one_atom_and_one_frame(rng: np.random.Generator) -> None:
    for n_frames, kind in itertools.product((1, 2, 31), KINDS):
        batch = make_batches(rng, kind, (1, 1, 1), Shape(n_frames, 0.6))[0]
        rows = blocks_of(batch)["signal"]
        accumulator = BasisAccumulator(PARAMETERS, n_frames)
        accumulator.add("wm", [rows, rows, rows])
        basis = accumulator.finish(1, 0.5)
        assert sine(rows.T / np.linalg.norm(rows), basis.phi) < 100 * EPS
        with pytest.raises(UserError, match="rank is 2"):
            accumulator.finish(2, 0.5)
    # of one frame, s and i s leave nothing of a derivative
    one = make_batches(rng, "complex", shape=Shape(1, 1.0))
    assert folded(one).n_dependent == {"a": 80, "b": 80}
    assert folded(one).finish(1, 0.5).phi == pytest.approx(np.ones((1, 1)))


@pytest.mark.parametrize("zero", [np.zeros((5, T)), np.zeros((5, T), complex), np.zeros((0, T))])
def test_blocks_of_zeros(rng: np.random.Generator, zero: Array) -> None:
    rows = complex_normal(rng, 5, T)
    alone, accumulator = BasisAccumulator(PARAMETERS, T), BasisAccumulator(PARAMETERS, T)
    accumulator.add("csf", [zero, zero, zero])
    with pytest.raises(UserError, match="nothing is left"):
        accumulator.finish(1, 0.5)
    if len(zero):
        alone.add("wm", [rows, zero, rows])
        accumulator.add("wm", [rows, zero, rows])
    else:
        alone.add("wm", [rows, rows, rows])
        accumulator.add("wm", [rows, rows, rows])
        accumulator.add("wm", [zero, zero, zero])
    np.testing.assert_array_equal(accumulator.finish(3, 0.5).phi, alone.finish(3, 0.5).phi)
    assert accumulator.outside["csf", "a"] == 0
    assert accumulator.n_atoms["csf"] == len(zero)
    # no loss of what is not there
    assert accumulator.finish(3, 0.5).info["losses"]["csf"] == {}


@pytest.mark.parametrize(
    ("rank", "weight", "options", "match"),
    [
        (0, 0.3, {}, f"rank is 0, expected 1 to the number of frames, {T}"),
        (T + 1, 0.3, {}, f"rank is {T + 1}, expected 1"),
        (2, 1.1, {}, "crb weight is 1.1"),
        (2, 0.3, {"weighting": "lost"}, "weighting is 'lost'"),
        (2, 0.3, {"parameter_weights": {"n": 1}}, r"parameter weight of 'n': unknown, expected one of \['a', 'b'\]"),
        (2, 0.3, {"class_weights": {"fat": 1}}, "class weight of 'fat': unknown"),
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
    nan, rows = batch.signal.copy(), batch.signal
    nan[2, 3] = np.nan
    for wrong, match in (
        (replace(batch, jac=None), "and derivatives"),
        (replace(batch, jac=batch.jac[:, :2]), r"\(17, 2, 23\), expected \(B, P, T\) with P = 3"),
        (replace(batch, signal=batch.signal[:, :-1], jac=batch.jac[..., :-1]), "22 frames, expected 23"),
        (replace(batch, signal=nan), "not finite"),
    ):
        with pytest.raises(ValueError, match=match):
            accumulator.update(wrong)
    for blocks, match in (
        ([rows, rows], r"expected 3 of \(B, 23\)"),
        ([rows, rows, rows[:3]], r"expected 3 of \(B, 23\)"),
        ([rows, nan, rows], r"\('wm', 'a'\) is not finite"),
        ([rows, rows, 1e200 * rows], "exceeds the range"),
    ):
        with np.errstate(over="ignore"), pytest.raises(ValueError, match=match):
            accumulator.add("wm", blocks)
    assert accumulator.labels == []
    assert accumulator.outside == {}
    assert accumulator.subspace.dimension == 0
