"""Errors of every rank: noise and leak against dense matrices, bounds and a Monte Carlo; the rule; the verb `rank`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cli_case
import numpy as np
import pytest

from crbsvd_plugin import bart, crb, phantom, trajectory
from crbsvd_plugin.amplification import Errors, Ranks, errors, rows, sigma_of
from crbsvd_plugin.balance import least, table
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.recon.replicas import replica_covariance, white_noise
from crbsvd_plugin.sampling import Sampling
from crbsvd_plugin.spec import resolve
from crbsvd_plugin.still import Still, still

T, K = 14, 4
THETA = np.array([[1.3, 0.11], [0.8, 0.08], [0.83, 0.07]])
ANGLES = np.round(0.2 + 0.8 * np.abs(np.sin(np.arange(T))), 3).tolist()
MODEL = resolve("mrf-fisp", [f"flip_angles={ANGLES}", "tr=0.02", "te=0.005"]).model


pytestmark = pytest.mark.usefixtures("one_thread")


def complex_basis(rng: np.random.Generator, signals: np.ndarray | None = None) -> Basis:
    columns = rng.standard_normal((T, K)) + 1j * rng.standard_normal((T, K))
    if signals is not None:
        columns[:, : len(signals)] = signals.T
    return Basis(np.linalg.qr(columns)[0], np.ones(K), {"model": MODEL.spec})


def scanned(rng: np.random.Generator, shape: tuple[int, int], coils: np.ndarray) -> Still:
    signal = MODEL.signal(THETA)
    phi, coeff = phantom.expand(signal)
    which = rng.integers(0, 3, np.prod(shape))
    voxels = np.array([1, 5, 7, 11])
    m0 = rng.uniform(0.5, 1.5, np.prod(shape))
    images = (coeff[which] * m0[:, None]).T.reshape(-1, *shape)
    tissue = np.array(["GM", "WM", "CSF"])[which[voxels]]
    return Still(phi, images, coils, voxels, tissue, THETA[which[voxels]], m0[voxels])


def dense(sampling: Sampling, phi: np.ndarray, sens: np.ndarray) -> np.ndarray:
    """A by its formula (C R S, K N)."""
    shape = sampling.shape
    grid = np.stack(np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij"), axis=-1).reshape(-1, 2)
    waves = np.exp(-2j * np.pi * np.einsum("rsd,xd->rsx", sampling.traj, grid)) / np.sqrt(np.prod(shape))
    found = np.einsum("rk,cx,rsx->crskx", phi[sampling.frame], sens.reshape(len(sens), -1), waves)
    return found.reshape(-1, phi.shape[1] * np.prod(shape))


def all_lines(shape: tuple[int, int]) -> Sampling:
    """Every frequency in every frame."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), axis=-1).astype(float)
    frame = np.repeat(np.arange(T), shape[0])
    return Sampling(np.tile(grid, (T, 1, 1)), frame, np.ones((len(frame), shape[1]), np.float32), shape, 1)


@pytest.mark.slow
def test_noise_and_leak_are_those_of_dense_matrices() -> None:
    """Undersampled, two coils, odd and unequal sizes, a complex basis, frames without readouts."""
    rng = np.random.default_rng(0)
    shape = (5, 4)
    traj = rng.uniform(-2, 2, (60, 4, 2))
    frame = rng.integers(0, T - 2, 60)
    sampling = Sampling(traj, frame, np.ones((60, 4), np.float32), shape, 2)
    sens = rng.standard_normal((2, *shape)) + 1j * rng.standard_normal((2, *shape))
    basis, seen = complex_basis(rng), scanned(rng, shape, sens)
    asked = {"targets": [0, 1], "snr": 30.0, "iterations": 300, "seed": 3, "dtype": np.complex128, "tolerance": 1e-10}
    n = 100
    found = errors(sampling, seen, basis, n_replicas=n, **asked)
    whole = np.tensordot(seen.phi, seen.coeff, 1).reshape(T, -1)
    y = dense(sampling, np.eye(T), sens) @ whole.ravel()
    sigma = sigma_of(sampling, 30.0, n_frames=T)
    assert sigma == pytest.approx(np.sqrt(60 * 4 / (T * 20)) / 30)
    signal, jac = MODEL.signal_and_jacobian(seen.theta)
    for rank in (3, 4):
        phi = basis.phi[:, :rank]
        inverse = np.linalg.pinv(dense(sampling, phi, sens))
        delta = (inverse @ y).reshape(rank, -1) - phi.conj().T @ whole
        covariance = (inverse @ inverse.conj().T).reshape(rank, 20, rank, 20) * sigma**2
        for number, voxel in enumerate(seen.voxels):
            # J of the real unknowns theta, Re M0, Im M0
            m0 = seen.m0[number]
            columns = np.stack(
                [*(m0 * jac[number] @ phi.conj()), signal[number] @ phi.conj(), 1j * (signal[number] @ phi.conj())]
            )
            stacked = np.concatenate([columns.real, columns.imag], axis=1).T
            plus = np.linalg.pinv(stacked)[:2]
            c = covariance[:, voxel, :, voxel]
            both = np.block([[c.real, -c.imag], [c.imag, c.real]])
            variance = np.diag(plus @ both @ plus.T) / seen.theta[number] ** 2
            bias = plus @ np.concatenate([delta[:, voxel].real, delta[:, voxel].imag]) / seen.theta[number]
            # pinv and iterations to 1e-10 agree to what the condition leaves of rounding, the NUFFT to 1e-10
            assert found[rank].bias[number] == pytest.approx(bias, rel=1e-4, abs=1e-6 * np.sqrt(variance.max()))
            # |w^H e|^2 is exponential: the mean of n has a relative error of 1 / sqrt(n); 4 of them
            assert found[rank].noise[:, number].mean(axis=0) == pytest.approx(variance, rel=4 / np.sqrt(n))
    assert np.isinf(found[1].noise).all()
    assert np.isinf(found[1].bias).all()


