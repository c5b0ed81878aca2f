"""Least squares of qmt-hsfp with all eight parameters free: recovery without noise, bias and spread, refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fit_case import complex_normal, phases
from numpy.typing import NDArray

from crbsvd_plugin import Basis, bundle, crb, models
from crbsvd_plugin.cli import main
from crbsvd_plugin.dictionary import Dictionary, compress
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit import nlls
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.emulator import emulate
from crbsvd_plugin.fit.fitter import Fitter, prepared
from crbsvd_plugin.fit.forward import Simulated
from crbsvd_plugin.fit.result import Maps
from crbsvd_plugin.fit.starts import distinct_starts
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.presets import PRESETS

Array = NDArray[Any]
# reaches as far as Table I of the paper and the atoms
LOW = (0.0, 0.1, 0.4, 1.0, 0.5, 4.95e-6, -897.6, 0.6)
HIGH = (0.8, 3.0, 60.0, 60.0, 10.0, 20e-6, 897.6, 1.2)
W0, B1 = 6, 7
WM = (0.2, 0.52, 12.9, 16.5, 2.97, 12.4e-6, 100.0, 1.0)
GM = (0.1, 0.41, 12.0, 14.0, 2.4, 14.4e-6, -150.0, 0.9)


def model() -> Any:
    return models.build({"name": "qmt-hsfp"})


@cache
def basis(rank: int) -> Basis:
    """A random complex basis of the built-in train."""
    rng = np.random.default_rng(0)
    phi = np.linalg.qr(complex_normal(rng, model().n_frames, rank))[0]
    return Basis(phi, np.ones(rank), {"model": model().spec})


@cache
def principal(rank: int) -> Array:
    """The real basis of largest singular values of brains and their conjugates."""
    signals = model().signal(brain(300, 897.0))
    return np.linalg.svd(np.concatenate([signals.real, signals.imag]), full_matrices=False)[2][:rank].T.copy()


@cache
def atoms(rank: int, n: int) -> Dictionary:
    return compress(model(), PRESETS["qmt-tissue"].thinned(n, model().parameters), basis(rank))


def forward(rank: int) -> Simulated:
    return Simulated(model(), basis(rank).phi, Box(model().parameters, np.array(LOW), np.array(HIGH)))


def brain(n: int, largest_w0: float) -> Array:
    """Grey and white matter of Table I, with |w0| up to so much."""
    draws = PRESETS["mao-table1"].thinned(6 * n, model().parameters).atoms(model().parameters)
    (theta,) = (some.theta for some in draws if some.label == "gm+wm")
    rng = np.random.default_rng(1)
    theta = theta[rng.permutation(len(theta))[:n]].copy()
    theta[:, W0] = rng.uniform(-largest_w0, largest_w0, n)
    return theta


def recovered(largest_w0: float, n_starts: int) -> Array:
    """Return which of 100 brains come back to 1e-3 in all parameters (w0 to 1e-3, or 1e-3 rad/s)."""
    truth, rng = brain(100, largest_w0), np.random.default_rng(2)
    m0 = 0.85 * phases(rng, 100)
    coeff = (m0[:, None] * (model().signal(truth) @ basis(100).phi.conj())).T
    found = Fitter(atoms(100, 5000), 0.0, forward(100), n_starts).fit(coeff)
    off = np.abs(found.theta.T - truth) / np.maximum(np.abs(truth), np.where(np.arange(8) == W0, 1.0, 0.0))
    return np.asarray((off < 1e-3).all(axis=1) & (np.abs(found.m0 / m0 - 1) < 1e-3))


@pytest.mark.slow
@pytest.mark.parametrize(("largest_w0", "n_starts", "least"), [(250.0, 1, 98), (np.pi / 3.5e-3, 2, 95)])
def test_brains_come_back_without_noise(largest_w0: float, n_starts: int, least: int) -> None:
    """Through a random 100-dimensional basis; over all of w0 from the best atoms of two cells of w0 and B1.

    99 and 100 of these do, of the former all from 20,000 atoms instead of 5000.
    """
    back = recovered(largest_w0, n_starts)
    assert back.sum() >= least


@pytest.mark.slow
@pytest.mark.parametrize("theta", [WM, GM])
def test_with_noise_least_squares_reach_the_bound(theta: tuple[float, ...]) -> None:
    """N = 3000: a variance is known to sqrt(2/N), a mean to 1/sqrt(N) standard deviations; four times that.

    The largest relative standard deviation of a parameter is 1 %, and estimates are linear in the noise but for terms
    of that size. There are eight parameters to bend them: together 0.05 standard deviations of bias, or its square of
    the variance.
    """
    n, at = 3000, np.array(theta)
    exact = Simulated(model(), principal(15), Box(model().parameters, np.array(LOW), np.array(HIGH)))
    signal, jac = model().signal_and_jacobian(at[None])
    bound = crb.bounds(signal, jac, exact.phi).exact[0]
    sigma = 0.01 * np.delete(at / np.sqrt(bound), W0).min()
    rng = np.random.default_rng(4)
    clean = phases(rng, n)[:, None] * (signal @ exact.phi)
    voxels = clean + sigma * complex_normal(rng, n, 15)
    u = np.tile(exact.box.unit(at), (n, 1))
    limits = np.stack([-np.ones(8), np.ones(8)])
    size = np.linalg.norm(voxels, axis=1)[:, None]
    found = nlls.minimise(voxels / size, exact, u, limits, stopping=nlls.Stopping())
    assert found.converged.all()
    estimates = exact.box.theta(found.u)
    spread = np.sqrt(bound) * sigma
    bias, ratio = (estimates.mean(axis=0) - at) / spread, estimates.var(axis=0) / spread**2
    assert np.all(np.abs(bias) < 4 / np.sqrt(n) + 0.05)
    np.testing.assert_allclose(ratio, 1, atol=4 * np.sqrt(2 / n) + 0.05**2)


def test_starts_of_many_parameters_differ_in_the_nuisances() -> None:
    """The first is the best atom; the second the best whose cell of w0 and B1 does not touch that of the first."""
    known, voxels = atoms(15, 400), complex_normal(np.random.default_rng(5), 15, 20)
    first, second = distinct_starts(voxels, known, np.ones(20, bool), 2)
    score = np.abs(known.coeff.conj() @ voxels)
    np.testing.assert_array_equal(first.T, known.theta[score.argmax(axis=0)])
    u = Box.around(known.parameters, known.theta).unit(known.theta)[:, [W0, B1]]
    cells = np.minimum((u + 1) * 4, 7).astype(int)
    for v in range(20):
        best = cells[score[:, v].argmax()]
        apart = np.abs(cells - best).max(axis=1) > 1
        np.testing.assert_array_equal(second[:, v], known.theta[np.where(apart, score[:, v], -1).argmax()])


def test_eight_parameters_are_fitted_with_the_signals_of_the_model() -> None:
    """At once: no emulator is tried, and one that is asked for is refused before anything is simulated."""
    fitter = prepared(basis(15), atoms(15, 400), method="nlls")
    assert isinstance(fitter.forward, Simulated)
    with pytest.raises(UserError, match=r"signals of 8 parameters cannot be emulated, expected at most 5; take exact"):
        emulate(fitter.forward)


def test_the_command_fits_eight_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """From files to maps that leave nothing of the coefficients; a train of another length is refused."""
    monkeypatch.chdir(tmp_path)
    at = np.arange(60)
    alpha, trf = 0.6 + 0.5 * np.sin(np.outer([1, 2], at) / 9), np.full((2, 60), 4e-4)
    alpha[:, 0], trf[:, 0] = np.pi, 5e-4
    short = models.build({"name": "qmt-hsfp", "alpha": alpha, "TRF": trf})
    rng = np.random.default_rng(6)
    phi = np.linalg.qr(complex_normal(rng, 120, 20))[0].astype(np.complex64)
    whole = Basis(phi, np.ones(20), {"model": short.spec})
    prior = PRESETS["qmt-tissue"].thinned(500, short.parameters)
    bundle.save("b", whole, compress(short, prior, whole), force=False)
    truth = np.array([WM, GM])
    coeff = (short.signal(truth) @ phi.conj()).T.reshape(1, 1, 20, 1, 2).astype(np.complex64)
    place = Geometry((2, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    CoefficientImages(coeff, place, (0.0, 0.0, 0.0), whole.digest, {}).save("c")
    assert main(["fit", "c", "b", "-o", "maps", "--method", "nlls", "--fit-starts", "2"]) == 0
    names = [parameter.name for parameter in short.parameters]
    found = {name: load_map(Path("maps") / f"{name}map.nii.gz")[0].ravel() for name in [*names, "RESIDUAL"]}
    # to the rounding of coefficients in single precision, unless it came to another minimum
    assert np.all(found["RESIDUAL"] < 1e-5 * np.linalg.norm(coeff, axis=2).ravel())
    capsys.readouterr()
    bundle.save("other", replace(whole, info={"model": model().spec}), compress(short, prior, whole), force=False)
    assert main(["fit", "c", "other", "-o", "more", "--method", "nlls"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the model has 1500 frames, the basis 120: they do not belong together" in line
    with pytest.raises(UserError, match="the model has 1500 frames, the basis 120"):
        compress(model(), prior, whole)


def test_bounds_that_exclude_the_start_are_refused() -> None:
    """And those that reach beyond the table of R2sl, or values held there: which, and what the range is."""
    exact, none = forward(15), np.zeros(1, bool)
    start = Maps(model().parameters, np.array([WM]).T, none.astype(complex), none, ~none)
    coeff = complex_normal(np.random.default_rng(7), 15, 1)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("the start of T2s is outside of 8e-06 to 1.2e-05 s in 1 of 1 voxels", {"bounds": {"T2s": (8e-6, 12e-6)}}),
        ("the start of w0 is outside of -300 to 50 rad/s in 1 of 1 voxels", {"bounds": {"w0": (-300, 50)}}),
        ("bounds of T2s are 1e-06 to 1.2e-05 s, expected a range within 4.95e-06", {"bounds": {"T2s": (1e-6, 12e-6)}}),
        ("the fixed value of B1 is outside of 0.6 to 1.2 in 1 of 1 voxels", {"fixed": {"B1": 1.4}}),
    ]
    for text, options in cases:
        with pytest.raises(UserError, match=re.escape(text)) as error:
            nlls.fit(coeff, exact, start, **options)
        assert "\n" not in str(error.value)
    beyond = np.array([LOW, HIGH])
    beyond[1, 5] = 30e-6
    with pytest.raises(
        UserError, match=r"bounds of T2s are 4.95e-06 to 3e-05 s, .* that of the model, 4.90196e-06 to 2.5"
    ):
        Box(model().parameters, *beyond)
