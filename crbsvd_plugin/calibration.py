"""What the data of an image go through before they are reconstructed.

In this order: prewhitening, virtual coils, phases of the shots, gradient delays of the trajectory, shift of the field
of view. `intake` does it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .compression import compression_matrix, matrix_of
from .delays import corrected, estimate_delays, named
from .drift import estimate_phases, readout_phases
from .errors import UserError
from .progress import Report
from .readouts import Group

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FovShift = Literal["off", "header"]
GradientDelays = Literal["off", "estimate"]
PhaseDrift = Literal["off", "steps", "linear"]

_RANGE = (1e-12, 1e12)
"""Sums of squares of so small and so large samples are still numbers in single precision."""
_CHUNK = 1 << 22  # samples that are mixed at a time


def mixed(ksp: NDArray[Any], matrix: NDArray[Any], *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return k-space (N, R, S) whose coils are combinations (N, C) of those given (C, R, S).

    `out` may be k-space itself, if N = C: some readouts are mixed at a time.
    """
    out = np.empty((len(matrix), *ksp.shape[1:]), ksp.dtype) if out is None else out
    step = max(1, _CHUNK // max(1, ksp[:, :1].size))
    with np.errstate(over="ignore", invalid="ignore"):  # too large a number is refused where all are looked at
        for start in range(0, ksp.shape[1], step):
            part = ksp[:, start : start + step]
            values = matrix.astype(ksp.dtype) @ part.reshape(len(part), -1)
            out[:, start : start + step] = values.reshape(len(matrix), *part.shape[1:])
    return out


def check_range(largest: float, *, whole: bool = True) -> None:
    """Refuse prewhitened data whose largest modulus single precision cannot work with.

    Parameters
    ----------
    largest : float
        The largest modulus.
    whole : bool
        These are all readouts; of some, only too large a number is wrong for certain.

    Raises
    ------
    UserError
        It is too large or too small.
    """
    if largest <= _RANGE[1] and (largest >= _RANGE[0] or not whole):
        return
    raise UserError(
        f"raw data reach {largest:.3g} after prewhitening, expected {_RANGE[0]:g} to {_RANGE[1]:g}, as single "
        "precision demands: look for a wrong sample, or scale data and noise scan"
    )


def virtual_coils(group: Group, coils: float) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return the matrix (N, C) to virtual coils, from whitened readouts, and what is to be told of it.

    Calibration readouts decide if there are any, else these.

    Raises
    ------
    UserError
        As for `compression.compression_matrix`.
    """
    if group.calibration is not None:
        matrix, lost = matrix_of(group.calibration, coils=coils)
    else:
        matrix, lost = compression_matrix(group.ksp, group.traj, coils=coils, shape=group.shape, weights=group.weights)
    logger.info(
        "image %s: %d virtual coils of %d, %.2g %% of the energy of %s lost", group.key, *matrix.shape, 100 * lost,
        "its first readouts" if group.calibration is None else "the calibration readouts",
    )  # fmt: skip
    return matrix, {"coils": len(matrix), "energy_lost": lost}


def mended(
    group: Group,
    phi: NDArray[Any],
    *,
    phase_drift: PhaseDrift,
    gradient_delays: GradientDelays,
    offset: NDArray[Any],
    report: Report,
) -> tuple[Group, dict[str, Any]]:
    """Return all readouts of an image with the phases of the shots taken out and the trajectory mended.

    And what was found, by name.

    Parameters
    ----------
    group : Group
        Whitened data in virtual coils, trajectory and geometry.
    phi : array (T, K)
        Basis.
    phase_drift : {"off", "steps", "linear"}
        Find the phases of the shots and take them out of the data, see `drift`.
    gradient_delays : {"off", "estimate"}
        Find the gradient delays of radial readouts and correct the trajectory, see `delays`.
    offset : array (ndim,)
        Where the centre of the image lies in these data, see `trajectory.recentred`.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        A step finds nothing to calibrate with.
    """
    found: dict[str, Any] = {}
    if phase_drift != "off":
        report("phase drift", 0, 0)
        phases = estimate_phases(
            group.ksp, group.traj, frame=group.frame, time=group.time, phi=phi, shape=group.shape, kind=phase_drift,
            offset=offset, weights=group.weights,
        )  # fmt: skip
        found["phase_drift"] = {"kind": phase_drift, "rad": phases.tolist()}
        logger.info(
            "image %s: phases of %d shots relative to the first: %.1f to %.1f deg", group.key, len(phases),
            *np.rad2deg([phases.min(), phases.max()]),
        )  # fmt: skip
        turns = np.exp(-1j * readout_phases(phases, frame=group.frame, time=group.time, kind=phase_drift))
        group = replace(group, ksp=group.ksp * turns[:, None].astype(group.ksp.dtype))
    if gradient_delays == "estimate":
        report("gradient delays", 0, 0)
        tensor = estimate_delays(
            group.ksp, group.traj, frame=group.frame, phi=phi, shape=group.shape, fov=group.fov, offset=offset,
            weights=group.weights,
        )  # fmt: skip
        found["gradient_delays"] = named(tensor)
        told = ", ".join(f"{name} {value:.3f}" for name, value in named(tensor).items())
        logger.info("image %s: gradient delays in samples: %s", group.key, told)
        group = replace(group, traj=corrected(group.traj, tensor, fov=group.fov))
    return group, found