def test_of_full_frames_the_noise_is_the_exact_bound_and_nothing_leaks() -> None:
    rng = np.random.default_rng(1)
    sampling, sens = all_lines((6, 5)), np.ones((1, 6, 5), complex)
    basis, seen, n = complex_basis(rng), scanned(rng, (6, 5), sens), 300
    found = errors(
        sampling, seen, basis, targets=[0, 1], snr=20.0, n_replicas=n, iterations=5, seed=0, dtype=np.complex128
    )
    exact = crb.bounds_by_rank(*MODEL.signal_and_jacobian(seen.theta), basis.phi).exact
    for rank in (3, 4):
        deviation = np.sqrt(exact[rank - 1]) / 20 / seen.m0[:, None] / seen.theta
        # a standard deviation of n draws has half of their relative error, 1 / (2 sqrt(n)); 4 of them
        assert np.sqrt(found[rank].noise.mean(axis=0)) == pytest.approx(deviation, rel=2 / np.sqrt(n))
        # the NUFFT's 1e-10, amplified as noise is (20 times the deviation), with a margin of 100
        assert np.all(np.abs(found[rank].bias) < 1e-8 * 20 * deviation)


def test_nothing_leaks_of_signals_that_lie_in_the_subspace() -> None:
    """Undersampled, but converged: leak only of the ranks that do not hold the three signals."""
    rng = np.random.default_rng(2)
    traj, frame = rng.uniform(-3, 3, (80, 6, 2)), rng.integers(0, T, 80)
    sampling = Sampling(traj, frame, np.ones((80, 6), np.float32), (6, 5), 1)
    seen = scanned(rng, (6, 5), np.ones((1, 6, 5), complex))
    basis = complex_basis(rng, MODEL.signal(THETA))
    found = errors(
        sampling, seen, basis, targets=[0, 1], snr=1e6, n_replicas=2, iterations=1000, seed=0, dtype=np.complex128,
        tolerance=1e-12,
    )  # fmt: skip
    moves = rows(*(part @ basis.phi.conj() for part in MODEL.signal_and_jacobian(seen.theta)), [0, 1])
    scale = np.linalg.norm(moves, axis=-1) / seen.m0[:, None] / seen.theta
    assert np.all(np.abs(found[4].bias) < 1e-6 * scale)
    assert np.all(np.abs(found[2].bias[np.isfinite(found[2].bias)]) > 0)


def test_replicas_say_what_replica_covariance_says() -> None:
    rng = np.random.default_rng(4)
    sampling = all_lines((6, 5))
    basis = complex_basis(rng)
    operator = SubspaceOperator(sampling.traj, frame=sampling.frame, phi=basis.phi, sens=np.ones((1, 6, 5)))
    ranks = Ranks(operator, iterations=4)
    right = operator.adjoint(white_noise(rng, operator.ksp_shape))
    noises = [operator.adjoint(white_noise(rng, operator.ksp_shape)) for _ in range(5)]
    draws = iter(noises)
    coeff, changes = ranks.changes(right, noises, 3)
    upper = replica_covariance(lambda _: ranks.images(right + next(draws), 3), coeff, n_replicas=5, rng=rng)
    k, other = np.triu_indices(3)
    assert np.allclose(upper, np.mean(changes[:, k] * changes[:, other].conj(), axis=0) / 2, atol=1e-5)
    lower = SubspaceOperator(sampling.traj, frame=sampling.frame, phi=basis.phi[:, :3], sens=np.ones((1, 6, 5)))
    assert np.allclose(Ranks(lower, iterations=4).images(right[:3], 3), coeff, atol=1e-5)


