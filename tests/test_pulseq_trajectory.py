"""The trajectory of a Pulseq file is what its gradients were made for, and `--traj-file` takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pypulseq as pp
import pytest
from seq_case import FOV, SYSTEM, Builder, block, gradient_echoes, spin_echoes, spoke

from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.pulseq import kspace
from crbsvd_plugin.pulseq.scan import Scan
from crbsvd_plugin.pulseq.train import Train
from crbsvd_plugin.trajfile import TrajFile

S = 64
ALONG = S / 0.256 * ((np.arange(S) + 0.5) / S - 0.5)  # cycles/m, of `spoke`
# Gradients have six digits, 5e-6 of their moment at most: of the prephaser (half of the readout with its ramps, below
# 150 cycles/m) and of the readout up to there (below 300), times the largest field of view
ROUNDING = 5e-6 * 450 * max(FOV)
BOTH = pytest.mark.parametrize("old", [False, True], ids=["1.5", "1.4"])


@BOTH
def test_spokes_of_a_spoiled_train(tmp_path: Path, old: bool) -> None:
    directions = 2.4 * np.arange(7)
    path = gradient_echoes(np.full(7, 0.5), directions=directions).write(tmp_path / "scan.seq", old=old)
    found = kspace.trajectory(path, "adc")
    assert found.shape == (3, S, 1, 1, 1, 7)
    expected = (
        np.array([np.cos(directions) * FOV[0], np.sin(directions) * FOV[1], 0 * directions])[:, None] * (ALONG[:, None])
    )
    assert np.abs(found[:, :, 0, 0, 0] - expected).max() < ROUNDING


@BOTH
@pytest.mark.parametrize("crusher", [0.0, 400.0])
def test_refocused_lines_have_the_encoding_behind_the_pulse(tmp_path: Path, old: bool, crusher: float) -> None:
    lines = np.array([0, 100, -300, 500, -500, 200, 0.0])
    path = spin_echoes(np.full(7, 2.5), crusher=crusher, lines=lines).write(tmp_path / "scan.seq", old=old)
    found = kspace.trajectory(path, "adc")[:, :, 0, 0, 0]
    assert np.abs(found[0] - FOV[0] * ALONG[:, None]).max() < ROUNDING + 5e-6 * 2 * crusher * FOV[0]
    assert np.abs(found[1] - FOV[1] * lines).max() < 5e-6 * 500 * FOV[1]
    assert not found[2].any()


def _turned(path: Path, *, twice: bool = False, other: int = S) -> Path:
    """Write two passes of three frames, the second with spokes that are turned."""
    builder = Builder()
    spoil = pp.make_trapezoid("z", area=1000, duration=1e-3, system=SYSTEM)
    for turn in range(2):
        for frame in range(3 if not (twice and turn) else 2):
            before, readout, adc = spoke(0.3 * frame + 1.5 * turn, n_samples=other if (turn, frame) == (1, 1) else S)
            builder.add(block(0.5)).add(*before).add(*readout, adc, pp.make_label("ECO", "SET", frame))
            builder.add(*before, spoil)
    return builder.write(path)


def test_the_command_writes_what_traj_file_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, name = _turned(tmp_path / "scan.seq"), str(tmp_path / "traj")
    assert main(["trajectory", str(path), "-o", name, "--frame", "ECO"]) == 0
    assert "64 samples, 2 readouts in each of 3 frames" in capsys.readouterr().out
    heads = []
    for row, _ in (pairs := [(0, 2), (1, 0), (1, 1)]):
        head = ismrmrd.AcquisitionHeader()
        head.number_of_samples = S
        head.idx.kspace_encode_step_1 = row
        heads.append(head)
    found = TrajFile(name, n_frames=3).of(heads, np.array([frame for _, frame in pairs]), S)
    for positions, (row, frame) in zip(found, pairs, strict=True):
        angle = 0.3 * frame + 1.5 * row
        expected = ALONG[:, None] * [np.cos(angle) * FOV[0], np.sin(angle) * FOV[1], 0]
        # and single precision of at most 32 cycles
        assert np.abs(positions - expected).max() < ROUNDING + 32 * 6e-8
    assert main(["trajectory", str(path), "-o", name]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["trajectory", str(path), "-o", name, "--force"]) == 0
    assert "1 readouts in each of 6 frames" in capsys.readouterr().out


def test_what_is_no_trajectory_is_refused(tmp_path: Path) -> None:
    path = gradient_echoes(np.full(3, 0.5)).write(tmp_path / "none.seq", fov=None)
    with pytest.raises(UserError, match="no definition FOV"):
        kspace.trajectory(path, "adc")
    path = gradient_echoes(np.full(3, 0.5)).write(tmp_path / "mm.seq")
    path.write_text(path.read_text(encoding="utf-8").replace("FOV 0.256 0.2 0.005", "FOV 256 200 5"), encoding="utf-8")
    with pytest.raises(UserError, match=r"FOV is .*, expected three lengths in m"):
        kspace.trajectory(path, "adc")
    with pytest.raises(UserError, match=r"frames have 1, 2 readouts"):
        kspace.trajectory(_turned(tmp_path / "uneven.seq", twice=True), "ECO")
    with pytest.raises(UserError, match=r"block 19: an ADC of 32 samples, that of block 3 has 64"):
        kspace.trajectory(_turned(tmp_path / "short.seq", other=32), "ECO")


def test_a_spiral_from_the_centre_is_read_at_its_start(tmp_path: Path) -> None:
    wait, n = 5e-3, 500
    raster = wait / n
    s = np.linspace(0, 1, 2 * n + 1)
    s = 3 * s**2 - 2 * s**3  # at rest at both ends
    k = 100 * s * np.exp(20j * s)
    wave: Any = np.diff(k[::2]) / raster
    knots, values = np.r_[0, (np.arange(n) + 0.5) * raster, wait], np.r_[0, wave, 0]
    builder = Builder().add(block(0.5))
    spiral = [
        pp.make_arbitrary_grad(a, part, first=0, last=0, system=SYSTEM)
        for a, part in (("x", wave.real), ("y", wave.imag))
    ]
    builder.add(*spiral, pp.make_adc(100, duration=wait, system=SYSTEM))
    path = builder.write(tmp_path / "scan.seq")
    found = kspace.trajectory(path, "adc")[:, :, 0, 0, 0, 0]
    # gradients are straight lines between the samples of a shape, on whose integral trapezoids are exact
    moments = np.r_[0, np.cumsum(np.diff(knots) * (values[1:] + values[:-1]) / 2)]
    for at, (x, y) in enumerate(found[:2].T):
        t = (at + 0.5) * wait / 100
        i = np.searchsorted(knots, t) - 1
        expected = moments[i] + (t - knots[i]) * (values[i] + np.interp(t, knots, values)) / 2
        # shapes have nine digits, their amplitudes six
        assert abs(x / FOV[0] + 1j * y / FOV[1] - expected) < 1e-5 * 100
    echo = Train(Scan.read(path), "adc").echoes[0]
    assert echo.time == echo.readout.times[0]
