"""Coil compression, phases and gradient delays in the pipeline, from raw data to what is written about them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mrd_stream import header, readout
from test_phantom import Decay
from test_pipeline import SAME, SIGNAL, C, K, T, error, head, scan, silent

from crbsvd_plugin import run, simulate, threads
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import main
from crbsvd_plugin.config import Config
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.group import Reconstruction
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.pipeline import reconstruct_stream
from crbsvd_plugin.volumes import gathered

DELAYS = (0.5, -0.3, 0.1)  # along x, along y, coupling


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Problems as small as these only wait for a second thread."""
    with threads.limit(1):
        yield


@pytest.fixture
def name(rng: np.random.Generator, tmp_path: Path) -> str:
    """Write a complex basis of the signal of `scan`, and return its name."""
    other = rng.standard_normal((T, K - 1)) + 1j * rng.standard_normal((T, K - 1))
    Basis(np.linalg.qr(np.hstack([SIGNAL, other]))[0], np.ones(K)).save(tmp_path / "basis")
    return str(tmp_path / "basis")


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative error, after the phase of the whole image: that of the virtual coil, which is any."""
    return error(got * np.exp(1j * np.angle(np.vdot(got, expected))), expected)


def reconstructed(items: list[Any], name: str, **options: Any) -> list[Reconstruction]:
    config = Config(basis=name, lam=0.5, iterations=8, fit=False, **options)
    return list(reconstruct_stream(head(), items, config))


def test_all_virtual_coils_give_what_the_coils_give(rng: np.random.Generator, name: str) -> None:
    items = scan(rng)
    plain, compressed = reconstructed(items, name), reconstructed(items, name, coils=C)
    for one, other in zip(plain, compressed, strict=True):
        assert difference(other.coeff, one.coeff) < SAME
        assert (one.calibration, other.calibration) == ({}, {"coils": C, "energy_lost": 0.0})
        assert other.sigma == one.sigma


def test_fewer_virtual_coils_lose_what_they_say(
    rng: np.random.Generator, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of every slice for itself; by number or by energy."""
    items = scan(rng)
    plain = reconstructed(items, name)
    with caplog.at_level(logging.INFO, "crbsvd_plugin"):
        compressed = reconstructed(items, name, coils=2)
    lost = [one.calibration["energy_lost"] for one in compressed]
    assert 1e-5 < min(lost) < max(lost) < 1e-3
    assert caplog.text.count("2 virtual coils of 3, ") == 2
    for one, other, share in zip(plain, compressed, lost, strict=True):
        # a loss of that share of the data is at most its root of the images, were it not consistent with the rest
        assert difference(other.coeff, one.coeff) < np.sqrt(share)
    enough = reconstructed(items, name, coils=1 - 1.001 * max(lost))
    assert [one.calibration["coils"] for one in enough] == [2, 2]
    written = gathered(compressed, Config(basis=name, coils=2)).info["calibration"]
    assert [(one["slice"], one["coils"]) for one in written] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("coils", [4.0, 0.0])
def test_coils_that_are_not_there_are_refused(rng: np.random.Generator, name: str, coils: float) -> None:
    with pytest.raises(UserError, match=rf"coils is {coils:g}, expected a whole number from 1 to 3, or a share"):
        reconstructed(scan(rng), name, coils=coils)


def test_readouts_that_are_not_radial_have_no_delays(rng: np.random.Generator, name: str) -> None:
    items = scan(rng)
    items[5].traj[3] += 1
    with pytest.raises(UserError, match="no straight line of equal steps"):
        reconstructed(items, name, gradient_delays="estimate")