@pytest.mark.slow
def test_a_monte_carlo_of_the_whole_chain_agrees_with_the_total_error() -> None:
    """Noisy data of all frames, reconstruction, least squares by our own Gauss-Newton steps; one rank, high SNR."""
    n_frames, shape, snr, rank, n = 40, (32, 32), 400.0, 4, 60
    angles = np.round(0.17 + 0.87 * np.abs(np.sin(np.arange(n_frames) * 2 * np.pi / n_frames)), 4).tolist()
    model = resolve("mrf-fisp", [f"flip_angles={angles}", "tr=0.02", "te=0.005"]).model
    traj = trajectory.radial(3 * n_frames, 32)
    sampling = Sampling(traj, np.tile(np.arange(n_frames), 3), np.ones(traj.shape[:2], np.float32), shape, 3)
    found_still = still(model, sampling, fov=60.0)
    signals = model.signal_and_jacobian(THETA)
    columns = np.concatenate([signals[0], signals[1].reshape(-1, n_frames)])
    basis = Basis(np.linalg.svd(columns)[2][:rank].T.conj(), np.ones(rank), {"model": model.spec})
    asked = {"targets": [0, 1], "snr": snr, "iterations": 25}
    predicted = errors(sampling, found_still, basis, n_replicas=40, seed=0, **asked)[rank]
    total = np.sqrt(predicted.noise.mean(axis=0) + predicted.bias**2)

    at = partial(SubspaceOperator, traj, frame=sampling.frame, sens=found_still.sens)
    y = at(phi=found_still.phi).forward(found_still.coeff)
    operator, rng = at(phi=basis.phi), np.random.default_rng(9)
    sigma = sigma_of(sampling, snr, n_frames=n_frames)
    truth = np.tensordot(basis.phi.conj().T @ found_still.phi, found_still.coeff, 1)

    def fitted(coeff: np.ndarray) -> np.ndarray:
        values = coeff.reshape(rank, -1)[:, found_still.voxels].T
        theta, m0 = found_still.theta.copy(), found_still.m0.astype(complex)
        for _ in range(6):
            signal, jac = (part @ basis.phi.conj() for part in model.signal_and_jacobian(theta))
            parts = np.stack([*(m0[:, None] * jac.swapaxes(0, 1)), signal, 1j * signal], axis=-1)
            left = values - m0[:, None] * signal
            step = np.einsum(
                "vuk,vk->vu", np.linalg.pinv(np.concatenate([parts.real, parts.imag], axis=1)),
                np.concatenate([left.real, left.imag], axis=1),
            )  # fmt: skip
            theta, m0 = (
                np.clip(theta + step[:, :2], 0.2 * found_still.theta, 3 * found_still.theta),
                m0 + step[:, 2:] @ [1, 1j],
            )
        return theta

    right = fitted(truth)
    off = []
    for _ in range(n):
        noisy = y + sigma * white_noise(rng, y.shape)
        off.append(fitted(reconstruct(operator, noisy, iterations=25)) / right - 1)
    observed = np.sqrt(np.mean(np.square(off), axis=0))
    for tissue in ("GM", "WM"):
        there = found_still.tissue == tissue
        ratio = np.median(observed[there] / total[there], axis=0)
        # a voxel: 1 / sqrt(2 n) = 9 % of the observed, 1 / sqrt(2 * 2 * 40) = 8 % of the predicted; of a hundred voxels
        # next to nothing. What is left is the curvature of the model: of the size of the errors, a few per cent
        assert ratio == pytest.approx(1, rel=0.08), (tissue, ratio, np.median(total[there], axis=0))


def made(noise: float, bias: float, spread: np.ndarray) -> Errors:
    """Two voxels of one parameter; variances of the replicas that have the wanted mean."""
    variance = noise**2 * (1 + spread - spread.mean())
    return Errors(np.repeat(variance[:, None, None], 2, axis=1), np.full((2, 1), bias))


def test_the_rule() -> None:
    nothing = Errors(np.full((4, 2, 1), np.inf), np.full((2, 1), np.inf))
    alike, varied = np.zeros(4), np.array([0.5, -0.5, 0.1, -0.1])
    counted = {("WM", "T1")}
    tissue, names = ["WM", "WM"], ["T1"]
    # noise grows, leak falls
    found = {1: nothing, 2: made(3.0, 4.0, alike), 3: made(3.2, 1.0, alike), 4: made(4.0, 0.0, alike)}
    choice = least(found, tissue, names, counted=counted)
    assert (choice.rank, choice.least) == (3, 3)
    assert choice.total == pytest.approx(np.hypot(3.2, 1.0))
    assert [row.total for row in table(found, tissue, names)][1] == pytest.approx(5.0)
    # the same noise at two ranks, one per cent more: its spread does not hide a difference that all replicas have ...
    found = {2: made(3.0 * 1.01, 0.0, varied), 3: made(3.0, 0.0, varied)}
    totals = [np.array([np.sqrt(np.delete(e.noise, n, 0).mean(0))[0, 0] for n in range(4)]) for e in found.values()]
    error = np.sqrt(3 * np.var(totals[0] - totals[1]))
    assert 2 * error < 0.03
    assert least(found, tissue, names, counted=counted).rank == 3
    # ... and hides one that they do not have
    found = {2: made(3.0 * 1.01, 0.0, -varied), 3: made(3.0, 0.0, varied)}
    assert least(found, tissue, names, counted=counted).rank == 2
    with pytest.raises(UserError, match="too few coefficients"):
        least({1: nothing}, tissue, names, counted=counted)


