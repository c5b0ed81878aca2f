"""Kernel regression: against explicit kernels and double precision, the Cramer-Rao bound, and through the command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cli_case
import numpy as np
import pytest
from fit_case import complex_normal, emulated, gridded, phases, voxels

from crbsvd_plugin import crb, threads
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit import perk
from crbsvd_plugin.fit.fitter import Fitter, prepared
from crbsvd_plugin.fit.matching import match
from crbsvd_plugin.fit.perk import Perk
from crbsvd_plugin.fit.perk_training import _Draws, _moments, _solved, train
from crbsvd_plugin.fit.regressors import Regressors
from crbsvd_plugin.fit.spread import Noise
from crbsvd_plugin.maps import load_map

SINGLE = float(np.finfo(np.float32).eps)


@cache
def trained() -> Perk:
    return train(gridded(40), n_features=400, n_draws=20_000)


def unitary(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.linalg.qr(complex_normal(rng, n, n))[0]


def unit_rows(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=1)[:, None]


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_regressors_know_neither_scale_nor_phase_nor_the_axes_of_the_basis(rng: np.random.Generator, kind: str) -> None:
    atoms = complex_normal(rng, 200, 4) * [3, 2, 1, 0.5]
    atoms = unit_rows(atoms.real if kind == "real" else atoms)
    coeff = complex_normal(rng, 9, 4)
    regressors = Regressors.of_atoms(atoms)
    x = regressors(coeff)
    # rounding of double precision: a product of K terms for each of two factors
    close = {"rtol": 0, "atol": 1e-13}
    np.testing.assert_allclose(regressors(coeff * (5 * phases(rng, 9))[:, None]), x, **close)
    # a common phase of all atoms too, and the same subspace in other axes
    mixture = unitary(rng, 4)
    mixed = Regressors.of_atoms(atoms @ mixture * 1j)
    np.testing.assert_allclose(mixed(coeff @ mixture), x, rtol=0, atol=1e-11)  # eigenvectors are less exact
    # every atom can be told from every other: x determines c c^H
    columns = 4 * regressors.n_columns * (1 if kind == "real" else 2)
    assert x.shape == (9, columns - (0 if kind == "real" else regressors.n_columns))


def test_gradients_go_back_to_the_coefficients(rng: np.random.Generator) -> None:
    """Against central differences, whose error is h^2 and the rounding 1e-16 / h."""
    regressors = Regressors.of_atoms(unit_rows(complex_normal(rng, 100, 4)))
    assert regressors.n_columns > 1
    coeff, step = complex_normal(rng, 7, 4), complex_normal(rng, 7, 4)
    slopes = rng.standard_normal((7, 3, len(regressors.chosen)))
    g = regressors.pulled_back(coeff, slopes)
    h = 1e-5
    differences = (regressors(coeff + h * step) - regressors(coeff - h * step)) / (2 * h)
    expected = np.einsum("bif,bf->bi", slopes, differences)
    np.testing.assert_allclose(np.einsum("bik,bk->bi", g.conj(), step).real, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n", [1, 63, 65, 1000])
def test_outputs_are_the_sums_of_cosines(rng: np.random.Generator, frozen: Callable[..., Any], n: int) -> None:
    """A phase of T turns is off by (F + 2) T eps in single precision, a sum of n terms by n eps of their sizes."""
    fit = trained()
    coeff = frozen(complex_normal(rng, n, fit.rank).astype(np.complex64))
    turns = fit.regressors(coeff.astype(complex)) @ fit.frequencies.T.astype(float) + fit.turns
    expected = np.cos(2 * np.pi * turns) @ fit.weights.astype(float) + fit.constant
    size = np.abs(fit.weights).astype(float)
    # x itself is a product of two sums of K terms
    largest = np.abs(fit.frequencies).sum(axis=1).max() * (len(fit.regressors.axes) + fit.frequencies.shape[1] + 4)
    tolerance = SINGLE * (2 * np.pi * largest + len(size)) * size.sum(axis=0)
    found = fit.outputs(coeff)
    assert np.all(np.abs(found - expected) <= tolerance)
    slopes = fit.slopes(coeff, 2)
    sines = -2 * np.pi * np.sin(2 * np.pi * turns)
    products = fit.weights[:, :2, None].astype(float) * fit.frequencies[:, None]
    expected = np.einsum("vn,nif->vif", sines, products)
    bound = 2 * np.pi * np.abs(products).sum(axis=0)
    assert np.all(np.abs(slopes - expected) <= SINGLE * (2 * np.pi * largest + len(size)) * bound)
    # a voxel does not depend on its neighbours, nor on the threads
    with threads.limit(1):
        np.testing.assert_array_equal(fit.outputs(coeff[n // 2 :]), found[n // 2 :])


def explicit(draws: _Draws, tests: np.ndarray, length: np.ndarray, ridge: float) -> np.ndarray:
    """Return the ridge regression of a Gaussian kernel, weighted and with a constant, from the matrix of kernels."""
    share = draws.weight / draws.weight.sum()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * np.sum(((a[:, None] - b) / length) ** 2, axis=2)) / 2

    both, own = kernel(tests, draws.x), kernel(draws.x, draws.x)
    middle = own @ share
    centred = own - middle - middle[:, None] + share @ middle
    across = both - (both @ share)[:, None] - middle + share @ middle
    damping = ridge * np.sum(share * np.diag(centred))
    constant = share @ draws.y
    dual = np.linalg.solve(centred * share + damping * np.eye(len(share)), draws.y - constant)
    return np.asarray(constant + across @ (share[:, None] * dual))


def test_random_features_come_to_the_explicit_kernel(rng: np.random.Generator) -> None:
    """The kernel of n features is a mean of n, so estimates are off by 1 / sqrt(n): 16 times as many, 4 times nearer.

    If the reference were another one, the distance would stay. The root mean square over 12 draws of the features
    (of which each has some tens of independent points) is known to 1 / sqrt(2 x 12 x 10) = 6 %, a ratio to 9 %: three
    times that are allowed.
    """
    draws = _Draws(rng.standard_normal((60, 3)), rng.standard_normal((60, 2)), rng.uniform(0.5, 2, 60))
    tests, length, ridge = rng.standard_normal((40, 3)), np.array([1.0, 2.0, 1.5]), 0.1
    expected = explicit(draws, tests, length, ridge)

    def distance(n: int) -> float:
        squares = []
        for _ in range(12):
            frequencies = (rng.standard_normal((n, 3)) / (2 * np.pi * length)).astype(np.float32)
            turns = rng.random(n)
            gram, cross, mean, constant = _moments(draws, frequencies, turns, lambda _: None)
            weights = _solved(gram, cross, ridge)
            z = np.cos(2 * np.pi * (tests @ frequencies.T.astype(float) + turns))
            squares.append(np.mean((z @ weights + constant - mean @ weights - expected) ** 2))
        return float(np.sqrt(np.mean(squares)))

    assert distance(100) / distance(1600) == pytest.approx(4, rel=0.27)


@pytest.mark.parametrize(("ratio", "bias"), [(50.0, 0.5), (200.0, 0.75)])
def test_errors_are_near_the_bound_and_near_those_of_matching(
    rng: np.random.Generator, ratio: float, bias: float
) -> None:
    """In units of the Cramer-Rao bound the root mean square error is sqrt(1 + bias^2).

    A bias may be half of the noise at a ratio of 50, three quarters at 200, where the noise is a quarter of that (and
    steps of matching show, too). The mean over 4000 voxels has an error of 1 / sqrt(8000) = 1 %. Edges are left out,
    where every estimate is biased.
    """
    most = np.sqrt(1 + bias**2)
    forward, fit = emulated(), trained()
    theta = forward.box.theta(rng.uniform(-0.8, 0.8, (4000, 2)))
    signal, jac = forward.value_and_jacobian(theta)
    m0 = ratio / np.linalg.norm(signal, axis=1) * phases(rng, 4000)
    coeff = (m0[:, None] * signal + complex_normal(rng, *signal.shape)).T.astype(np.complex64)
    bound = np.sqrt(crb.bounds(signal, jac, np.eye(fit.rank)).exact) / np.abs(m0)[:, None]
    found, best = perk.fit(coeff, fit, mask_level=0), match(coeff, gridded(150), mask_level=0)
    errors = np.sqrt(np.mean(((found.theta.T - theta) / bound) ** 2, axis=0))
    matched = np.sqrt(np.mean(((best.theta.T - theta) / bound) ** 2, axis=0))
    assert np.all(errors < most)
    assert np.all(errors < most * matched)
    # M0 is as good as its own bound, a few times 1 / ratio
    off = found.m0 / m0 - 1
    also = best.m0 / m0 - 1
    assert np.sqrt(np.mean(np.abs(off) ** 2)) < most * np.sqrt(np.mean(np.abs(also) ** 2))


@pytest.mark.parametrize("white", [True, False])
def test_standard_deviations_are_the_spread_of_noise(rng: np.random.Generator, white: bool) -> None:
    """To first order: of 4000 repetitions the spread is known to 1 / sqrt(8000) = 1.1 %; the second order has
    (5 %)^2 = 0.3 % of the variance for errors of a few percent. Four times the former are allowed."""
    forward, fit = emulated(), trained()
    n = 4000
    clean = 150 * forward.value_and_jacobian(np.array([[1.1, 0.08]]))[0]
    root = np.diag([1.0, 0.5, 2, 1, 1.5]).astype(complex)
    root[np.tril_indices(5, -1)] = 0.4 * complex_normal(rng, 10)
    root = np.eye(5) if white else root
    matrix = root @ root.conj().T  # E[n n^H] / 2
    coeff = (clean + complex_normal(rng, n, 5) @ root.T).T
    maps = perk.fit(coeff, fit, mask_level=0)
    upper = matrix[np.triu_indices(5)][:, None] * np.ones(n)
    noise = Noise(1.0) if white else Noise(covariance=upper)
    found = perk.spread(fit, maps, coeff, noise)
    for predicted, values in zip([*found.theta, found.m0], [*maps.theta, np.abs(maps.m0)], strict=True):
        assert np.sqrt(np.mean(predicted**2)) == pytest.approx(values.std(), rel=0.045)
    assert np.isnan(found.chi2).all()
    # what is left is noise in the K - 1 complex directions across the signal, at least without those of T1 and T2
    left = np.mean((found.residual * np.linalg.norm(coeff, axis=0)) ** 2)
    if white:
        assert 2 * 5 - 4 - 0.3 < left < 2 * (5 - 1) + 0.3


def test_scale_and_phase_of_the_images_belong_to_m0(rng: np.random.Generator) -> None:
    forward, fit = emulated(), trained()
    u = rng.uniform(-0.9, 0.9, (50, 2))
    coeff = voxels(forward, u, np.ones(50), 0.0, rng)
    one = perk.fit(coeff.T, fit, mask_level=0)
    m0 = 1e-3 * (1 + rng.random(50)) * phases(rng, 50)
    other = perk.fit((m0[:, None] * coeff).T, fit, mask_level=0)
    # the rounding of regressors in single precision, times slopes of some tens
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-4)
    np.testing.assert_allclose(other.m0, m0 * one.m0, rtol=1e-4)
    np.testing.assert_allclose(one.m0, 1, atol=0.05)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 7)])
def test_images_of_any_shape(rng: np.random.Generator, frozen: Callable[..., Any], shape: tuple[int, ...]) -> None:
    fit = trained()
    coeff = frozen(complex_normal(rng, 5, *shape).astype(np.complex64))
    maps = perk.fit(coeff, fit, mask_level=0)
    assert maps.theta.shape == (2, *shape)
    assert maps.m0.shape == maps.edge.shape == maps.mask.shape == shape
    found = perk.spread(fit, maps, coeff, Noise(0.1))
    assert found.theta.shape == (2, *shape)
    whole = np.prod(shape, dtype=int)
    alone = [perk.fit(coeff.reshape(5, -1)[:, i], fit, mask_level=0).theta for i in range(whole)]
    np.testing.assert_array_equal(maps.theta.reshape(2, -1), np.stack(alone, axis=1))


def test_empty_and_broken_voxels_are_left_out(rng: np.random.Generator) -> None:
    fit = trained()
    coeff = complex_normal(rng, 5, 4, 3).astype(np.complex64)
    coeff[:, 0, 0], coeff[2, 1, 1], coeff[:, 2, 2] = 0, np.nan, 1e-4
    maps = perk.fit(coeff, fit)
    assert [tuple(at) for at in np.argwhere(~maps.mask)] == [(0, 0), (1, 1), (2, 2)]
    for array in (maps.theta, maps.m0, maps.edge):
        assert not array[..., ~maps.mask].any()
    assert np.isfinite(maps.theta).all()
    nothing = perk.fit(np.zeros((5, 4, 3), np.complex64), fit)
    assert not nothing.mask.any()
    assert not perk.spread(fit, nothing, np.zeros((5, 4, 3)), Noise(1)).theta.any()
    with pytest.raises(ValueError, match="coeff has 4 coefficients, the regression 5"):
        perk.fit(coeff[:4], fit)
    with pytest.raises(ValueError, match="did not learn from measured maps"):
        Fitter(gridded(3), perk=fit).fit(coeff, known={"B1": np.ones((4, 3))})


def test_what_leaves_the_range_is_put_on_its_end_and_marked(rng: np.random.Generator) -> None:
    fit = trained()
    coeff = complex_normal(rng, 5, 20)
    assert not perk.fit(coeff, replace(fit, weights=0 * fit.weights)).edge.any()
    beyond = fit.constant.copy()
    beyond[0] += 100
    maps = perk.fit(coeff, replace(fit, constant=beyond))
    assert maps.edge[maps.mask].all()
    np.testing.assert_array_equal(maps.theta[0][maps.mask], np.float32(fit.box.high[0]))


def test_a_parameter_of_one_value_is_kept_and_the_same_seed_gives_the_same(tmp_path: Path) -> None:
    known = gridded(20)
    few = replace(known, **{key: getattr(known, key)[:20] for key in ("theta", "coeff", "norm", "edge")})
    assert np.ptp(few.theta[:, 0]) == 0
    a, b, c = (train(few, n_features=20, n_draws=500, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.weights, b.weights)
    assert np.any(a.weights != c.weights)
    assert a.info["seed"] == 3
    maps = perk.fit((few.coeff * few.norm[:, None]).T, a, mask_level=0)
    np.testing.assert_array_equal(maps.theta[0], np.float32(few.theta[0, 0]))


def test_what_cannot_be_learned_is_refused() -> None:
    known = gridded(3)
    one = replace(known, **{key: getattr(known, key)[:1] for key in ("theta", "coeff", "norm", "edge")})
    with pytest.raises(UserError, match="all atoms of the dictionary have the same parameters"):
        train(one)
    with pytest.raises(UserError, match="2 coefficients cannot tell M0 and 2 parameters"):
        train(replace(known, coeff=known.coeff[:, :2]))
    with pytest.raises(UserError, match="the dictionary has 1 atoms with a signal"):
        train(replace(known, norm=known.norm * (np.arange(9) == 4)))


def test_files_keep_everything(tmp_path: Path) -> None:
    fit, basis = trained(), Basis(np.eye(7)[:, :5], np.ones(5))
    replace(fit, digest=basis.digest).write(tmp_path / "b.perk.h5")
    again = Perk.load(tmp_path / "b", basis)
    for name in ("frequencies", "turns", "weights", "constant", "parts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fit, name))
        assert getattr(again, name).dtype == getattr(fit, name).dtype
    np.testing.assert_array_equal(again.regressors.axes, fit.regressors.axes)
    np.testing.assert_array_equal(again.regressors.chosen, fit.regressors.chosen)
    assert again.regressors.n_columns == fit.regressors.n_columns
    assert again.box.parameters == fit.box.parameters
    assert again.info == fit.info
    with pytest.raises(UserError, match="was trained for another basis than"):
        Perk.load(tmp_path / "b", Basis(np.eye(8)[:, :5], np.ones(5)))
    with pytest.raises(UserError, match="was trained for 5 coefficients, not for 3: leave --rank out"):
        Perk.load(tmp_path / "b", basis.truncate(3))
    (tmp_path / "b.perk.h5").write_bytes(b"something else")
    with pytest.raises(UserError, match="is no kernel regression"):
        Perk.load(tmp_path / "b", basis)
    with pytest.raises(ValueError, match="perk needs the name of the basis"):
        prepared(basis, gridded(3), method="perk")
    with pytest.raises(UserError, match="--b1 and --b0 do not belong to --method perk"):
        prepared(basis, gridded(3), method="perk", name="b", known=["B1"])


@pytest.fixture
def refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    yield from cli_case.refuser(here, capsys)


def test_the_command_from_basis_to_maps(here: Path) -> None:
    """`maps` and `fit` give the same maps and standard deviations, and say what they are; the bundle is one product."""
    assert main(["basis", "spec.toml", "-o", "p", *cli_case.SIZES, "--perk"]) == 0
    sidecar = json.loads(Path("p.json").read_text())
    assert set(sidecar["files"]) == {"p.cfl", "p.hdr", "p.h5", "p.perk.h5"}
    # same request, same basis: the coefficients of b are good
    assert main(["fit", "c", "p", "-o", "m", "--method", "perk"]) == 0
    assert main(["maps", "raw.h5", "p", "-o", "n", "--method", "perk", "--threads", "1"]) == 0
    names = {path.name.split(".")[0] for path in Path("m").glob("*.nii.gz")}
    assert names >= {"T1map", "T2map", "M0map", "EDGEmap", "T1std", "T2std", "M0std", "MISFITmap"}
    assert "CHI2map" not in names
    for name in ("T1map", "T2map", "M0map", "T1std"):
        np.testing.assert_array_equal(load_map(f"m/{name}.nii.gz")[0], load_map(f"n/{name}.nii.gz")[0])
    assert json.loads(Path("m/T1map.json").read_text())["EstimationAlgorithm"].startswith("kernel regression (PERK)")
    described = json.loads(Path("m/T1std.json").read_text())["Description"]
    assert "what noise makes of the regression" in described
    assert "without the bias of the regression" in described
    # a bundle without it takes the old one away
    assert main(["basis", "spec.toml", "-o", "p", *cli_case.SIZES, "--force"]) == 0
    assert not os.path.lexists("p.perk.h5")


def test_bad_requests_end_in_one_line(refuse: Callable[..., str]) -> None:
    fit: tuple[str, ...] = ("fit", "c", "b", "-o", "x", "--method", "perk")
    assert "b.perk.h5 does not exist: --method perk needs it; make it with 'crbsvd basis --perk'" in refuse(*fit)
    assert "--fit-starts, --signals and --bounds belong to --method nlls" in refuse(*fit, "--fit-starts", "2")
    basis = ("basis", "spec.toml", "-o", "x", *cli_case.SIZES)
    assert "--perk learns from the dictionary, but --atoms is none" in refuse(*basis, "--perk", "--atoms", "none")
    assert "2 coefficients cannot tell M0 and 2 parameters" in refuse(*basis, "--perk", "--rank", "2")
