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
from .progress import Report
from .readouts import Group, Scan
from .trajectory import recentred

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FovShift = Literal["off", "header"]
GradientDelays = Literal["off", "estimate"]
PhaseDrift = Literal["off", "steps", "linear"]


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


def mixed(ksp: NDArray[Any], matrix: NDArray[Any] | None) -> NDArray[Any]:
    """Return k-space (N, R, S) whose coils are combinations (N, C) of those given (C, R, S); None: as they are."""
    if matrix is None:
        return ksp
    flat = matrix.astype(np.complex64) @ ksp.reshape(len(ksp), -1)
    return flat.reshape(len(matrix), *ksp.shape[1:])


def calibrated(
    group: Group,
    ksp: NDArray[Any],
    phi: NDArray[Any],
    *,
    virtual: float | None,
    phase_drift: PhaseDrift,
    gradient_delays: GradientDelays,
    fov_shift: FovShift,
    report: Report,
) -> tuple[Group, NDArray[Any], dict[str, Any]]:
    """Return the group with its trajectory mended, its data centred and in virtual coils, and what was found.

    Parameters
    ----------
    group : Group
        Trajectory and geometry.
    ksp : complex array (C, R, S)
        Its whitened data.
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
    """
    found: dict[str, Any] = {}
    offset = group.offset if fov_shift == "header" else np.zeros(len(group.shape))
    if virtual is not None:
        matrix, lost = compression_matrix(ksp, group.traj, coils=virtual, shape=group.shape)
        logger.info(
            "image %s: %d virtual coils of %d, %.2g %% of the energy lost", group.key, *matrix.shape, 100 * lost
        )
        ksp = mixed(ksp, matrix)
        found |= {"coils": len(matrix), "energy_lost": lost}
    if phase_drift != "off":
        report("phase drift", 0, 0)
        phases = estimate_phases(
            ksp, group.traj, frame=group.frame, time=group.time, phi=phi, shape=group.shape, kind=phase_drift,
            offset=offset,
        )  # fmt: skip
        found["phase_drift"] = {"kind": phase_drift, "rad": phases.tolist()}
        logger.info(
            "image %s: phases of %d shots relative to the first: %.1f to %.1f deg", group.key, len(phases),
            *np.rad2deg([phases.min(), phases.max()]),
        )  # fmt: skip
        turns = np.exp(-1j * readout_phases(phases, frame=group.frame, time=group.time, kind=phase_drift))
        ksp = ksp * turns[:, None].astype(ksp.dtype)
    if gradient_delays == "estimate":
        report("gradient delays", 0, 0)
        tensor = estimate_delays(
            ksp, group.traj, frame=group.frame, phi=phi, shape=group.shape, fov=group.fov, offset=offset
        )
        found["gradient_delays"] = named(tensor)
        told = ", ".join(f"{name} {value:.3f}" for name, value in named(tensor).items())
        logger.info("image %s: gradient delays in samples: %s", group.key, told)
        group = replace(group, traj=corrected(group.traj, tensor, fov=group.fov))
    if offset.any():
        # along the true trajectory
        ksp = recentred(ksp, group.traj, offset)
        found["fov_shift"] = offset.tolist()
    return group, ksp, found
