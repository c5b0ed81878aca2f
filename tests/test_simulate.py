"""Simulated raw data: equal to a sum over the fine grid, with the noise and the header that they should have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ismrmrd
import nibabel as nib
import numpy as np
import pytest
from test_phantom import Decay

from crbsvd_plugin import mrd, phantom, simulate
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.trajectory import GOLDEN_ANGLE, radial, to_cycles_per_fov

N_FRAMES, N_SHOTS, MATRIX, N_COILS = 30, 2, 32, 3
SEQUENCE = {"name": "decay", "tr": 0.02, "te": 0.005, "ti": 0.03, "recovery": 1.0, "flip_angles": [0.5] * N_FRAMES}


def decay() -> Decay:
    model = Decay("T1", "T2", n_frames=N_FRAMES)
    model.spec = dict(SEQUENCE)
    return model


@pytest.fixture(scope="module")
def scan() -> simulate.Scan:
    made = simulate.acquire(decay(), matrix=MATRIX, n_coils=N_COILS, n_shots=N_SHOTS)
    for array in (made.ksp, made.traj, made.frame, made.shot):
        array.setflags(write=False)
    return made


def read(path: Path) -> tuple[Any, list[ismrmrd.Acquisition], list[ismrmrd.Acquisition]]:
    """Return the header, the noise scan and the readouts."""
    with mrd.open_raw(path) as (header, acquisitions):
        everything = list(acquisitions)
    noise = [readout for readout in everything if readout.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    assert everything[: len(noise)] == noise
    return header, noise, everything[len(noise) :]


def test_data_are_the_sum_over_the_fine_grid(scan: simulate.Scan) -> None:
    brain = scan.phantom
    n_fine = 2 * MATRIX
    position = (np.arange(n_fine) - n_fine // 2) / 2 / MATRIX  # in fields of view, from the centre
    signal = decay().signal(brain.theta)
    sens = phantom.coils(N_COILS, (n_fine, n_fine))
    for r in (0, 7, N_FRAMES + 3):
        image = (brain.fraction * brain.m0 * signal[brain.pair, r % N_FRAMES]).sum(axis=0)
        angle = r * GOLDEN_ANGLE
        k = (np.arange(2 * MATRIX) - MATRIX) / 2
        wave_y, wave_x = (np.exp(-2j * np.pi * np.outer(k * f(angle), position)) for f in (np.sin, np.cos))
        # an image voxel holds four fine ones, and the transform is divided by the root of the number of image voxels
        expected = np.einsum("sy,cyx,sx->cs", wave_y, sens * image, wave_x) / 4 / MATRIX
        # the NUFFT has 1e-5
        assert np.linalg.norm(scan.ksp[:, r] - expected) < 3e-5 * np.linalg.norm(expected)


def test_delayed_gradients_move_the_data_and_not_the_trajectory(scan: simulate.Scan, tmp_path: Path) -> None:
    delayed = simulate.acquire(
        decay(), matrix=MATRIX, n_coils=N_COILS, n_shots=N_SHOTS, gradient_delay=(2.0, 2.0, 0.0)
    )  # fmt: skip
    np.testing.assert_array_equal(delayed.traj, scan.traj)
    # the same delay of all gradients is one of the receiver: every sample is what the second next should have been
    error = np.linalg.norm(delayed.ksp[..., :-2] - scan.ksp[..., 2:])
    assert error < 3e-5 * np.linalg.norm(scan.ksp)
    along_x = simulate.acquire(decay(), matrix=MATRIX, n_coils=1, n_shots=1, gradient_delay=(2.0, 0.0, 0.0))
    first = simulate.acquire(decay(), matrix=MATRIX, n_coils=1, n_shots=1)
    # the first spoke runs along x
    error = np.linalg.norm(along_x.ksp[0, 0, :-2] - first.ksp[0, 0, 2:])
    assert error < 3e-5 * np.linalg.norm(first.ksp[0, 0])
    assert np.linalg.norm(along_x.ksp - first.ksp) > 0.1 * np.linalg.norm(first.ksp)
    record = simulate.write(delayed, tmp_path / "raw.h5")["record"]
    assert json.loads(record.read_text())["gradient_delay"] == [2.0, 2.0, 0.0]


def test_a_drifting_phase_grows_with_the_time(scan: simulate.Scan, tmp_path: Path) -> None:
    drifting = simulate.acquire(decay(), matrix=MATRIX, n_coils=N_COILS, n_shots=N_SHOTS, phase_drift=0.8)
    # 20 ms per frame; a shot takes 30 frames, the inversion time and the recovery
    time = 0.02 * scan.frame + 1.63 * scan.shot
    expected = scan.ksp * np.exp(0.8j * time / time.max())[:, None]
    assert np.linalg.norm(drifting.ksp - expected) < 3e-5 * np.linalg.norm(expected)
    assert np.linalg.norm(drifting.ksp - scan.ksp) > 0.1 * np.linalg.norm(scan.ksp)
    assert json.loads(simulate.write(drifting, tmp_path / "raw.h5")["record"].read_text())["phase_drift"] == 0.8
    # the first readout has none, also where it is the only one
    alone = simulate.acquire(Decay("T1", "T2", n_frames=1), matrix=16, n_coils=1, n_shots=1, phase_drift=0.8)
    assert np.isfinite(alone.ksp).all()


def test_centre_of_k_space_is_that_of_the_image_grid(scan: simulate.Scan) -> None:
    coarse = scan.phantom.maps()
    n_x, n_y, _ = scan.phantom.geometry.shape
    sens = phantom.coils(N_COILS, (n_y, n_x))
    # at k = 0 a pure image of one tissue gives its sum over sqrt(number of voxels); here: of three
    first = decay().signal(np.array([[tissue.t1, tissue.t2] for tissue in phantom.TISSUES]))[:, 0]
    image = np.tensordot(first, [coarse[tissue.name] * tissue.m0 for tissue in phantom.TISSUES], axes=1)
    expected = (sens * image).sum(axis=(1, 2)) / MATRIX
    # T1, T2 and M0 vary by up to 8 % about those of the tissues, and so does the sum
    np.testing.assert_allclose(scan.ksp[:, 0, MATRIX], expected, atol=0.08 * np.abs(expected).max())


def test_counters_and_spokes(scan: simulate.Scan) -> None:
    np.testing.assert_array_equal(scan.frame, np.tile(np.arange(N_FRAMES), N_SHOTS))
    np.testing.assert_array_equal(scan.shot, np.repeat(np.arange(N_SHOTS), N_FRAMES))
    np.testing.assert_array_equal(scan.traj, radial(N_FRAMES * N_SHOTS, MATRIX))


def test_noise_has_the_strength_that_the_snr_says(scan: simulate.Scan) -> None:
    snr = 40.0
    sigma = scan.sigma(snr)
    n_samples = scan.ksp[0].size
    sigma_coeff = sigma * np.sqrt(N_FRAMES * MATRIX**2 / n_samples)
    assert 1.0 / sigma_coeff == pytest.approx(snr, rel=1e-12)
    covariance = simulate.noise_covariance(scan, snr)
    np.testing.assert_allclose(covariance, covariance.conj().T, atol=1e-18)
    assert np.linalg.cond(covariance) < 10
    correlation = np.abs(covariance[0, 1]) / np.sqrt(covariance[0, 0] * covariance[1, 1]).real
    assert correlation == pytest.approx(0.2, rel=1e-12)
    # the best combination of the coils has the noise sigma, on the average over the brain
    brain = scan.phantom.maps()["M0map"] > 0.5
    sens = phantom.coils(N_COILS, (MATRIX, MATRIX))[:, brain]
    information = np.einsum("cv,cd,dv->v", sens.conj(), np.linalg.inv(covariance), sens).real
    assert information.mean() == pytest.approx(sigma**-2, rel=1e-12)


def test_noise_of_data_and_noise_scan_is_that_of_the_record(scan: simulate.Scan, tmp_path: Path) -> None:
    paths = simulate.write(scan, tmp_path / "raw.h5", snr=20.0, seed=3)
    record = json.loads(paths["record"].read_text())
    covariance = np.array(record["noise_covariance"]["real"]) + 1j * np.array(record["noise_covariance"]["imag"])
    np.testing.assert_allclose(covariance, simulate.noise_covariance(scan, 20.0), rtol=1e-12)
    _, noise_scan, readouts = read(paths["raw"])
    in_data = np.stack([readout.data for readout in readouts], axis=1) - scan.ksp
    in_scan = np.stack([readout.data for readout in noise_scan], axis=1)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    for noise in (in_data, in_scan):
        white = whiten @ noise.reshape(N_COILS, -1)
        n = white.shape[1]
        assert n >= 2048
        both = np.concatenate([white.real, white.imag])
        # entries of the sample covariance of unit white noise deviate by 1/sqrt(n) (sqrt(2/n) on the diagonal)
        np.testing.assert_allclose(both @ both.T / n, np.eye(2 * N_COILS), atol=5 * np.sqrt(2 / n))


def test_no_noise(scan: simulate.Scan, tmp_path: Path) -> None:
    paths = simulate.write(scan, tmp_path / "raw.h5", snr=None)
    _, noise_scan, readouts = read(paths["raw"])
    assert not noise_scan
    np.testing.assert_array_equal(np.stack([readout.data for readout in readouts], axis=1), scan.ksp)
    assert json.loads(paths["record"].read_text())["sigma"] == 0


def test_noise_follows_the_seed(scan: simulate.Scan, tmp_path: Path) -> None:
    data = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        paths = simulate.write(scan, tmp_path / f"{name}.h5", seed=seed)
        data.append(np.stack([readout.data for readout in read(paths["raw"])[2]]))
    np.testing.assert_array_equal(data[0], data[1])
    assert not (data[0] == data[2]).any()


def test_readouts_tell_what_they_are(scan: simulate.Scan, tmp_path: Path) -> None:
    _, noise_scan, readouts = read(simulate.write(scan, tmp_path / "raw.h5")["raw"])
    assert len(noise_scan) == 32
    n_readouts = N_FRAMES * N_SHOTS
    assert [readout.idx.contrast for readout in readouts] == scan.frame.tolist()
    assert [readout.idx.repetition for readout in readouts] == scan.shot.tolist()
    assert [readout.idx.kspace_encode_step_1 for readout in readouts] == list(range(n_readouts))
    assert [r.scan_counter for r in [*noise_scan, *readouts]] == list(range(32 + n_readouts))
    assert {readout.center_sample for readout in readouts} == {MATRIX}
    # 20 ms per frame; a shot takes 30 frames, the inversion time and the recovery; in ticks of 2.5 ms
    assert [readouts[i].acquisition_time_stamp for i in (0, 1, N_FRAMES)] == [0, 8, (600 + 30 + 1000) * 2 // 5]

    def flagged(flag: int) -> list[int]:
        return [number for number, readout in enumerate(readouts) if readout.is_flag_set(flag)]

    assert flagged(ismrmrd.ACQ_FIRST_IN_REPETITION) == [0, N_FRAMES]
    assert flagged(ismrmrd.ACQ_LAST_IN_REPETITION) == [N_FRAMES - 1, n_readouts - 1]
    assert flagged(ismrmrd.ACQ_FIRST_IN_SLICE) == [0]
    assert flagged(ismrmrd.ACQ_LAST_IN_SLICE) == flagged(ismrmrd.ACQ_LAST_IN_MEASUREMENT) == [n_readouts - 1]


def test_trajectory_comes_back(scan: simulate.Scan, tmp_path: Path) -> None:
    header, _, readouts = read(simulate.write(scan, tmp_path / "raw.h5")["raw"])
    stored = np.stack([readout.traj for readout in readouts])[..., ::-1]  # MRD has (x, y)
    unit = mrd.user_strings(header)["trajectory_unit"]
    back = to_cycles_per_fov(stored, units=unit, shape=(MATRIX, MATRIX), fov=(240.0, 240.0))
    np.testing.assert_allclose(back, scan.traj, atol=MATRIX / 2 * np.finfo(np.float32).eps)


def test_header_is_complete(scan: simulate.Scan, tmp_path: Path) -> None:
    header, _, _ = read(simulate.write(scan, tmp_path / "raw.h5")["raw"])
    encoding = header.encoding[0]
    assert (encoding.reconSpace.matrixSize.x, encoding.encodedSpace.matrixSize.x) == (MATRIX, 2 * MATRIX)
    assert (encoding.reconSpace.fieldOfView_mm.x, encoding.encodedSpace.fieldOfView_mm.x) == (240.0, 480.0)
    assert encoding.trajectory.value == "goldenangle"
    limits = mrd.limits(header)
    assert (limits["contrast"], limits["repetition"], limits["slice"]) == ((0, 29), (0, 1), (0, 0))
    assert limits["kspace_encoding_step_1"] == (0, 59)
    assert header.acquisitionSystemInformation.receiverChannels == N_COILS
    assert header.acquisitionSystemInformation.relativeReceiverNoiseBandwidth == 1.0
    assert header.measurementInformation.patientPosition.value == "HFS"
    assert header.experimentalConditions.H1resonanceFrequency_Hz == pytest.approx(3 * 42.577e6, rel=1e-4)
    sequence = header.sequenceParameters
    assert (sequence.TR, sequence.TE, sequence.TI) == ([20.0], [5.0], [30.0])
    np.testing.assert_allclose(sequence.flipAngle_deg, np.rad2deg(SEQUENCE["flip_angles"]), rtol=1e-12)


def test_true_maps_lie_where_the_data_lie(scan: simulate.Scan, tmp_path: Path) -> None:
    # an oblique slice: nothing of it is a default
    read_dir, phase_dir = np.array([0.0, 0.6, 0.8]), np.array([0.8, -0.36, 0.48 - 0.21])
    phase_dir = np.cross(np.cross(read_dir, phase_dir), read_dir)
    phase_dir /= np.linalg.norm(phase_dir)
    slice_dir = np.cross(read_dir, phase_dir)
    geometry = Geometry(
        scan.phantom.geometry.shape,
        (7.5, 7.5, 5.0),
        (8.0, -4.0, 16.0),
        tuple(read_dir),
        tuple(phase_dir),
        tuple(slice_dir),
    )
    turned = replace(scan, phantom=replace(scan.phantom, geometry=geometry))
    paths = simulate.write(turned, tmp_path / "raw_0.5.h5")
    assert paths["T1map"].name == "raw_0.5_T1map.nii.gz"
    header, _, readouts = read(paths["raw"])
    said = mrd.geometry_of(header, readouts[0])
    maps = scan.phantom.maps()
    for name, values in maps.items():
        image = nib.load(paths[name])
        np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, 0], values.T.astype(np.float32))
        # single precision: of the directions in MRD, and of the affine in NIfTI
        np.testing.assert_allclose(image.affine, geometry.affine, atol=200 * np.finfo(np.float32).eps)
        np.testing.assert_allclose(said.affine, geometry.affine, atol=200 * np.finfo(np.float32).eps)
        assert image.header.get_xyzt_units()[0] == "mm"


def test_nothing_is_overwritten_without_force(scan: simulate.Scan, tmp_path: Path) -> None:
    taken = tmp_path / "raw_T1map.nii.gz"
    taken.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists already"):
        simulate.write(scan, tmp_path / "raw.h5")
    with pytest.raises(UserError, match="not part of"):
        simulate.write(scan, tmp_path / "raw.h5", force=True)
    assert [path.name for path in tmp_path.iterdir()] == [taken.name]
    assert taken.read_bytes() == b"mine"
    taken.unlink()
    simulate.write(scan, tmp_path / "raw.h5", seed=1)
    paths = simulate.write(scan, tmp_path / "raw.h5", seed=2, force=True)
    assert json.loads(paths["record"].read_text())["seed"] == 2
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())


def test_a_taken_name_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.h5").write_bytes(b"mine")
    monkeypatch.setattr(simulate, "acquire", lambda *args, **options: pytest.fail("it began to work"))
    with pytest.raises(UserError, match=r"raw\.h5 exists already"):
        simulate.simulate(decay(), tmp_path / "raw.h5")


def test_all_in_one_call(tmp_path: Path, scan: simulate.Scan) -> None:
    steps: list[tuple[int, int]] = []
    paths = simulate.simulate(
        decay(), tmp_path / "raw.h5", matrix=MATRIX, n_coils=N_COILS, n_shots=N_SHOTS, snr=None,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]
    assert len(steps) == -(-scan.rank // 8)
    _, _, readouts = read(paths["raw"])
    # the same computation: threads may add in another order
    error = np.stack([readout.data for readout in readouts], axis=1) - scan.ksp
    assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(scan.ksp)


def test_b1_is_one_and_a_model_need_not_tell_its_sequence() -> None:
    with_b1, without = Decay("T1", "T2", "B1", n_frames=5), Decay("T1", "T2", n_frames=5)
    scans = [simulate.acquire(model, matrix=16, n_coils=1, n_shots=1) for model in (with_b1, without)]
    assert np.linalg.norm(scans[0].ksp - scans[1].ksp) < 1e-5 * np.linalg.norm(scans[1].ksp)


def test_model_without_a_sequence_still_makes_a_header(tmp_path: Path) -> None:
    scan = simulate.acquire(Decay("T1", "T2", n_frames=5), matrix=17, n_coils=1, n_shots=1)
    header, _, readouts = read(simulate.write(scan, tmp_path / "raw.h5")["raw"])
    assert header.sequenceParameters.TR == []
    assert mrd.geometry_of(header, readouts[0]).shape == (17, 17, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matrix": 4}, "matrix of at least 8"),
        ({"n_coils": 0}, "0 coils"),
        ({"n_shots": 0}, "0 shots"),
        ({"fov": -1.0}, "field of view -1.0"),
        ({"n_shots": 3000}, "90000 readouts"),
        ({"gradient_delay": (0.0, float("nan"), 0.0)}, "gradient delays of .*expected at most 192"),
        ({"gradient_delay": (0.0, 0.0, -200.0)}, "gradient delays of .*expected at most 192"),
        ({"phase_drift": float("nan")}, "phase drift of nan rad, expected less than 10000"),
        ({"phase_drift": -2e4}, "phase drift of -20000.0 rad, expected less than 10000"),
    ],
)
def test_impossible_scan_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        simulate.acquire(decay(), **options)


@pytest.mark.parametrize("snr", [0.0, -3.0, float("nan"), float("inf")])
def test_impossible_snr_is_refused(scan: simulate.Scan, tmp_path: Path, snr: float) -> None:
    with pytest.raises(UserError, match="SNR is"):
        simulate.write(scan, tmp_path / "raw.h5", snr=snr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["raw", ".h5", "raw.hdf5"])
def test_output_must_end_in_h5(scan: simulate.Scan, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"ends in \.h5"):
        simulate.write(scan, tmp_path / name)
