"""Readouts of one image as arrays, and which readouts are part of an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .geometry import Geometry, array_shape

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from numpy.typing import NDArray

# Flags of MRD (1-based bit numbers) of readouts that are not part of the image: calibration only,
# navigation, phase correction, feedback, dummies, surface coil correction, phase stabilisation
NOISE_FLAG = 19
CALIBRATION_FLAGS = (20, 21)  # parallel calibration alone, and imaging too
_OTHER_FLAGS = (20, 23, 24, 26, 27, 28, 29, 30, 31)


VIRTUAL = 256
"""Readouts that virtual coils are found in: more than those few that an inversion leaves without signal."""


@dataclass(frozen=True)
class Group:
    """Readouts of one problem: all of them, or some.

    Parameters
    ----------
    key : dict of str to int
        Values of the group counters.
    ksp : complex64 array (C, R, S)
        Samples.
    traj : float array (R, S, ndim)
        Positions in cycles per field of view, in the order of X.
    frame : int array (R,)
        Frame of every readout.
    number, stamp : int array (R,)
        Their numbers in the scan, and time stamps [ticks]; see `time`.
    geometry : Geometry
        Where the image lies.
    weights : array (R, S) or None
        0 for samples that are missing or lie beyond the edge of k-space, 1 for the others; None: there are no such
        samples.
    dwell : float
        Sampling interval [us]; 0 if not known.
    calibration : array (C, C) or None
        What calibration readouts say of the coils, see `compression.CalibrationScans`; None: nothing, or not yet.
    """

    key: dict[str, int]
    ksp: NDArray[np.complex64]
    traj: NDArray[Any]
    frame: NDArray[np.intp]
    number: NDArray[np.int64]
    stamp: NDArray[np.int64]
    geometry: Geometry
    weights: NDArray[np.float32] | None = None
    dwell: float = 0.0
    calibration: NDArray[np.complex128] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Image size X: (y, x), or (z, y, x) for a volume."""
        return array_shape(self.geometry.shape)

    @property
    def fov(self) -> tuple[float, ...]:
        """Field of view along X [mm]."""
        return fov_of(self.geometry)

    @property
    def offset(self) -> NDArray[np.float64]:
        """From the isocentre to the centre of the image along X, in fields of view."""
        geometry = self.geometry
        along = (np.array(geometry.position) @ geometry.directions)[len(self.shape) - 1 :: -1]
        return np.asarray(along / self.fov)

    @property
    def time(self) -> NDArray[np.float64]:
        """When the readouts were recorded (R,): time stamps, or their order where stamps say nothing.

        In any unit; no two at the same time.
        """
        order, count = np.argsort(self.number, kind="stable"), np.arange(len(self.number))
        stamps = self.stamp[order].astype(np.float64)
        time = np.zeros(len(count))
        # a tick is coarse: readouts that share one keep their order within it
        told = (np.diff(stamps) >= 0).all() and stamps[-1] > stamps[0]
        time[order] = stamps + count / len(count) if told else count
        return time

    @property
    def n_samples(self) -> int:
        """Number of samples of a coil that are there."""
        return self.ksp[0].size if self.weights is None else int(np.count_nonzero(self.weights))

    @property
    def nbytes(self) -> int:
        """Bytes of samples, positions and weights."""
        return self.ksp.nbytes + self.traj.nbytes + (0 if self.weights is None else self.weights.nbytes)


def fov_of(geometry: Geometry) -> tuple[float, ...]:
    """Return the field of view along X [mm]."""
    shape = array_shape(geometry.shape)
    size = geometry.voxel_size[len(shape) - 1 :: -1]
    return tuple(n * length for n, length in zip(shape, size, strict=True))


def joined(groups: list[Group]) -> Group:
    """Return the readouts of all groups in a list, one after the other; the list is empty afterwards.

    Samples that shorter readouts lack are missing ones.
    """
    if len(groups) == 1:
        return groups.pop()
    first, lengths = groups[0], [len(group.frame) for group in groups]
    edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    n_samples = max(group.ksp.shape[2] for group in groups)
    all_there = all(group.weights is None and group.ksp.shape[2] == n_samples for group in groups)
    whole = Group(
        first.key,
        np.empty((len(first.ksp), edges[-1], n_samples), first.ksp.dtype),
        np.empty((edges[-1], n_samples, first.traj.shape[2]), first.traj.dtype),
        np.concatenate([group.frame for group in groups]),
        np.concatenate([group.number for group in groups]),
        np.concatenate([group.stamp for group in groups]),
        first.geometry,
        None if all_there else np.ones((edges[-1], n_samples), np.float32),
        first.dwell,
        next((group.calibration for group in groups[::-1] if group.calibration is not None), None),
    )
    del first
    for start, stop in pairwise(edges):
        group = _lengthened(groups.pop(0), n_samples)  # one goes after the other
        whole.ksp[:, start:stop], whole.traj[start:stop] = group.ksp, group.traj
        if whole.weights is not None and group.weights is not None:
            whole.weights[start:stop] = group.weights
    return whole


def bridged(traj: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a trajectory (S, ndim) in which samples that are missing lie on straight lines between the others.

    Before the first and after the last of them the line goes on, so that a spoke that lacks its end is still one.
    """
    there = np.flatnonzero(present)
    if len(there) in (0, len(present)):
        return np.asarray(traj, np.float64)
    samples = np.arange(len(present))
    found = np.stack([np.interp(samples, there, column) for column in np.asarray(traj, np.float64)[there].T], axis=1)
    if len(there) > 1:
        for (edge, next_to_it), outside in (
            (there[[0, 1]], samples < there[0]),
            (there[[-1, -2]], samples > there[-1]),
        ):
            step = (found[next_to_it] - found[edge]) / (next_to_it - edge)
            found[outside] = found[edge] + (samples[outside] - edge)[:, None] * step
    return found


def _lengthened(group: Group, n_samples: int) -> Group:
    """Return readouts with so many samples, of which the last ones are missing."""
    n_there = group.ksp.shape[2]
    if n_there == n_samples:
        return group
    more = ((0, 0), (0, n_samples - n_there))
    weights = np.ones((len(group.frame), n_there), np.float32) if group.weights is None else group.weights
    present = np.arange(n_samples) < n_there
    traj = np.stack([bridged(row, present) for row in np.pad(group.traj, (*more, (0, 0)))])
    return replace(
        group, ksp=np.pad(group.ksp, ((0, 0), *more)), traj=traj.astype(group.traj.dtype), weights=np.pad(weights, more)
    )


def is_imaging(item: Acquisition) -> bool:
    """Return whether a readout is part of an image; noise scans, navigators, dummies and the like are not."""
    return not any(item.is_flag_set(flag) for flag in (NOISE_FLAG, *_OTHER_FLAGS))
