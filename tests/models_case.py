"""What the tests of all signal models need: BART's simulators and small settings of every built-in model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crbsvd_plugin.bart import cfl, program

Array = NDArray[Any]

SMALL: dict[str, list[str]] = {
    "mrf-fisp": ["flip_angles=[0.2, 0.6, 0.9, 0.7, 0.4, 0.1, 0.3, 0.8]"],
    "qmt-hsfp": [
        "alpha=[3.14, 0.5, 1.0, 0.7, 0.3, 0.9, 0.2, 1.2]",
        "TRF=[5e-4, 2e-4, 3e-4, 2e-4, 2e-4, 3e-4, 2e-4, 4e-4]",
    ],
    "fse": ["flip_angles=[2.6, 1.8, 1.4, 1.2, 1.2, 1.3, 1.6, 1.9]"],
    "mese": ["n_echoes=12"],
    "mgre": ["echo_times=[0.001, 0.0022, 0.0031, 0.005, 0.0062, 0.008, 0.011, 0.013]"],
    "bssfp-mrf": ["flip_angles=[0.2, 0.6, 0.9, 0.7, 0.4, 0.1, 0.3, 0.8, 1.0, 0.5, 0.4, 0.2]"],
    "ir-flash": ["n_frames=14", "pulses_per_frame=3", "tr=0.05", "recovery=0.4", "inversion_efficiency=0.9"],
}  # fmt: skip
"""Settings that make a model quick; all have so many frames that nothing is unknown for want of them."""


def bart(folder: Path, *arguments: object, outputs: int = 1) -> list[Array]:
    """Run a simulator of BART and return what it writes, without dimensions of one."""
    names = [f"out{i}" for i in range(outputs)]
    program.run([*map(str, arguments), *names], folder=folder, threads=1)
    return [np.squeeze(cfl.read_cfl(folder / name)) for name in names]
