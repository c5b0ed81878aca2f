"""MRD headers and readouts made in memory, for tests of what reads a stream."""

from __future__ import annotations

from typing import Any

import ismrmrd
import numpy as np
from ismrmrd import xsd

from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.mrd_header import radial_header
from crbsvd_plugin.trajectory import radial

SEQUENCE: dict[str, Any] = {"TR": [10.0], "TE": [5.0], "TI": [], "flipAngle_deg": [30.0]}


def header(shape: tuple[int, int, int], n_frames: int, **limits: int) -> xsd.ismrmrdHeader:
    """Return a header for an image of (x, y, z) voxels; `limits` are highest values of counters."""
    made = radial_header(Geometry(shape, (2.0, 2.0, 5.0)), (2, 10, 12), n_frames=n_frames, n_shots=1, sequence=SEQUENCE)
    for name, highest in limits.items():
        setattr(made.encoding[0].encodingLimits, name, xsd.limitType(minimum=0, maximum=highest, center=0))
    return made


def readout(data: np.ndarray, traj: np.ndarray | None = None, *, flag: int | None = None, **fields: Any) -> Any:
    """Return a readout of data (C, S); `fields` are counters or fields of its head."""
    samples = np.asarray(data, np.complex64)
    made = (
        ismrmrd.Acquisition.from_array(samples)
        if traj is None
        else ismrmrd.Acquisition.from_array(samples, np.asarray(traj, np.float32))
    )
    made.read_dir[:], made.phase_dir[:], made.slice_dir[:] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    for name, value in fields.items():
        if hasattr(made.idx, name):
            setattr(made.idx, name, value)
        elif name == "position":
            made.position[:] = value
        else:
            setattr(made, name, value)
    if flag is not None:
        made.set_flag(flag)
    return made


def spokes(
    rng: np.random.Generator, n_frames: int, matrix: int, *, n_coils: int = 2, n_shots: int = 1, **fields: Any
) -> list[Any]:
    """Return radial readouts of noise, a shot after the other; the trajectory in the order x, y of MRD."""
    found = []
    traj = radial(n_shots * n_frames, matrix)
    for number, positions in enumerate(traj):
        data = rng.standard_normal((n_coils, len(positions))) + 1j * rng.standard_normal((n_coils, len(positions)))
        shot, frame = divmod(number, n_frames)
        counters = {"contrast": frame, "repetition": shot, "scan_counter": number, "sample_time_us": 5.0, **fields}
        found.append(readout(data, positions[:, ::-1], **counters))
    return found
