"""From MRD acquisitions to arrays: the readouts of one image, all or those that have come by now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .geometry import Geometry, array_shape
from .lines import is_cartesian, line_positions
from .memory import available
from .stack import BLOCK_BYTES, Stack
from .trajectory import check_reach, converted, reach_of, within

if TYPE_CHECKING:
    from ismrmrd import Acquisition, AcquisitionHeader
    from ismrmrd.xsd import ismrmrdHeader
    from numpy.typing import NDArray

# Flags of MRD (1-based bit numbers) of readouts that are not part of the image: calibration only,
# navigation, phase correction, feedback, dummies, surface coil correction, phase stabilisation
NOISE_FLAG = 19
_OTHER_FLAGS = (20, 23, 24, 26, 27, 28, 29, 30, 31)


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
        0 for samples beyond the edge of k-space, 1 for the others; None: there are no such samples.
    dwell : float
        Sampling interval [us]; 0 if not known.
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
    """Return the readouts of all groups in a list, one after the other; the list is empty afterwards."""
    if len(groups) == 1:
        return groups.pop()
    first, lengths = groups[0], [len(group.frame) for group in groups]
    edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    whole = Group(
        first.key,
        np.empty((len(first.ksp), edges[-1], first.ksp.shape[2]), first.ksp.dtype),
        np.empty((edges[-1], *first.traj.shape[1:]), first.traj.dtype),
        np.concatenate([group.frame for group in groups]),
        np.concatenate([group.number for group in groups]),
        np.concatenate([group.stamp for group in groups]),
        first.geometry,
        None
        if all(group.weights is None for group in groups)
        else np.ones((edges[-1], first.ksp.shape[2]), np.float32),
        first.dwell,
    )
    del first
    for start, stop in pairwise(edges):
        group = groups.pop(0)  # one goes after the other
        whole.ksp[:, start:stop], whole.traj[start:stop] = group.ksp, group.traj
        if whole.weights is not None and group.weights is not None:
            whole.weights[start:stop] = group.weights
    return whole


class Waiting:
    """The readouts of one image that have come, and are not yet arrays.

    Parameters
    ----------
    header : ismrmrdHeader
        MRD header.
    key : dict of str to int
        Values of the group counters.
    counter : str
        The one that is the frame.
    traj_units : str
        Unit of the trajectories, see `trajectory`.
    geometry : Geometry
        Where the image lies.

    Attributes
    ----------
    n_readouts : int
        How many have come at all.
    """

    def __init__(
        self, header: ismrmrdHeader, key: dict[str, int], *, counter: str, traj_units: str, geometry: Geometry
    ):
        self.key, self.geometry = key, geometry
        self.n_readouts = 0
        self._header, self._counter, self._units = header, counter, traj_units
        self._heads: list[AcquisitionHeader] = []
        self._ksp, self._traj = Stack(np.complex64), Stack(np.float32)
        self._reach: NDArray[np.float64] | None = None

    def append(self, item: Acquisition) -> None:
        """Copy a readout.

        Raises
        ------
        UserError
            It does not fit into memory.
        """
        kept = slice(item.discard_pre, item.number_of_samples - item.discard_post)
        self._heads.append(item.getHead())
        self.n_readouts += 1
        grown = self._ksp.append(item.data[:, kept])
        if item.traj.size:
            self._traj.append(item.traj[kept])
        left = available() if grown else None
        if left is not None and left < 2 * BLOCK_BYTES:
            raise UserError(
                f"readout {item.scan_counter} does not fit into memory any more, {left / 2**20:.0f} MiB are left; "
                "reconstruct fewer slices or repetitions at a time, or take a larger machine"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the samples that wait."""
        return self._ksp.nbytes

    @property
    def empty(self) -> bool:
        """Nothing waits."""
        return not self._heads

    def last(self) -> list[Group]:
        """Return the last readouts, if there are any, of an image of which nothing else will come.

        Raises
        ------
        UserError
            As for `cut`, or the trajectory cannot be in the unit it was said to be in.
        """
        box = [] if self.empty else [self.cut()]
        if self._reach is not None:
            shape = array_shape(self.geometry.shape)
            check_reach(self._reach, units=self._units, shape=shape, fov=fov_of(self.geometry))
        return box

    def cut(self) -> Group:
        """Return the readouts that wait, and let them go.

        Raises
        ------
        UserError
            A trajectory is missing, readouts differ in coils or length, or samples are not finite.
        """
        heads, self._heads = self._heads, []
        without = [head.scan_counter for head in heads if head.trajectory_dimensions == 0]
        cartesian = is_cartesian(self._header, heads[0].encoding_space_ref) and len(without) == len(heads)
        if without and not cartesian:
            raise UserError(
                f"readout {without[0]} has no trajectory (and {len(without)} of {len(heads)} readouts): "
                "write the sample positions into the raw file"
            )
        shapes = sorted(self._ksp.shapes)
        if len(shapes) > 1:
            raise UserError(f"readouts of one image have {shapes} coils and samples, expected the same for all")
        if min(shapes[0]) < 1:
            raise UserError(f"readouts have {shapes[0]} coils and samples without those to discard, expected some")
        ksp = self._ksp.pop(axis=1)
        _check_finite(ksp, first=self.n_readouts - len(heads))
        columns = (self._counter, "scan_counter", "acquisition_time_stamp")
        frame, number, stamp = (
            np.array([getattr(head.idx if name == self._counter else head, name) for head in heads]) for name in columns
        )
        group = Group(
            self.key, ksp, np.zeros(0), frame.astype(np.intp), number.astype(np.int64), stamp.astype(np.int64),
            self.geometry,
        )  # fmt: skip
        if cartesian:
            positions = line_positions(self._header, heads, shape=group.shape, fov=group.fov)
        else:
            positions = self._positions(group)
        inside = within(positions, group.shape)
        weights = None if inside.all() else inside.astype(np.float32)
        return replace(group, traj=positions, weights=weights, dwell=float(heads[0].sample_time_us))

    def _positions(self, group: Group) -> NDArray[np.float64]:
        """Return the trajectories of readouts that have one, in the order of X."""
        axes = sorted({shape[1] for shape in self._traj.shapes})
        if len(axes) > 1:
            raise UserError(f"trajectories of one image have {axes} dimensions, expected the same for all")
        traj, n_dims = self._traj.pop(axis=0), len(group.shape)
        if traj.shape[2] < n_dims or np.any(traj[..., n_dims:]):
            raise UserError(
                f"trajectory has {traj.shape[2]} dimensions, the image {n_dims} (matrix {group.geometry.shape}): "
                "expected as many, further ones being zero"
            )
        positions = converted(traj[..., n_dims - 1 :: -1], units=self._units, shape=group.shape, fov=group.fov)
        reach = reach_of(positions)
        self._reach = reach if self._reach is None else np.maximum(reach, self._reach)
        check_reach(self._reach, units=self._units, shape=group.shape, fov=group.fov, whole=False)
        return positions


def is_imaging(item: Acquisition) -> bool:
    """Return whether a readout is part of an image; noise scans, navigators, dummies and the like are not."""
    return not any(item.is_flag_set(flag) for flag in (NOISE_FLAG, *_OTHER_FLAGS))


def _check_finite(ksp: NDArray[Any], *, first: int) -> None:
    """Refuse samples that are not finite; `first` is the number of the first readout in its image."""
    if not all(np.isfinite(coil).all() for coil in ksp):
        finite = np.isfinite(ksp)
        # in the order of the readouts
        readout, coil, sample = np.argwhere(~finite.swapaxes(0, 1))[0]
        raise UserError(
            f"raw data hold {finite.size - np.count_nonzero(finite)} non-finite samples, the first in "
            f"readout {first + readout}, coil {coil}, sample {sample}: leave those readouts out"
        )
