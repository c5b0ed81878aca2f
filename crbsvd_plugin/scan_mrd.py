"""The MRD header and acquisitions of a simulated scan, as a scanner would have written them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .mrd_header import radial_header

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

    from .scan import Scan

_NOISE_READOUTS = 32
_SAMPLE_TIME_US = 5.0
_TICK = 2.5e-3


def acquisitions(scan: Scan, covariance: NDArray[np.complex128], seed: int) -> Iterator[Acquisition]:
    """Yield the noise scan, if there is noise, and all readouts.

    Parameters
    ----------
    scan : Scan
        The readouts.
    covariance : array (C, C)
        Of the noise per real component; zero: none, and no noise scan.
    seed : int
        Of the noise.
    """
    from ismrmrd import Acquisition, constants

    rng = np.random.default_rng(seed)
    noisy = bool(covariance.any())
    mixing = (np.linalg.cholesky(covariance) if noisy else covariance).astype(np.complex64)
    n_coils, n_readouts, n_samples = scan.ksp.shape
    times, geometry = scan.start_times, scan.phantom.geometry
    place = {name: getattr(geometry, name) for name in ("position", "read_dir", "phase_dir", "slice_dir")}
    common = {"center_sample": n_samples // 2, "sample_time_us": _SAMPLE_TIME_US, "measurement_uid": 1} | place

    def noise() -> NDArray[np.complex64]:
        white = rng.standard_normal((2, n_coils, n_samples), dtype=np.float32)
        return mixing @ (white[0] + 1j * white[1])

    n_noise = _NOISE_READOUTS if noisy else 0
    for number in range(n_noise):
        readout = Acquisition.from_array(noise(), scan_counter=number, **common)
        readout.set_flag(constants.ACQ_IS_NOISE_MEASUREMENT)
        yield readout
    # MRD has (x, y, z), and single precision
    traj = scan.traj[:, :, ::-1].astype(np.float32)
    for number in range(n_readouts):
        samples = scan.ksp[:, number] + noise() if noisy else scan.ksp[:, number]
        positions = (traj[number],) if scan.line is None else ()
        readout = Acquisition.from_array(samples, *positions, scan_counter=n_noise + number, **common)
        readout.idx.kspace_encode_step_1 = number if scan.line is None else int(scan.line[number])
        readout.idx.contrast, readout.idx.repetition = int(scan.frame[number]), int(scan.shot[number])
        readout.acquisition_time_stamp = int(times[number] / _TICK)
        for flag in _flags(number, scan):
            readout.set_flag(flag)
        yield readout


def _flags(number: int, scan: Scan) -> list[int]:
    from ismrmrd import constants

    last, frame = number == len(scan.frame) - 1, scan.frame[number]
    told = {
        constants.ACQ_FIRST_IN_SLICE: number == 0,
        constants.ACQ_FIRST_IN_REPETITION: frame == 0,
        constants.ACQ_LAST_IN_REPETITION: frame == scan.n_frames - 1,
        constants.ACQ_LAST_IN_SLICE: last,
        constants.ACQ_LAST_IN_MEASUREMENT: last,
    }
    return [flag for flag, true in told.items() if true]


def header(scan: Scan) -> ismrmrdHeader:
    """Return the MRD header of a scan."""
    from ismrmrd import xsd

    sequence = {mrd_name: (1e3 * scan.timing(mrd_name.lower())).tolist() for mrd_name in ("TR", "TE", "TI")}
    angles = scan.timing("flip_angles") if "flip_angles" in scan.spec else scan.timing("alpha")
    sequence["flipAngle_deg"] = np.rad2deg(angles).ravel().tolist()
    counts = {"n_frames": scan.n_frames, "n_shots": int(scan.shot.max()) + 1}
    made = radial_header(scan.phantom.geometry, scan.ksp.shape, **counts, sequence=sequence)
    if scan.line is not None:
        n_lines = scan.phantom.geometry.shape[1]
        made.encoding[0].trajectory = xsd.trajectoryType.CARTESIAN
        made.encoding[0].encodingLimits.kspace_encoding_step_1 = xsd.limitType(
            minimum=0, maximum=n_lines - 1, center=n_lines // 2
        )
    return made
