"""From a stream of MRD acquisitions to lists of readouts, one per group."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .geometry import Geometry, array_shape
from .lines import is_cartesian, line_positions
from .memory import available
from .mrd_header import geometry_of, limits
from .roles import COUNTERS, Roles
from .stack import BLOCK_BYTES, Stack
from .trajectory import to_cycles_per_fov, within

if TYPE_CHECKING:
    from ismrmrd import Acquisition, AcquisitionHeader
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# Flags of MRD (1-based bit numbers) of readouts that are not part of the image: calibration only,
# navigation, phase correction, feedback, dummies, surface coil correction, phase stabilisation
_NOISE_FLAG = 19
_OTHER_FLAGS = (20, 23, 24, 26, 27, 28, 29, 30, 31)


@dataclass(frozen=True)
class Group:
    """The readouts of one problem.

    Parameters
    ----------
    key : dict of str to int
        Values of the group counters.
    ksp : complex64 array (C, R, S)
        Samples.
    traj : float64 array (R, S, ndim)
        Positions in cycles per field of view, in the order of X.
    frame : int array (R,)
        Frame of every readout.
    time : float64 array (R,)
        When it was recorded, in any unit; no two at the same time.
    geometry : Geometry
        Where the image lies.
    weights : array (R, S) or None
        0 for samples beyond the edge of k-space, 1 for the others; None: there are no such samples.
    """

    key: dict[str, int]
    ksp: NDArray[np.complex64]
    traj: NDArray[np.float64]
    frame: NDArray[np.intp]
    time: NDArray[np.float64]
    geometry: Geometry
    weights: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Image size X: (y, x), or (z, y, x) for a volume."""
        return array_shape(self.geometry.shape)

    @property
    def fov(self) -> tuple[float, ...]:
        """Field of view along X [mm]."""
        size = self.geometry.voxel_size[len(self.shape) - 1 :: -1]
        return tuple(n * length for n, length in zip(self.shape, size, strict=True))

    @property
    def offset(self) -> NDArray[np.float64]:
        """From the isocentre to the centre of the image along X, in fields of view."""
        geometry = self.geometry
        along = (np.array(geometry.position) @ geometry.directions)[len(self.shape) - 1 :: -1]
        return np.asarray(along / self.fov)


@dataclass
class Scan:
    """Everything that a stream held.

    Parameters
    ----------
    noise : complex array (C, n) or None
        Samples of the noise scans.
    noise_dwell : float
        Their sampling interval [us]; 0 if not known.
    dwell : float
        Sampling interval of the imaging readouts [us]; 0 if not known.
    groups : list of Group
        In increasing order of their counters.
    """

    noise: NDArray[Any] | None
    noise_dwell: float
    dwell: float
    groups: list[Group] = field(default_factory=list)


def collect(
    header: ismrmrdHeader, items: Iterable[Acquisition], *, n_frames: int, roles: Roles, traj_units: str
) -> Scan:
    """Sort the readouts of a stream into groups.

    Parameters
    ----------
    header : ismrmrdHeader
        MRD header.
    items : iterable of Acquisition
        The stream, in any order.
    n_frames : int
        Number of frames T of the basis.
    roles : Roles
        The role of every counter.
    traj_units : str
        Unit of the trajectories, see `trajectory`.

    Raises
    ------
    UserError
        There is nothing to reconstruct, frames do not fit the basis, a counter varies without a
        role, a trajectory is missing or in another unit, readouts differ in coils or length, or
        samples are not finite.
    """
    noise: list[Acquisition] = []
    imaging: dict[tuple[int, ...], _Readouts] = {}
    for item in items:
        if item.is_flag_set(_NOISE_FLAG):
            noise.append(item)
        elif is_imaging(item):
            if not item.data.size:  # at once: of a damaged table there may be billions
                raise UserError(f"readout {item.scan_counter} holds no samples; the file is damaged, write it again")
            key = tuple(getattr(item.idx, name) for name in roles.groups)
            imaging.setdefault(key, _Readouts()).append(item)
    if not imaging:
        raise UserError(
            f"raw data hold no imaging readouts ({len(noise)} noise readouts), expected some to reconstruct"
        )
    heads = [head for group in imaging.values() for head in group.heads]
    _check_frames(header, heads, roles.frame, n_frames)
    _check_roles(heads, roles)
    scan = Scan(
        _noise_samples(noise),
        float(noise[0].sample_time_us) if noise else 0.0,
        float(heads[0].sample_time_us),
    )
    for key in sorted(imaging):
        named = dict(zip(roles.groups, key, strict=True))
        scan.groups.append(_group(header, imaging.pop(key), named, roles.frame, traj_units))
    coils = {len(group.ksp) for group in scan.groups} | ({len(scan.noise)} if scan.noise is not None else set())
    if len(coils) > 1:
        raise UserError(
            f"readouts have {sorted(coils)} coils, noise scan included, expected the same number everywhere"
        )
    return scan


class _Readouts:
    """The readouts of one image, as they come."""

    def __init__(self) -> None:
        self.heads: list[AcquisitionHeader] = []
        self.ksp = Stack(np.complex64)
        self.traj = Stack(np.float32)

    def append(self, item: Acquisition) -> None:
        kept = slice(item.discard_pre, item.number_of_samples - item.discard_post)
        self.heads.append(item.getHead())
        grown = self.ksp.append(item.data[:, kept])
        if item.traj.size:
            self.traj.append(item.traj[kept])
        left = available() if grown else None
        if left is not None and left < 2 * BLOCK_BYTES:
            raise UserError(
                f"readout {item.scan_counter} does not fit into memory any more, {left / 2**20:.0f} MiB are left; "
                "reconstruct fewer slices or repetitions at a time, or take a larger machine"
            )


