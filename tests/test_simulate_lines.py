"""Simulated Cartesian scans whose lines change from frame to frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cli_case
import numpy as np
import pytest

from crbsvd_plugin import bart, mrd, simulate
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.lines import line_positions
from crbsvd_plugin.models import build
from crbsvd_plugin.readouts import is_imaging

MATRIX, N_FRAMES, N_COILS = 17, 5, 2


def echoes() -> object:
    return build({"name": "mese", "n_echoes": N_FRAMES, "b1": False})


@pytest.fixture
def mask(rng: np.random.Generator) -> np.ndarray:
    """Every frame with lines of its own, more or fewer."""
    wanted = rng.random((N_FRAMES, MATRIX)) < 0.3
    wanted[:, MATRIX // 2] = True
    wanted[1] = np.arange(MATRIX) == 3
    return wanted


def test_the_lines_are_those_of_the_mask_and_their_data_the_transform(mask: np.ndarray, tmp_path: Path) -> None:
    """As read from the file: counters, positions, and data that are those of a scan of all lines."""
    scan = simulate.acquire(echoes(), matrix=MATRIX, n_coils=N_COILS, mask=mask)
    full = simulate.acquire(echoes(), matrix=MATRIX, n_coils=N_COILS, mask=np.ones_like(mask))
    found = np.zeros_like(mask)
    raw = simulate.write(scan, tmp_path / "raw.h5", snr=None)["raw"]
    with mrd.open_raw(raw) as (header, items):
        lines = [item for item in items if is_imaging(item)]
        positions = line_positions(
            header, [item.getHead() for item in lines], 2 * MATRIX, shape=(MATRIX, MATRIX), fov=(240.0, 240.0)
        )
    np.testing.assert_allclose(positions, scan.traj, atol=1e-12)
    for number, item in enumerate(lines):
        assert item.trajectory_dimensions == 0
        frame, line = item.idx.contrast, item.idx.kspace_encode_step_1
        assert not found[frame, line]
        found[frame, line] = True
        (same,) = np.flatnonzero((full.frame == frame) & (full.line == line))
        # two NUFFTs of 1e-5 of all data
        assert np.linalg.norm(item.data - full.ksp[:, same]) < 3e-5 * np.linalg.norm(full.ksp) / len(full.line) ** 0.5
        assert (item.idx.repetition, number) == (scan.shot[number], item.scan_counter)
    np.testing.assert_array_equal(found, mask)
    assert (np.diff(scan.shot) >= 0).all()
    # mask[1] is one line alone
    assert np.count_nonzero(scan.frame == 1) == 1
    # every other sample of all lines lies on the grid; the sum over frames 0 of a fully sampled grid is the image
    grid = full.ksp[:, full.frame == 0][:, np.argsort(full.line[full.frame == 0])][..., MATRIX % 2 :: 2]
    assert grid.shape == (N_COILS, MATRIX, MATRIX)
    image = np.fft.ifftshift(grid, axes=(1, 2))
    image = np.fft.fftshift(np.fft.ifft2(image, norm="ortho"), axes=(1, 2))
    truth = full.phantom.maps()["M0map"]
    combined = np.sqrt((np.abs(image) ** 2).sum(axis=0))
    # an image of so few voxels rings, but is in its place: moved by one voxel it fits less
    fits = [np.corrcoef(np.roll(combined, by, (0, 1)).ravel(), truth.ravel())[0, 1] for by in ((0, 0), (1, 0), (0, 1))]
    assert fits[0] > 0.9
    assert fits[0] > max(fits[1:]) + 0.05


def test_what_is_not_possible_is_refused(mask: np.ndarray) -> None:
    def acquire(mask: np.ndarray, **options: object) -> None:
        simulate.acquire(echoes(), matrix=MATRIX, n_coils=1, mask=mask, **options)

    with pytest.raises(UserError, match=r"mask has 5 x 16 frames and lines, sequence and matrix 5 x 17"):
        acquire(mask[:, 1:])
    with pytest.raises(UserError, match=r"frame 2 of the mask has no line"):
        acquire(mask & (np.arange(N_FRAMES) != 2)[:, None])
    for options in ({"n_shots": 3}, {"gradient_delay": (0.1, 0.0, 0.0)}):
        with pytest.raises(UserError, match="leave shots, gradient delays and volumes out"):
            acquire(mask, **options)


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Run the command in an empty folder, and return the one line that it says."""
    monkeypatch.chdir(tmp_path)
    yield from cli_case.refuser(tmp_path, capsys)


def test_the_command_takes_a_mask_of_bart(mask: np.ndarray, refused: Callable[..., str]) -> None:
    options = ("simulate", "mese", "--set", f"n_echoes={N_FRAMES}", "--matrix", str(MATRIX), "--coils", "1")
    bart.write_cfl("mask", mask.T[None, :, None, None, None, :])
    bart.write_cfl("other", mask.T)
    assert main([*options, "--set", "b1=false", "--set", "t1=none", "--mask", "mask", "-o", "scan.h5"]) == 0
    with mrd.open_raw("scan.h5") as (_, items):
        assert sum(map(is_imaging, items)) == mask.sum()
    line = refused(*options, "--mask", "other", "-o", "out.h5")
    assert f"dimensions {MATRIX} {N_FRAMES} 1 1 1 1, expected 1 lines 1 1 1 frames" in line
    assert "cannot read none.hdr" in refused(*options, "--mask", "none", "-o", "out.h5")
