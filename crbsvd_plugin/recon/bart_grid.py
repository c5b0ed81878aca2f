"""The files of ``bart pics`` for Cartesian k-space, X Y Z COIL 1 T 1.

Found with BART 0.8.00 by comparison with a dense solution: it needs no padding, and its pattern is w itself, which
is applied once to the data and once in the normal operator. To bring the centre c = n//2 to index 0, both images and
k-space are multiplied by D_j = exp(2 pi i (j - c/2) c/n), where k-space needs the conjugate: they differ for odd n,
and by a sign for odd n/2. So k-space is given to it times conj(D)^2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import bart
from ..cartesian import CartesianOperator
from .bart_files import BASIS, KSP, PATTERN, SENS, check_finite, columns


def check(operator: CartesianOperator, ksp: NDArray[Any]) -> None:
    """Refuse k-space of another shape, or that is not finite; all else was checked when the operator was made."""
    if ksp.shape != operator.ksp_shape:
        raise ValueError(f"ksp has the shape {ksp.shape}, expected {operator.ksp_shape}")
    if ksp.size == 0:
        raise ValueError(f"ksp has the shape {ksp.shape}: there are no data")
    check_finite(ksp, operator.weights)


def export(operator: CartesianOperator, ksp: NDArray[Any], folder: Path) -> None:
    """Write everything that `pics_command` names for a grid, frame by frame."""
    bart.write_cfl(folder / SENS, columns(operator.sens))
    bart.write_cfl(folder / BASIS, operator.phi[None, None, None, None, None])
    axes, (n_coils, n_frames) = (*operator.shape[::-1], 1)[:3], ksp.shape[:2]
    phase = _centring(operator.shape)
    samples = (np.where(weights > 0, ksp[:, t], 0) * phase for t, weights in enumerate(operator.weights))
    bart.write_cfl_blocks(folder / KSP, (*axes, n_coils, 1, n_frames), samples)
    bart.write_cfl_blocks(folder / PATTERN, (*axes, 1, 1, n_frames), operator.weights)


def _centring(shape: tuple[int, ...]) -> NDArray[Any]:
    """Return conj(D)^2 on a grid: what BART multiplies k-space by, and what it should have."""
    phase: NDArray[Any] = np.ones((), complex)
    for n in shape:
        centre = n // 2
        turns = (np.arange(n) - centre / 2) * (centre / n)
        phase = np.multiply.outer(phase, np.exp(-4j * np.pi * turns))
    return phase