def is_imaging(item: Acquisition) -> bool:
    """Return whether a readout is part of an image; noise scans, navigators, dummies and the like are not."""
    return not any(item.is_flag_set(flag) for flag in (_NOISE_FLAG, *_OTHER_FLAGS))


def _noise_samples(noise: list[Acquisition]) -> NDArray[Any] | None:
    coils = sorted({len(item.data) for item in noise})
    if len(coils) > 1:
        raise UserError(f"noise readouts have {coils} coils, expected the same number in all")
    return np.concatenate([item.data for item in noise], axis=1) if noise else None


def _check_frames(header: ismrmrdHeader, readouts: list[AcquisitionHeader], counter: str, n_frames: int) -> None:
    largest = max(getattr(item.idx, counter) for item in readouts)
    # readouts say "encode" where the header says "encoding"
    told = limits(header, readouts[0].encoding_space_ref).get(counter.replace("encode", "encoding"))
    n_data = max(largest, told[1] if told is not None else 0) + 1
    if n_data > n_frames or (told is not None and n_data != n_frames):
        raise UserError(
            f"raw data have {n_data} frames (counter {counter!r}), the basis has {n_frames}: "
            "take the basis of this sequence, or name the counter of the frames (--frame)"
        )
    if n_data < n_frames:
        logger.warning("raw data have readouts of %d frames only, the basis has %d", n_data, n_frames)


def _check_roles(readouts: list[AcquisitionHeader], roles: Roles) -> None:
    for counter in COUNTERS:
        if counter not in (roles.frame, *roles.shots, *roles.groups):
            values = {getattr(item.idx, counter) for item in readouts}
            if len(values) > 1:
                raise UserError(
                    f"counter {counter!r} takes {len(values)} values in the raw data but has no role: "
                    "name it among the shots (summed) or the groups (apart)"
                )


def _group(header: ismrmrdHeader, readouts: _Readouts, key: dict[str, int], counter: str, traj_units: str) -> Group:
    heads = readouts.heads
    geometry = geometry_of(header, heads[len(heads) // 2])
    without = [head.scan_counter for head in heads if head.trajectory_dimensions == 0]
    cartesian = is_cartesian(header, heads[0].encoding_space_ref) and len(without) == len(heads)
    if without and not cartesian:
        raise UserError(
            f"readout {without[0]} has no trajectory (and {len(without)} of {len(heads)} readouts): "
            "write the sample positions into the raw file"
        )
    shapes = sorted(readouts.ksp.shapes)
    if len(shapes) > 1:
        raise UserError(f"readouts of one image have {shapes} coils and samples, expected the same for all")
    if min(shapes[0]) < 1:
        raise UserError(f"readouts have {shapes[0]} coils and samples without those to discard, expected some")
    ksp = readouts.ksp.pop(axis=1)
    _check_finite(ksp)
    frame = np.array([getattr(head.idx, counter) for head in heads], dtype=np.intp)
    group = Group(key, ksp, np.zeros(0), frame, _times(heads), geometry)
    if cartesian:
        positions = line_positions(header, heads, shape=group.shape, fov=group.fov)
    else:
        positions = _positions(readouts, group, traj_units)
    inside = within(positions, group.shape)
    return replace(group, traj=positions, weights=None if inside.all() else inside.astype(np.float32))


def _positions(readouts: _Readouts, group: Group, traj_units: str) -> NDArray[np.float64]:
    """Return the trajectories of readouts that have one, in the order of X."""
    axes = sorted({shape[1] for shape in readouts.traj.shapes})
    if len(axes) > 1:
        raise UserError(f"trajectories of one image have {axes} dimensions, expected the same for all")
    traj, n_dims = readouts.traj.pop(axis=0), len(group.shape)
    if traj.shape[2] < n_dims or np.any(traj[..., n_dims:]):
        raise UserError(
            f"trajectory has {traj.shape[2]} dimensions, the image {n_dims} (matrix {group.geometry.shape}): "
            "expected as many, further ones being zero"
        )
    return to_cycles_per_fov(traj[..., n_dims - 1 :: -1], units=traj_units, shape=group.shape, fov=group.fov)


def _times(heads: list[AcquisitionHeader]) -> NDArray[np.float64]:
    """Return the time stamps [ticks] of readouts, or their order in the scan where stamps say nothing."""
    order = np.argsort([head.scan_counter for head in heads], kind="stable")
    stamps, count = np.array([heads[i].acquisition_time_stamp for i in order], np.float64), np.arange(len(heads))
    time = np.zeros(len(heads))
    # a tick is coarse: readouts that share one keep their order within it
    time[order] = stamps + count / len(heads) if (np.diff(stamps) >= 0).all() and stamps[-1] > stamps[0] else count
    return time


def _check_finite(ksp: NDArray[Any]) -> None:
    if not all(np.isfinite(coil).all() for coil in ksp):
        finite = np.isfinite(ksp)
        # in the order of the readouts
        readout, coil, sample = np.argwhere(~finite.swapaxes(0, 1))[0]
        raise UserError(
            f"raw data hold {finite.size - np.count_nonzero(finite)} non-finite samples, the first in "
            f"readout {readout}, coil {coil}, sample {sample}: leave those readouts out"
        )