@pytest.mark.parametrize("coils", [None, 2.0])
def test_delays_of_a_simulation_are_found_and_taken_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, coils: float | None
) -> None:
    """Against the same scan without delays, whose images a delay of half a sample spoils."""
    model = Decay("T1", "T2", n_frames=30)
    t1, t2 = np.meshgrid(np.linspace(0.5, 5, 9), np.linspace(0.05, 2.5, 9))
    signal = model.signal(np.stack([t1.ravel(), t2.ravel()], axis=1))
    Basis(np.linalg.svd(signal, full_matrices=False)[2][:4].T, np.ones(4)).save(tmp_path / "basis")
    for name, delays in (("straight", (0.0, 0.0, 0.0)), ("delayed", DELAYS)):
        path = tmp_path / f"{name}.h5"
        written = simulate.simulate(model, path, matrix=32, n_coils=3, n_shots=4, snr=200, gradient_delay=delays)
        assert json.loads(written["record"].read_text())["gradient_delay"] == list(delays)
    options = {"basis": str(tmp_path / "basis"), "coils": coils, "iterations": 15, "fit": False}
    images = {}
    with caplog.at_level(logging.INFO, "crbsvd_plugin"):
        for name, way in (("straight", "off"), ("delayed", "off"), ("delayed", "estimate")):
            config = run.config(**options, gradient_delays=way)
            run.recon(str(tmp_path / f"{name}.h5"), config, str(tmp_path / "coeff"), force=True, report=silent)
            images[name, way] = CoefficientImages.load(tmp_path / "coeff")
    (found,) = images["delayed", "estimate"].info["calibration"]
    assert caplog.text.count("gradient delays in samples: x 0.") == 1
    assert [found["gradient_delays"][axis] for axis in ("x", "y", "xy")] == pytest.approx(DELAYS, abs=0.01)
    assert (found["slice"], found.get("coils")) == (0, coils)
    straight = images["straight", "off"].coeff
    # what remains is that the samples lie elsewhere, and so do the streaks of 120 spokes for 4 coefficients
    left, before = (difference(images["delayed", way].coeff, straight) for way in ("estimate", "off"))
    assert left < 0.5 * before


def test_one_passage_through_the_frames_has_no_phases(rng: np.random.Generator, name: str) -> None:
    one = [item for item in scan(rng) if item.idx.repetition == 0]
    with pytest.raises(UserError, match=r"pass through the frames once, .* do without \(--phase-drift off\)"):
        reconstructed(one, name, phase_drift="steps")


