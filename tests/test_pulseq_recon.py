"""From a Pulseq file to coefficient images: basis, raw data and trajectory by the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pypulseq as pp
from seq_case import SYSTEM, Builder, block, spoke

from crbsvd_plugin.cli import main
from crbsvd_plugin.images import CoefficientImages

_MATRIX, _FOV, _DWELL = 16, 0.24, 40e-6
_N_FRAMES = 60


def _scan(path: Path, directions: Any) -> Path:
    """Write a spoiled train whose spokes have 2 x 16 samples, half a cycle per field of view apart, one at 0."""
    area = 0.5 / _FOV / _DWELL * 2.56e-3
    spoil = pp.make_trapezoid("z", area=1000, duration=1e-3, system=SYSTEM)
    builder = Builder()
    for i, direction in enumerate(directions):
        before, readout, _ = spoke(direction, area=area)
        start = readout[0].rise_time + 1.28e-3 - (_MATRIX + 0.5) * _DWELL
        adc = pp.make_adc(2 * _MATRIX, dwell=_DWELL, delay=start, system=SYSTEM)
        builder.pulse_at(2e-3 + 0.01 * i, block(np.deg2rad(10 + 40 * abs(np.sin(i / 10)))))
        builder.add(*before).add(*readout, adc).add(*before, spoil)
    return builder.write(path, fov=(_FOV, _FOV, 5e-3))


def test_a_scan_is_reconstructed_with_the_trajectory_of_its_file(tmp_path: Path) -> None:
    scan, raw, basis = _scan(tmp_path / "first.seq", np.zeros(_N_FRAMES)), tmp_path / "raw.h5", str(tmp_path / "basis")
    plain = ["--set", "b1=false"]
    assert main(["basis", str(scan), "-o", basis, "--rank", "3", "--atoms", "none", *plain]) == 0
    size = ["--matrix", str(_MATRIX), "--fov", str(1e3 * _FOV), "--coils", "2", "--shots", "1"]
    assert main(["simulate", str(scan), "-o", str(raw), "--phantom", "nist-t1", *size, *plain]) == 0
    directions = np.zeros(_N_FRAMES)
    with ismrmrd.File(str(raw), mode="r") as file:
        for readout in file["dataset"].acquisitions:
            if not readout.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
                x, y = readout.traj[-1] - readout.traj[0]
                directions[readout.idx.contrast] = np.arctan2(y, x)
    # the same train, with spokes where the data are
    scan, name = _scan(tmp_path / "second.seq", directions), str(tmp_path / "traj")
    assert main(["trajectory", str(scan), "-o", name]) == 0
    recon = ["recon", str(raw), basis, "--iterations", "5"]
    assert main([*recon, "-o", str(tmp_path / "own")]) == 0
    assert main([*recon, "-o", str(tmp_path / "told"), "--traj-file", name]) == 0
    wrong = str(tmp_path / "wrong")
    assert main(["trajectory", str(tmp_path / "first.seq"), "-o", wrong]) == 0
    assert main([*recon, "-o", str(tmp_path / "off"), "--traj-file", wrong]) == 0
    own, told, off = (CoefficientImages.load(str(tmp_path / what)).coeff for what in ("own", "told", "off"))
    # prephaser and readout of six digits: 5e-6 of less than 10 cycles each, 1e-4 cycles per field of view, and 3e-4 rad
    # at the edge of the image
    assert np.abs(told - own).max() < 3e-4 * np.abs(own).max()
    # and the option is not idle
    assert np.abs(off - own).max() > 0.3 * np.abs(own).max()
