"""What the data of a scan go through before they are reconstructed.

In this order: prewhitening, virtual coils, phases of the shots, gradient delays of the trajectory, shift of the field
of view.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import coils
from .compression import compression_matrix
from .delays import corrected, estimate_delays, named
from .drift import estimate_phases, readout_phases
from .errors import UserError
from .progress import Report
from .readouts import Group, Scan
from .trajectory import recentred

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FovShift = Literal["off", "header"]
GradientDelays = Literal["off", "estimate"]
PhaseDrift = Literal["off", "steps", "linear"]

# sums of squares of so small and so large samples are still numbers in single precision
_RANGE = (1e-12, 1e12)
_CHUNK = 1 << 22  # samples that are mixed at a time


def whitening(scan: Scan, bandwidth: float) -> NDArray[Any] | None:
    """Return the matrix (C, C) after which sigma = 1 per real component; None without a noise scan.

    Parameters
    ----------
    scan : Scan
        Noise scan, and dwell times of both.
    bandwidth : float
        Share of the noise scan's band that the receiver passes.
    """
    if scan.noise is None:
        logger.warning("raw data have no noise scan: taken as prewhitened, the noise level is unknown")
        return None
    whiten = coils.whitening_matrix(scan.noise)
    if scan.noise_dwell > 0 and scan.dwell > 0:
        # noise power goes with the bandwidth, the inverse of the sampling interval; a receiver that passes a
        # part of the band of the noise scan (0.793 is common) makes its noise look smaller than that of the data
        whiten = whiten * np.sqrt(scan.dwell / scan.noise_dwell * bandwidth)
    return whiten


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


def calibrated(
    group: Group,
    phi: NDArray[Any],
    *,
    virtual: float | None,
    phase_drift: PhaseDrift,
    gradient_delays: GradientDelays,
    fov_shift: FovShift,
    report: Report,
) -> tuple[Group, dict[str, Any]]:
    """Return the group with its trajectory mended, its data centred and in virtual coils, and what was found.

    Parameters
    ----------
    group : Group
        Whitened data, trajectory and geometry.
    phi : array (T, K)
        Basis.
    virtual : float, optional
        Virtual coils to keep, see `compression`; None: all coils as they are.
    phase_drift : {"off", "steps", "linear"}
        Find the phases of the shots and take them out of the data, see `drift`.
    gradient_delays : {"off", "estimate"}
        Find the gradient delays of radial readouts and correct the trajectory, see `delays`.
    fov_shift : {"off", "header"}
        header: the data are centred on the isocentre, move them to where the header has the image.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        The data are too small or too large for single precision, or a step finds nothing to calibrate with.
    """
    largest = max(float(np.abs(coil).max()) for coil in group.ksp)
    if not _RANGE[0] <= largest <= _RANGE[1]:
        raise UserError(
            f"raw data reach {largest:.3g} after prewhitening, expected {_RANGE[0]:g} to {_RANGE[1]:g}, as single "
            "precision demands: look for a wrong sample, or scale data and noise scan"
        )
    found: dict[str, Any] = {}
    offset = group.offset if fov_shift == "header" else np.zeros(len(group.shape))
    if virtual is not None:
        matrix, lost = compression_matrix(group.ksp, group.traj, coils=virtual, shape=group.shape)
        logger.info(
            "image %s: %d virtual coils of %d, %.2g %% of the energy lost", group.key, *matrix.shape, 100 * lost
        )
        group = replace(group, ksp=mixed(group.ksp, matrix))
        found |= {"coils": len(matrix), "energy_lost": lost}
    if phase_drift != "off":
        report("phase drift", 0, 0)
        phases = estimate_phases(
            group.ksp, group.traj, frame=group.frame, time=group.time, phi=phi, shape=group.shape, kind=phase_drift,
            offset=offset,
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
            group.ksp, group.traj, frame=group.frame, phi=phi, shape=group.shape, fov=group.fov, offset=offset
        )
        found["gradient_delays"] = named(tensor)
        told = ", ".join(f"{name} {value:.3f}" for name, value in named(tensor).items())
        logger.info("image %s: gradient delays in samples: %s", group.key, told)
        group = replace(group, traj=corrected(group.traj, tensor, fov=group.fov))
    if offset.any():
        # along the true trajectory
        group = replace(group, ksp=recentred(group.ksp, group.traj, offset))
        found["fov_shift"] = offset.tolist()
    return group, found