SMALL = ("--train", "60", "--rank", "4", "--matrix", "32", "--replicas", "3", "--iterations", "6", "--threads", "1")
RANK = ("rank", "spec.toml", "raw.h5", "-o", "out", *SMALL)


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    cli_case.write_spec(tmp_path)
    assert main(["simulate", "spec.toml", "-o", "raw.h5", *cli_case.SCAN, "--threads", "1"]) == 0
    return tmp_path


@pytest.fixture
def refused(scan: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    yield from cli_case.refuser(scan, capsys)


def test_the_command_writes_the_files_and_says_what_to_take(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([*RANK]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(path.name for path in (scan / "out").iterdir()) == ["rank.csv", "rank.json", "rank.png"]
    content = json.loads((scan / "out" / "rank.json").read_text())
    assert content["format"] == "crbsvd-rank/1"
    assert f"take --rank {content['recommended']}: its worst error" in out
    assert f"Rule: {content['rule']}." in out
    assert ("This differs from the losses alone" in out) == (content["by_losses"]["rank"] != content["recommended"])
    assert len(content["rows"]) == 4 * 3 * 2
    assert content["sampling"]["scan"] == content["sampling"]["small"]
    assert content["iterations"] == {"scan": 6, "small": 6}
    for row in content["rows"]:
        assert (row["total"] is None) == (row["rank"] < 3)  # real coefficients: |M0|, T1 and T2
    # the seed is all that is random
    before = (scan / "out" / "rank.csv").read_bytes()
    assert main([*RANK, "--force"]) == 0
    assert (scan / "out" / "rank.csv").read_bytes() == before
    assert main([*RANK, "--force", "--seed", "1"]) == 0
    assert (scan / "out" / "rank.csv").read_bytes() != before


def test_cartesian_lines(scan: Path, rng: np.random.Generator) -> None:
    """Of a scan of twice the matrix those of the middle, of half the samples each, and iterations as they are."""
    # every line in as many frames, so that the middle is as dense as all of it
    mask = rng.permuted(np.arange(cli_case.N_FRAMES) < np.full((2 * cli_case.MATRIX, 1), 12), axis=1)
    bart.write_cfl(str(scan / "mask"), mask.reshape(1, -1, 1, 1, 1, cli_case.N_FRAMES).astype(complex))
    size = ("--matrix", str(2 * cli_case.MATRIX), "--coils", "1", "--mask", "mask", "--threads", "1")
    assert main(["simulate", "spec.toml", "-o", "lines.h5", *size]) == 0
    assert main(["rank", "spec.toml", "lines.h5", "-o", "out", *SMALL]) == 0
    content = json.loads((scan / "out" / "rank.json").read_text())
    whole, small = content["sampling"]["scan"], content["sampling"]["small"]
    assert (whole["shape"], small["shape"], small["coils"]) == ([64, 64], [32, 32], 1)
    # positions -16 to 15 along both axes; readouts are oversampled twice
    inside = mask[16:48].sum()
    assert (whole["readouts"], whole["samples"]) == (mask.sum(), 128 * mask.sum())
    assert (small["readouts"], small["samples"]) == (inside, 64 * inside)
    assert content["iterations"] == {"scan": 6, "small": 6}
    assert all(math.isfinite(row["total"]) for row in content["rows"] if row["rank"] > 2)


def test_what_is_refused(refused: Callable[..., str]) -> None:
    assert "--matrix is 33, expected 8 to 32" in refused(*RANK, "--matrix", "33")
    assert "--snr is 0" in refused(*RANK, "--snr", "0")
    assert "--tissues names 'fat', expected some of GM, WM, CSF" in refused(*RANK, "--tissues", "fat")
    assert "--crb-weights holds 2" in refused(*RANK, "--crb-weight", "2")
    assert "frames" in refused("rank", "mrf-fisp", "raw.h5", "-o", "out", *SMALL)
    assert "none.h5" in refused("rank", "spec.toml", "none.h5", "-o", "out", *SMALL)
    assert "too few coefficients" in refused(*RANK, "--rank", "2")
