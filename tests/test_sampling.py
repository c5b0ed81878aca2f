"""The scan of a smaller image: what it keeps of that of a large one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crbsvd_plugin import bart, mrd, scan_mrd, simulate, trajectory
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.koosh import koosh_ball
from crbsvd_plugin.sampling import Sampling
from crbsvd_plugin.scanned import COILS, Reading, sampling_of
from crbsvd_plugin.spec import resolve


def spokes(n: int, n_frames: int, n_shots: int) -> Sampling:
    traj = trajectory.radial(n_frames * n_shots, n)
    frame = np.tile(np.arange(n_frames), n_shots)
    return Sampling(traj, frame, np.ones(traj.shape[:2], np.float32), (n, n), 2)


def lines(shape: tuple[int, int], n_frames: int) -> Sampling:
    """All lines in every frame."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), axis=-1).astype(float)
    traj = np.tile(grid, (n_frames, 1, 1))
    return Sampling(traj, np.repeat(np.arange(n_frames), shape[0]), np.ones(traj.shape[:2], np.float32), shape, 1)


def test_of_spokes_the_share_stays_that_the_image_has_of_the_other() -> None:
    whole = spokes(96, 60, 4)
    small = whole.reduced(32)
    # a readout more or less is one part in 80, and cells at the edge of the disc count whole
    assert abs(len(small.frame) - 240 / 3) <= 0.06 * 80
    assert small.per_voxel == pytest.approx(whole.per_voxel, rel=1 / 80)
    # as many samples for each cell at the same share of the way to the edge: rings of a third of it
    for low, high in ((1 / 3, 2 / 3), (2 / 3, 1)):
        density = []
        for one, n in ((whole, 96), (small, 32)):
            radius = np.linalg.norm(one.traj[one.weights > 0], axis=-1) / (n / 2)
            inside = np.count_nonzero((radius >= low) & (radius < high))
            density.append(inside / (np.pi * (n / 2) ** 2 * (high**2 - low**2)))
        assert density[1] == pytest.approx(density[0], rel=0.08)
    # four shots: every frame keeps one or two readouts
    assert set(np.bincount(small.frame, minlength=60)) <= {1, 2}
    assert small.iterations(whole, 30) == round(30 * np.sqrt(len(small.frame) / 240))


def test_what_is_left_out_of_k_space_stays_left_out() -> None:
    whole = spokes(96, 60, 4)
    half = Sampling(whole.traj, whole.frame, (whole.traj[..., 0] > -12).astype(np.float32), whole.shape, 1)
    small = half.reduced(32)
    assert small.traj[small.weights > 0][:, 0].min() >= -4 - 1  # a cell
    assert np.linalg.norm(small.traj[small.weights > 0], axis=-1).max() < 16 * 2**0.5 - 2  # no corners


@pytest.mark.parametrize(("shape", "small"), [((30, 20), (15, 10)), ((25, 45), (8, 15))])
def test_all_lines_stay_all_lines(shape: tuple[int, int], small: tuple[int, int]) -> None:
    """Odd and unequal sizes: every frequency of the small image, once in every frame."""
    whole = lines(shape, 3)
    found = whole.reduced(15)
    assert found.shape == small == tuple(round(n * 15 / max(shape)) for n in shape)
    assert found.n_samples == 3 * np.prod(small)
    assert found.covered().all()
    assert found.densest == whole.densest == 3
    assert found.iterations(whole, 30) == 30
    places = {
        (f, *k) for f, k, w in zip(found.frame, found.traj, found.weights, strict=True) for k in map(tuple, k[w > 0])
    }
    assert len(places) == found.n_samples


def test_a_koosh_ball_keeps_the_square_of_the_share() -> None:
    n_frames, n_shots, n = 30, 20, 24
    traj = koosh_ball(n_frames, n_shots, n).reshape(-1, 2 * n, 3)
    frame = np.tile(np.arange(n_frames), n_shots)
    whole = Sampling(traj, frame, np.ones(traj.shape[:2], np.float32), (n,) * 3, 1)
    small = whole.reduced(12)
    # the cells at the surface are a fifth of the ball, and count whole
    assert len(small.frame) == pytest.approx(600 / 4, rel=0.2)
    assert small.per_voxel == pytest.approx(whole.per_voxel, rel=1 / 100)


def test_the_matrix_of_the_scan_is_the_scan() -> None:
    whole = spokes(24, 10, 2)
    assert whole.reduced(24) is whole
    for matrix in (7, 25):
        with pytest.raises(UserError, match=f"--matrix is {matrix}, expected 8 to 24"):
            whole.reduced(matrix)


def test_no_sample_in_the_middle() -> None:
    whole = spokes(24, 10, 2)
    outer = (np.abs(whole.traj).max(axis=-1) > 6).astype(np.float32)
    with pytest.raises(UserError, match="no sample lies in the middle"):
        Sampling(whole.traj, whole.frame, outer, (24, 24), 1).reduced(8)


def test_raw_data_and_a_trajectory_say_the_same(tmp_path: Path) -> None:
    settings = [f"flip_angles={[0.2] * 12}", "tr=0.02", "te=0.005"]
    model = resolve("mrf-fisp", settings).model
    scan = simulate.acquire(model, matrix=16, n_coils=3, n_shots=2)
    mrd.write_raw(tmp_path / "raw.h5", scan_mrd.header(scan), scan_mrd.acquisitions(scan, np.zeros((3, 3)), 0))
    raw = sampling_of(str(tmp_path / "raw.h5"), n_frames=12, reading=Reading())
    assert (raw.n_coils, raw.shape, raw.weights.min()) == (3, (16, 16), 1)
    assert np.array_equal(raw.frame, scan.frame)
    assert np.abs(raw.traj - scan.traj).max() < 1e-5  # single precision of 8 cycles
    array = np.zeros((3, 32, 2, 1, 1, 12))
    for position, frame, shot in zip(scan.traj, scan.frame, scan.shot, strict=True):
        array[:2, :, shot, 0, 0, frame] = position.T[::-1]
    bart.write_cfl(str(tmp_path / "traj"), array)
    other = sampling_of(str(tmp_path / "traj"), n_frames=12, reading=Reading())
    assert (other.n_coils, other.shape) == (COILS, (16, 16))
    order = np.lexsort((raw.frame,))
    assert np.array_equal(other.frame, raw.frame[order])
    assert np.abs(other.traj - raw.traj[order]).max() < 1e-5
    assert sampling_of(str(tmp_path / "traj"), n_frames=12, reading=Reading(), n_coils=5).n_coils == 5
    with pytest.raises(UserError, match="frames"):
        sampling_of(str(tmp_path / "traj"), n_frames=13, reading=Reading())
    with pytest.raises(UserError, match="leave out the options"):
        sampling_of(str(tmp_path / "traj"), n_frames=12, reading=Reading(frame="repetition"))
