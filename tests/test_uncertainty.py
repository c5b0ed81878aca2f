"""Standard deviations and residuals beside maps against dense algebra, and the command that writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cli_case
import numpy as np
import pytest

from crbsvd_plugin import crb, pipeline
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit.fitter import Fitter
from crbsvd_plugin.fit.result import Maps, stacked
from crbsvd_plugin.fit.spread import Noise, spread
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.quality import known_noise, tangents_of, with_quality
from crbsvd_plugin.recon.misfit import misfit, told
from crbsvd_plugin.recon.objective import objective
from crbsvd_plugin.recon.penalty import penalty
from crbsvd_plugin.recon.replicas import replica_covariance, white_noise
from crbsvd_plugin.tangents import compressed_tangents

K, SHAPE = 5, (3, 5)
PARAMETERS = tuple(Parameter(name, "s", 0.0, 9.0) for name in ("T1", "T2", "T3"))
FITTED = [0, 2]


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


class Case:
    """Estimates on a grid of values, most of which occur several times, with random tangents for each of them."""

    def __init__(self, rng: np.random.Generator, rank: int = K, shape: tuple[int, ...] = SHAPE):
        self.rank, self.shape, n = rank, shape, int(np.prod(shape))
        self.signal, self.jac = complex_normal(rng, 4, rank), complex_normal(rng, 4, 3, rank)
        self.atom = rng.integers(0, 4, n)
        theta = np.stack([self.atom + 1.0, 0.1 * self.atom, np.full(n, 0.3)]).astype(np.float32)
        m0 = complex_normal(rng, n)
        mask = np.arange(n) % 7 != 2
        m0[~mask], theta[:, ~mask] = 0, 0
        self.maps = Maps(
            PARAMETERS, theta.reshape(3, *shape), m0.reshape(shape), np.zeros(shape, bool), mask.reshape(shape)
        )
        self.calls: list[np.ndarray] = []

    def tangents(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append(theta)
        atom = np.rint(theta[:, 0] - 1).astype(int)
        return self.signal[atom], self.jac[atom]

    def columns(self, voxel: int) -> np.ndarray:
        """Return J (2 K, 4) over the reals: T1, T3, |M0| and the phase of M0."""
        m0 = self.maps.m0.ravel()[voxel]
        turn = m0 / abs(m0)
        s = self.signal[self.atom[voxel]]
        derivatives = [m0 * self.jac[self.atom[voxel], i] for i in FITTED]
        j = np.stack([*derivatives, turn * s, 1j * m0 * s], axis=1)
        return np.concatenate([j.real, j.imag])

    def spread(self, coeff: np.ndarray, noise: Noise) -> Any:
        return spread(self.maps, coeff, tangents=self.tangents, fitted=FITTED, noise=noise)


def real_form(matrix: np.ndarray) -> np.ndarray:
    """Return the covariance (2 K, 2 K) of real and imaginary parts of circular noise, C per real component."""
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])


def hermitian(rng: np.random.Generator, rank: int, n: int) -> np.ndarray:
    """Return positive matrices (n, K, K) of very different eigenvalues."""
    root = complex_normal(rng, n, rank, rank) * np.logspace(-1, 1, rank)
    return root @ np.conj(np.swapaxes(root, 1, 2))


@pytest.mark.parametrize("white", [True, False])
def test_spread_is_the_dense_sandwich(rng: np.random.Generator, white: bool) -> None:
    case = Case(rng)
    n = case.maps.mask.size
    coeff = complex_normal(rng, K, *SHAPE)
    matrices = hermitian(rng, K, n)
    sigma = rng.uniform(0.5, 2, (SHAPE[0], 1))  # of every slice
    if white:
        noise = Noise(sigma)
        matrices = np.broadcast_to(sigma, SHAPE).reshape(n, 1, 1) ** 2 * np.eye(K)
    else:
        noise = Noise(99.0, matrices[:, *np.triu_indices(K)].T.reshape(-1, *SHAPE))
    found = case.spread(coeff, noise)
    assert len(case.calls[0]) == len(set(case.atom[case.maps.mask.ravel()])) < case.maps.mask.sum()
    for voxel in range(n):
        got = [*found.theta.reshape(2, -1)[:, voxel], found.m0.ravel()[voxel]]
        if not case.maps.mask.ravel()[voxel]:
            assert [*got, found.residual.ravel()[voxel]] == [0, 0, 0, 0]
            continue
        j, dense = case.columns(voxel), real_form(matrices[voxel])
        estimator = np.linalg.inv(j.T @ j) @ j.T
        expected = estimator @ dense @ estimator.T
        # conditions of random columns stay below 1e3, rounding in double precision below 1e-10
        np.testing.assert_allclose(got, np.sqrt(np.diag(expected))[:3], rtol=1e-9)
        c, m0 = coeff.reshape(K, -1)[:, voxel], case.maps.m0.ravel()[voxel]
        left = np.linalg.norm(c - m0 * case.signal[case.atom[voxel]])
        assert found.residual.ravel()[voxel] == pytest.approx(left / np.linalg.norm(c), rel=1e-12)
        mean = np.trace((np.eye(2 * K) - j @ estimator) @ dense)
        assert found.chi2.ravel()[voxel] == pytest.approx(left**2 / mean, rel=1e-9)


def test_white_noise_gives_the_exact_compressed_bound(rng: np.random.Generator) -> None:
    """Eq. (2) after compression, for M0 = 1 and unit noise, times sigma^2 / |M0|^2."""
    case = Case(rng)
    found = case.spread(complex_normal(rng, K, *SHAPE), Noise(0.3))
    bound = crb.orthogonalise(case.signal, case.jac[:, FITTED]).bound[case.atom]
    mask = case.maps.mask.ravel()
    expected = 0.3 * np.sqrt(bound[mask]) / np.abs(case.maps.m0.ravel()[mask])[:, None]
    np.testing.assert_allclose(found.theta.reshape(2, -1)[:, mask].T, expected, rtol=1e-12)


def test_least_squares_of_noise_scatter_as_predicted(rng: np.random.Generator) -> None:
    """One voxel, 40,000 draws: a linear fit has these standard deviations, and chi2 has the mean 1."""
    case, n = Case(rng, shape=(1, 1)), 40_000
    (matrix,) = hermitian(rng, K, 1)
    noise = np.linalg.cholesky(matrix) @ complex_normal(rng, K, n)
    j = case.columns(0)
    fitted = np.linalg.lstsq(j, np.concatenate([noise.real, noise.imag]), rcond=None)[0]
    packed = matrix[np.triu_indices(K)].reshape(-1, 1, 1)
    found = case.spread(np.ones((K, 1, 1)), Noise(covariance=packed))
    predicted = np.array([*found.theta.ravel(), found.m0.item()])
    # a standard deviation of n draws has the relative error 1 / sqrt(2 n) = 0.35 %: five of them
    np.testing.assert_allclose(fitted[:3].std(axis=1), predicted, rtol=5 / np.sqrt(2 * n))
    left = np.concatenate([noise.real, noise.imag]) - j @ fitted
    energies = np.sum(left**2, axis=0)
    mean = np.linalg.norm(np.ones(K) - case.maps.m0.item() * case.signal[case.atom[0]]) ** 2 / found.chi2.item()
    assert energies.mean() == pytest.approx(mean, abs=5 * energies.std() / np.sqrt(n))


def test_what_coefficients_do_not_determine_is_infinite(rng: np.random.Generator) -> None:
    # over the reals: 2 K = 2 numbers, 4 unknowns; for K = 2 none is left for a residual
    for rank in (1, 2):
        case = Case(rng, rank=rank)
        found = case.spread(complex_normal(rng, rank, *SHAPE), Noise(1.0))
        mask = case.maps.mask
        assert np.isinf(found.theta[:, mask]).all() == (rank == 1)
        assert np.isfinite(found.theta[:, mask]).all() == (rank == 2)
        assert np.isnan(found.chi2).all()
    case = Case(rng)
    case.jac[:, 2] = (1 + 2j) * case.signal  # acts as M0 does
    found = case.spread(complex_normal(rng, K, *SHAPE), Noise(1.0))
    assert np.isinf(found.theta[1, case.maps.mask]).all()
    assert np.isfinite(found.theta[0, case.maps.mask]).all()


def test_nothing_to_fit_and_wrong_shapes(rng: np.random.Generator) -> None:
    case = Case(rng)
    case.maps.mask[:] = False
    found = case.spread(np.ones((K, *SHAPE)), Noise(1.0))
    assert not found.theta.any()
    assert not case.calls
    with pytest.raises(ValueError, match=r"coeff has shape \(5, 5, 3\), expected \(K, 3, 5\)"):
        case.spread(np.ones((K, *SHAPE[::-1])), Noise(1.0))


def test_slices_have_the_same_maps_empty_ones_too(rng: np.random.Generator) -> None:
    full, empty = Case(rng), Case(rng)
    empty.maps.mask[:] = False
    coeff = complex_normal(rng, K, *SHAPE)
    slices = [
        with_quality(case.maps, coeff, fitted=FITTED, tangents=case.tangents, noise=known_noise(0.2, None))
        for case in (full, empty)
    ]
    volume = stacked([*slices, None])
    assert list(volume.extra) == ["T1std", "T3std", "M0std", "MISFITmap", "CHI2map"]
    assert volume.extra["T3std"].array.shape == (3, *SHAPE)
    assert (volume.extra["T3std"].array[0] > 0).sum() == full.maps.mask.sum()
    assert not volume.extra["T3std"].array[1:].any()
    assert (volume.extra["T3std"].unit, volume.extra["M0std"].unit) == ("s", "arbitrary")


def test_where_noise_comes_from_is_said() -> None:
    assert known_noise(0.5, None).noise == Noise(0.5)
    assert known_noise(0.0, None).noise is None
    assert "noise is not known" in known_noise(0.0, None).origin
    none = known_noise(0.5, None, penalty="llr")
    assert none.noise is None
    assert "does not hold for images regularised with llr; --replicas" in none.origin
    packed = np.ones((1, 2, 2))
    measured = known_noise(0.5, packed, n_replicas=7, penalty="llr")
    assert measured.noise is not None
    assert measured.noise.covariance is packed
    assert "7 pseudo-replicas" in measured.origin


def test_replicas_of_a_linear_reconstruction_give_its_covariance(rng: np.random.Generator) -> None:
    """n = L e with E[e e^H] = 2 gives C = L L^H, in each voxel for itself, whatever the data."""
    n_coils, n_readouts, n_samples, n = 2, 3, 4, 2000
    n_data, n_voxels = n_coils * n_readouts * n_samples, int(np.prod(SHAPE))
    matrix = complex_normal(rng, 3 * n_voxels, n_data)
    ksp, done = 1e2 * complex_normal(rng, n_coils, n_readouts, n_samples), []

    def images(noise: np.ndarray) -> np.ndarray:
        return (matrix @ (ksp + noise).ravel()).reshape(3, *SHAPE)

    found = replica_covariance(
        lambda rng: images(white_noise(rng, ksp.shape)), images(0 * ksp), n_replicas=n, rng=np.random.default_rng(3),
        progress=done.append,
    )  # fmt: skip
    assert (found.shape, sum(done)) == ((6, *SHAPE), n)
    rows = matrix.reshape(3, n_voxels, n_data)
    dense = np.einsum("kvd,lvd->klv", rows, rows.conj())
    expected = dense[np.triu_indices(3)].reshape(6, *SHAPE)
    size = np.sqrt(dense[range(3), range(3)].real)
    # C_kl of n circular draws has the error sqrt(C_kk C_ll / n): five of them, as there are 90 numbers
    scale = np.stack([size[k] * size[other] for k, other in zip(*np.triu_indices(3), strict=True)]).reshape(6, *SHAPE)
    assert (np.abs(found - expected) / scale).max() < 5 / np.sqrt(n)


def small_operator(rng: np.random.Generator) -> SubspaceOperator:
    """Return an operator with a complex basis, odd and unequal sizes, a frame without readouts, missing samples."""
    weights = rng.uniform(0.5, 2, (40, 9)).astype(np.float32)
    weights[rng.random(weights.shape) < 0.2] = 0
    phi = np.linalg.qr(complex_normal(rng, 6, 2))[0]
    frame = rng.choice([0, 1, 2, 4, 5], 40)
    frame[:5] = [0, 1, 2, 4, 5]
    return SubspaceOperator(
        rng.uniform(-2.5, 2.5, (40, 9, 2)), frame=frame, phi=phi, sens=complex_normal(rng, 3, 5, 7), weights=weights,
        dtype=np.complex128,
    )  # fmt: skip


def test_misfit_is_that_of_the_objective_frame_by_frame(rng: np.random.Generator) -> None:
    operator = small_operator(rng)
    ksp, coeff = complex_normal(rng, *operator.ksp_shape), complex_normal(rng, *operator.coeff_shape)
    ksp[:, operator.weights == 0] = np.nan
    found = misfit(operator, ksp, coeff)
    none = penalty("l2", (5, 7), block=1, shift="none")
    # both sum what a NUFFT gives to 1e-10
    assert found.left.sum() / 2 == pytest.approx(objective(operator, ksp, coeff, penalty=none, lam=0), rel=1e-8)
    for frame in range(6):
        rows = operator.frame == frame
        present = operator.weights[rows] > 0
        energy = np.where(present, operator.weights[rows] * np.abs(ksp[:, rows]) ** 2, 0)
        assert found.whole[frame] == pytest.approx(energy.sum(), rel=1e-12)
        assert found.noise[frame] == pytest.approx(2 * 3 * operator.weights[rows].sum(), rel=1e-6)
    assert found.fitted == pytest.approx(2 * 35 / (3 * np.count_nonzero(operator.weights)))
    figures = found.figures(noise_known=True)
    assert figures["ratio_by_frame"][3] is None
    assert figures["ratio"] == pytest.approx(found.left.sum() / found.noise.sum(), rel=1e-3)
    assert "ratio" not in found.figures(noise_known=False)
    assert "data's energy is not explained" in told(found.figures(noise_known=False))
    assert "times what noise leaves" in told(figures)


def test_misfit_of_true_images_is_the_noise(rng: np.random.Generator) -> None:
    """And a frame of other data stands out."""
    operator = small_operator(rng)
    coeff = 10 * complex_normal(rng, *operator.coeff_shape)
    ksp = operator.forward(coeff) + complex_normal(rng, *operator.ksp_shape)
    figures = misfit(operator, ksp, coeff).figures(noise_known=True)
    weights = operator.weights[operator.weights > 0].astype(float)
    # |e|^2 has mean and standard deviation 2
    assert figures["ratio"] == pytest.approx(1, abs=5 * np.sqrt(np.sum(weights**2) / 3) / weights.sum())
    ksp[:, operator.frame == 4] *= 1.5
    wrong = misfit(operator, ksp, coeff).figures(noise_known=True)["ratio_by_frame"]
    assert np.argmax([value or 0 for value in wrong]) == 4
    assert [wrong[i] for i in (0, 1, 2, 5)] == [figures["ratio_by_frame"][i] for i in (0, 1, 2, 5)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli_case.build(tmp_path_factory.mktemp("made"))


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_tangents_are_those_of_the_model(here: Path, rng: np.random.Generator) -> None:
    basis = Basis.load("b")
    theta = np.stack([rng.uniform(0.3, 3, 700), rng.uniform(0.03, 0.3, 700)], axis=1)
    seen: list[int] = []
    signal, jac = compressed_tangents(theta, basis=basis, progress=seen.append)
    expected = basis.model().signal_and_jacobian(theta)
    for found, rows in zip((signal, jac), expected, strict=True):
        np.testing.assert_allclose(found, rows @ basis.phi.conj(), atol=1e-12 * np.abs(rows).max())
    assert len(seen) > 1
    assert sum(seen) == 700
    # single precision may have rounded an estimate out of the range of the model
    low = np.array([[p.low for p in basis.model().parameters]])
    np.testing.assert_array_equal(
        compressed_tangents(low * (1 - 1e-7), basis=basis)[0], compressed_tangents(low, basis=basis)[0]
    )
    with pytest.raises(UserError, match="the model has 40 frames, the basis 39"):
        compressed_tangents(theta, basis=Basis(np.eye(39, 2), np.ones(2), basis.info))


@pytest.mark.parametrize("method", ["matching", "nlls"])
def test_maps_have_the_bound_at_the_estimate(here: Path, method: str) -> None:
    """sigma_coeff / |M0| times the root of B_ec, from the files that a user has."""
    assert main(["fit", "c", "b", "-o", method, "--method", method]) == 0
    maps = {name: load_map(here / method / f"{name}.nii.gz")[0] for name in ("T1map", "T2map", "M0map", "T1std")}
    basis, fitted = Basis.load("b"), maps["M0map"] > 0
    theta = np.stack([maps["T1map"][fitted], maps["T2map"][fitted]], axis=1).astype(float)
    signal, jac = basis.model().signal_and_jacobian(theta)
    exact = crb.bounds(signal, jac, basis.phi).exact[:, 0]
    sigma = CoefficientImages.load("c").info["sigma"]
    assert sigma > 0
    expected = sigma * np.sqrt(exact) / maps["M0map"][fitted]
    if method == "matching":  # files are in single precision
        np.testing.assert_allclose(maps["T1std"][fitted], expected, rtol=1e-5)
    else:
        # derivatives of an emulator are right to 1e-4 of ||phi^H s||; where the data leave T1 open, they are as small
        sure = expected < 0.5 * theta[:, 0]
        assert sure.mean() > 0.5
        np.testing.assert_allclose(maps["T1std"][fitted][sure], expected[sure], rtol=0.01)
    sidecar = json.loads((here / method / "T1std.json").read_text())
    assert sidecar["Units"] == "s"
    assert "exact compressed Cramer-Rao bound" in sidecar["Description"]
    plain, _ = load_map(here / method / "MISFITmap.nii.gz")
    assert ((plain[fitted] > 0) & (plain[fitted] < 1)).all()


def test_what_is_measured_or_fixed_counts_as_known(here: Path) -> None:
    basis, dictionary = pipeline.load("b", rank=None, with_dictionary=True)
    assert dictionary is not None
    assert tangents_of(Fitter(dictionary), basis)[0] == [0, 1]
    assert tangents_of(Fitter(dictionary), basis, known=("T1",))[0] == [1]
    theta = dictionary.theta.copy()
    theta[:, 1] = 0.1
    assert tangents_of(Fitter(replace(dictionary, theta=theta)), basis)[0] == [0]


def test_noise_of_slices_may_differ(here: Path) -> None:
    images = CoefficientImages.load("c")
    both = np.concatenate([images.coeff, images.coeff], axis=1)
    info = {**images.info, "sigma": [[0.5, 2.0]]}
    CoefficientImages(both, images.geometry, (0.0, 0.0, 8.0), images.digest, info).save("two")
    assert main(["fit", "two", "b", "-o", "two-maps"]) == 0
    (first, second), _ = load_map(here / "two-maps" / "T2std.nii.gz")
    assert first.any()
    np.testing.assert_allclose(second, 4 * first, rtol=1e-6)


def test_llr_says_that_there_is_no_bound_and_replicas_measure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llr = ("maps", "raw.h5", "b", "--no-misfit", "--regulariser", "llr", "--lam", "0.05")
    assert main([*llr, "-o", "llr"]) == 0
    assert "no standard deviations: the Cramer-Rao bound does not hold" in capsys.readouterr().err
    assert not list((here / "llr").glob("*std*"))
    said = json.loads((here / "llr" / "MISFITmap.json").read_text())["Description"]
    assert "the Cramer-Rao bound does not hold for images regularised with llr" in said
    assert main([*llr, "-o", "measured", "--replicas", "3"]) == 0
    assert capsys.readouterr().err == ""
    spread_of_t1, _ = load_map(here / "measured" / "T1std.nii.gz")
    assert (spread_of_t1[load_map(here / "measured" / "M0map.nii.gz")[0] > 0] > 0).all()
    # from coefficient images alone it is the same
    assert main(["recon", "raw.h5", "b", *llr[4:], "-o", "cllr"]) == 0
    capsys.readouterr()
    assert main(["fit", "cllr", "b", "-o", "fllr"]) == 0
    assert "does not hold for images regularised with llr" in capsys.readouterr().err


def test_replicas_are_refused_where_they_make_no_sense(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "spec.toml", "-o", "silent.h5", *cli_case.SCAN, "--snr", "none"]) == 0
    for refuse in cli_case.refuser(here, capsys):
        assert "no noise scan" in refuse("maps", "silent.h5", "b", "-o", "x", "--replicas", "2")
        assert "no standard deviations are wanted" in refuse(
            "maps", "raw.h5", "b", "-o", "x", "--replicas", "2", "--no-std"
        )


def test_misfit_is_told_and_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recon", "raw.h5", "b", "-o", "told", "--misfit"]) == 0
    assert "times what noise leaves" in capsys.readouterr().out
    (figures,) = json.loads((here / "told.json").read_text())["info"]["misfit"]
    assert len(figures["ratio_by_frame"]) == cli_case.N_FRAMES
    # images that fit well leave the noise, less what they take up of it
    assert 1 - figures["fitted"] < figures["ratio"] < 1.1
    assert main(["maps", "raw.h5", "b", "-o", "fits"]) == 0
    assert capsys.readouterr().err == ""
    (same,) = json.loads((here / "fits" / "maps.json").read_text())["misfit"]
    assert same["ratio"] == pytest.approx(figures["ratio"], rel=1e-2)
    # one coefficient is no basis for these signals
    assert main(["maps", "raw.h5", "b", "-o", "unfit", "--rank", "1", "--no-std"]) == 0
    assert "of the data's energy is not explained" in capsys.readouterr().err
    assert not list((here / "unfit").glob("*std*"))


def test_workers_make_the_replicas_of_one_thread(here: Path) -> None:
    pytest.importorskip("distributed")
    apart = ("--groups", "repetition", "--shots", "kspace_encode_step_1")
    options = ("maps", "raw.h5", "b", *apart, "--replicas", "2", "--iterations", "4")
    assert main([*options, "-o", "here", "--threads", "1"]) == 0
    assert main([*options, "-o", "there", "--workers", "2"]) == 0
    names = sorted(str(path.relative_to("here")) for path in Path("here").rglob("*.nii.gz"))
    assert "volume-0/T1std.nii.gz" in names
    for name in names:
        assert (Path("here") / name).read_bytes() == (Path("there") / name).read_bytes(), name
    # the noise of one image is not that of the other
    first, second = (load_map(Path("here") / f"volume-{i}" / "M0std.nii.gz")[0] for i in range(2))
    assert not np.array_equal(first, second)