def test_a_drift_of_a_simulation_is_found_and_taken_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Against the same scan without drift; with gradient delays, which are found as well as without it."""
    model = Decay("T1", "T2", n_frames=30)
    model.spec |= {"tr": 0.02, "recovery": 1.0}
    t1, t2 = np.meshgrid(np.linspace(0.5, 5, 9), np.linspace(0.05, 2.5, 9))
    signal = model.signal(np.stack([t1.ravel(), t2.ravel()], axis=1))
    Basis(np.linalg.svd(signal, full_matrices=False)[2][:4].T, np.ones(4)).save(tmp_path / "basis")
    drift = 3.0  # rad
    for name, gained in (("steady", 0.0), ("drifting", drift)):
        simulate.simulate(
            model, tmp_path / f"{name}.h5", matrix=32, n_coils=3, n_shots=4, snr=2000, gradient_delay=DELAYS,
            phase_drift=gained,
        )  # fmt: skip
    images = {}
    with caplog.at_level(logging.INFO, "crbsvd_plugin"):
        for name, way in (("steady", "off"), ("drifting", "off"), ("drifting", "steps"), ("drifting", "linear")):
            # a drift of half a turn hides the delays
            delays = "off" if (name, way) == ("drifting", "off") else "estimate"
            config = run.config(
                basis=str(tmp_path / "basis"), iterations=15, fit=False, gradient_delays=delays, phase_drift=way
            )
            run.recon(str(tmp_path / f"{name}.h5"), config, str(tmp_path / "coeff"), force=True, report=silent)
            images[name, way] = CoefficientImages.load(tmp_path / "coeff")
    assert caplog.text.count("phases of 4 shots relative to the first: 0.0 to ") == 2
    steady = images["steady", "off"].coeff
    errors = {way: difference(images["drifting", way].coeff, steady) for way in ("off", "steps", "linear")}
    # within a shot the phase gains 0.58 of 5.38 s, 0.32 rad: an even spread over that is 0.09 rad from its mean
    assert errors["linear"] < 0.02 < errors["steps"] < 0.09 < 0.5 < errors["off"]
    # the middles of the shots are 1.6 s apart
    for way in ("steps", "linear"):
        (found,) = images["drifting", way].info["calibration"]
        assert found["phase_drift"]["kind"] == way
        assert found["phase_drift"]["rad"] == pytest.approx(drift * 1.6 / 5.38 * np.arange(4), abs=0.02)
        assert [found["gradient_delays"][axis] for axis in ("x", "y", "xy")] == pytest.approx(DELAYS, abs=0.01)


TURNED = np.array([[0.0, 0.6, 0.8], [0.8, -0.48, 0.36], [0.6, 0.64, -0.48]]).T  # columns: read, phase, slice direction


@pytest.mark.parametrize("shape", [(16, 15, 1), (11, 12, 9)])
def test_a_blob_is_where_the_patient_has_it(rng: np.random.Generator, name: str, shape: tuple[int, int, int]) -> None:
    """An oblique image off the isocentre, of data that are centred on it: voxel and affine give the true place."""
    n_axes = 2 if shape[2] == 1 else 3
    told, n_slices = header(shape, T, repetition=9, slice=1), 4 - n_axes
    fov = np.array([2.0, 2.0, 5.0])[:n_axes] * shape[:n_axes]
    items, blobs = [], []
    for number in range(n_slices):
        # whole voxels and a fraction of one away
        position = TURNED @ np.array([6.3, -5.1, 12.0 + 6 * number])
        within = np.array([2.7, -3.9, 4.1])[:n_axes] * (1 - 2 * number)
        blob = position + TURNED[:, :n_axes] @ within
        seen = (TURNED.T @ blob)[:n_axes] / fov  # from the isocentre, in fields of view along x, y, z
        blobs.append(blob)
        for i in range(90):
            k = rng.uniform(-0.5, 0.5, (90, n_axes)) * shape[:n_axes]
            samples = np.exp(-((k / shape[:n_axes]) ** 2).sum(axis=1) * 20 - 2j * np.pi * k @ seen)
            one = readout(SIGNAL[i % T] * samples[None], k, contrast=i % T, slice=number, position=position)
            one.read_dir[:], one.phase_dir[:], one.slice_dir[:] = TURNED.T
            items.append(one)

    def found(way: str) -> list[np.ndarray]:
        config = Config(basis=name, fit=False, iterations=10, fov_shift=way)  # type: ignore[arg-type]
        results = list(reconstruct_stream(told, items, config))
        places = []
        for result in results:
            energy = np.abs(result.coeff[0].reshape(*result.coeff.shape[1:], *[1] * (3 - n_axes))) ** 2
            energy = energy if n_axes == 3 else np.moveaxis(energy, 2, 0)
            z, y, x = (np.tensordot(energy, grid, 3) / energy.sum() for grid in np.indices(energy.shape))
            places.append((result.geometry.affine @ [x, y, z, 1])[:3] * [-1, -1, 1])
            assert bool(result.calibration) is (way == "header")
        return places

    # mm, 1/20 of a voxel: at the edge of k-space the blob is down to exp(-5), its energy to 5e-5
    for place, blob in zip(found("header"), blobs, strict=True):
        np.testing.assert_allclose(place, blob, atol=0.1)
    assert all(np.linalg.norm(place - blob) > 5 for place, blob in zip(found("off"), blobs, strict=True))


def test_the_command_says_what_it_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = ("--matrix", "32", "--coils", "4", "--shots", "2", "--gradient-delay", "0.5,-0.25,0")
    scan += ("--phase-drift", "40 deg")
    assert main(["simulate", "spec.toml", "-o", "late.h5", *scan, "--threads", "1"]) == 0
    capsys.readouterr()
    options = ("--coils", "0.95", "--gradient-delays", "estimate", "--fov-shift", "header", "--iterations", "2", "-v")
    options += ("--phase-drift", "linear")
    assert main(["recon", "late.h5", "b", "-o", "late", *options, "--threads", "1"]) == 0
    said = capsys.readouterr().err
    assert "virtual coils of 4" in said
    assert "gradient delays in samples: x 0." in said
    assert "phases of 2 shots relative to the first: 0.0 to 3" in said
    (found,) = json.loads((here / "late.json").read_text())["info"]["calibration"]
    assert found["energy_lost"] < 0.05
    assert 1 <= found["coils"] < 4
    # moved by the header, an image that is centred is 18 mm further up, and its delays are the same
    assert found["fov_shift"] == pytest.approx([18 / 240, 0])
    assert [found["gradient_delays"][axis] for axis in ("x", "y", "xy")] == pytest.approx((0.5, -0.25, 0), abs=0.02)
