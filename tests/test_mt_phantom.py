"""The brain of two pools, and its scan: a koosh ball that is the sum over the fine grid, from k-space to maps."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_simulate import read

from crbsvd_plugin import models, mrd, mt_phantom, phantom, simulate
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.koosh import koosh_ball
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.models.qmt import train

MATRIX, N_COILS, N_SHOTS = 9, 2, 2
SHORT = tuple(values[:, ::6].copy() for values in train.built_in())  # 3 cycles of 84 pulses


@pytest.fixture(autouse=True)
def without_nilearn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def qmt() -> Any:
    return models.build({"name": "qmt-hsfp", "alpha": SHORT[0][:, :10].tolist(), "TRF": SHORT[1][:, :10].tolist()})


def test_parameters_are_those_of_the_tissues() -> None:
    brain = mt_phantom.brain(16)
    names = [parameter.name for parameter in qmt().parameters]
    assert tuple(names) == mt_phantom.PARAMETERS == brain.parameters
    assert brain.fraction.shape == (3, 32, 32, 32)
    assert brain.geometry.shape == (16, 16, 16)
    inside = brain.fraction.sum(axis=0) > 0
    # a head of 176 x 140 x 176 mm is 16 % of the volume
    assert 0.12 < inside.mean() < 0.2
    for share, pair, values in zip(brain.fraction, brain.pair, mt_phantom.TABLE.values(), strict=True):
        theta = brain.theta[np.unique(pair[share > 0])]
        for name, column, value in zip(names, theta.T, values, strict=False):
            spread = 0.15 if name in ("m0s", "Rx") else 1e-14
            np.testing.assert_allclose(column, value, rtol=spread)
            assert np.ptp(column) > 0 or spread < 0.1
        assert np.ptp(theta[:, 6]) > 100  # rad/s
        assert theta[:, 7].min() > 0.75
        assert theta[:, 7].max() < 1.1
    # what is anywhere, and no signal in vain
    np.testing.assert_array_equal(np.unique(brain.pair[brain.fraction > 0]), np.arange(len(brain.theta)))
    maps = brain.maps()
    assert list(maps) == ["M0map", *(f"{name}map" for name in names), "GM", "WM", "CSF"]
    white = maps["WM"] > 0.99
    np.testing.assert_allclose(maps["R2fmap"][white], 1 / 0.0769, rtol=1e-12)
    # fields are smooth: a step of 1/12 and 1/6 of their range between neighbours, two where the slope is largest
    for name, largest in (("w0", 2 * np.pi * 60 / 12), ("B1", 0.35 / 6)):
        field = np.where(inside, (brain.theta[brain.pair, names.index(name)] * brain.fraction).sum(axis=0), np.nan)
        for axis in range(3):
            assert np.nanmax(np.abs(np.diff(field, axis=axis))) < 2.01 * largest


def test_data_are_the_sum_over_the_fine_grid(tmp_path: Path) -> None:
    model = qmt()
    scan = simulate.acquire(model, matrix=MATRIX, n_coils=N_COILS, n_shots=N_SHOTS)
    brain, n_fine = scan.phantom, 2 * MATRIX
    position = (np.arange(n_fine) - n_fine // 2) / 2 / MATRIX  # in fields of view, from the centre
    signal = phantom.signals_of(model, brain.theta, mt_phantom.PARAMETERS)
    sens = phantom.coils(N_COILS, (n_fine,) * 3)
    size = np.linalg.norm(scan.ksp) / np.sqrt(scan.ksp.shape[1])
    for r in (0, 7, 25, 31):
        image = (brain.fraction * brain.m0 * signal[brain.pair, scan.frame[r]]).sum(axis=0)
        waves = (np.exp(-2j * np.pi * np.outer(scan.traj[r, :, axis], position)) for axis in range(3))
        # a voxel holds eight fine ones, and the transform is divided by the root of the number of voxels
        expected = np.einsum("sz,sy,sx,czyx->cs", *waves, sens * image) / 8 / MATRIX**1.5
        # the NUFFT and the expansion have 1e-5 each
        assert np.linalg.norm(scan.ksp[:, r] - expected) < 3e-5 * size
    # all shots of a cycle, then all shots of the next
    np.testing.assert_array_equal(scan.frame, np.concatenate([np.tile(np.arange(10) + 10 * c, 2) for c in range(3)]))
    np.testing.assert_array_equal(scan.shot, np.tile(np.repeat([0, 1], 10), 3))
    np.testing.assert_array_equal(scan.traj, koosh_ball(30, N_SHOTS, MATRIX)[scan.shot, scan.frame])
    np.testing.assert_allclose(scan.start_times, 3.5e-3 * np.arange(60), rtol=1e-12, atol=1e-15)
    paths = simulate.write(scan, tmp_path / "raw.h5", snr=30.0)
    header, noise, readouts = read(paths["raw"])
    assert len(noise) == 32
    assert mrd.geometry_of(header, readouts[0]).shape == (MATRIX,) * 3
    assert [readout.idx.contrast for readout in readouts] == scan.frame.tolist()
    stored = np.stack([readout.traj for readout in readouts])[..., ::-1]  # MRD has (x, y, z)
    np.testing.assert_allclose(stored, scan.traj, atol=MATRIX / 2 * np.finfo(np.float32).eps)
    for name, values in brain.maps().items():
        np.testing.assert_array_equal(load_map(paths[name])[0], values.astype(np.float32))


def test_what_is_not_possible_is_refused() -> None:
    with pytest.raises(UserError, match="gradient delays are those of a slice"):
        simulate.acquire(qmt(), matrix=8, n_coils=1, n_shots=1, gradient_delay=(0.1, 0.0, 0.0))
    with pytest.raises(UserError, match="the phantom knows T1, T2, B1 and w0"):
        simulate.acquire(qmt(), scanned="nist-t1", matrix=8, n_coils=1, n_shots=1)


def test_from_k_space_to_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, from the sequence to maps of both pools: white matter comes out as what it is."""
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", alpha=SHORT[0], TRF=SHORT[1])
    spec = ["qmt-hsfp", "--set", "train=train.npz"]
    # 24 x 252 spokes of two coils: more than three times what 12 coefficients of 10 x 10 x 10 voxels need
    scan = ["--matrix", "10", "--coils", "2", "--shots", "24", "--snr", "none"]
    assert main(["simulate", *spec, "-o", "raw.h5", *scan]) == 0
    assert main(["basis", *spec, "-o", "b", "--train", "600", "--atoms", "3000", "--rank", "12"]) == 0
    fit = ["--method", "nlls", "--signals", "exact", "--iterations", "40", "--mask-level", "0.4", "--no-std"]
    assert main(["maps", "raw.h5", "b", "-o", "maps", *fit, "--no-misfit"]) == 0
    found = {name: load_map(Path("maps") / f"{name}map.nii.gz")[0] for name in mt_phantom.PARAMETERS}
    true = {name: load_map(f"raw_{name}map.nii.gz")[0] for name in mt_phantom.PARAMETERS}
    white = load_map("raw_WM.nii.gz")[0] > 0.9
    assert white.sum() >= 30
    ratio = {name: float(np.median(found[name][white] / true[name][white])) for name in ("m0s", "R2f", "Rx", "B1")}
    # ringing of voxels of 24 mm from their neighbours; a mix-up of axes, cycles or parameters goes far beyond
    assert ratio == pytest.approx(dict.fromkeys(ratio, 1.0), abs=0.2)
