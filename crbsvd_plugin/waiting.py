"""The readouts of one image that have come, on their way from MRD acquisitions to arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .geometry import Geometry
from .memory import available
from .mrd_header import kept
from .positions import Positions, Source, untold
from .readouts import Group, joined
from .stack import BLOCK_BYTES, Stack
from .trajectory import within

if TYPE_CHECKING:
    from ismrmrd import Acquisition, AcquisitionHeader
    from numpy.typing import NDArray


class Waiting:
    """The readouts of one image that have come, and are not yet arrays.

    Parameters
    ----------
    source : Source
        Where positions come from.
    key : dict of str to int
        Values of the group counters.
    counter : str
        The one that is the frame.
    geometry : Geometry
        Where the image lies.

    Attributes
    ----------
    n_readouts : int
        How many have come at all.
    calibration : array (C, C) or None
        What to give with readouts that are cut from now on, see `readouts.Group`.

    Notes
    -----
    Samples that a readout lacks, being shorter than others or a part of its pieces, have weight 0. Where the readouts
    lie on straight lines their positions go on, see `readouts.bridged`.
    """

    def __init__(self, source: Source, key: dict[str, int], *, counter: str, geometry: Geometry):
        self.key, self.geometry = key, geometry
        self.n_readouts = 0
        self.calibration: NDArray[np.complex128] | None = None
        self._counter = counter
        self._heads: list[AcquisitionHeader] = []
        self._ksp, self._traj = Stack(np.complex64), Stack(np.float32)
        self._n_samples = 0  # of the longest one
        self._present: dict[int, NDArray[np.bool_]] = {}  # samples of readouts that lack some, by their place
        self._shorter: list[Group] = []  # those that came before the first longer one
        self._lengths: Counter[int] = Counter()
        self._positions = Positions(source, geometry)

    def append(self, item: Acquisition, present: NDArray[np.bool_] | None = None) -> None:
        """Copy a readout, of whose samples (S,) some may not be present.

        Raises
        ------
        UserError
            It does not fit into memory.
        """
        some = kept(item)
        data, traj = item.data[:, some], item.traj[some]
        n_samples = data.shape[1]
        if n_samples > self._n_samples and self._heads:
            self._shorter.append(self._arrays())
            self._ksp, self._traj = Stack(np.complex64), Stack(np.float32)
        self._n_samples = max(n_samples, self._n_samples)
        there = np.zeros(self._n_samples, bool)
        there[:n_samples] = True if present is None else present[some]
        self._lengths[int(np.count_nonzero(there))] += 1
        if not there.all():
            self._present[len(self._heads)] = there
            more = self._n_samples - n_samples
            data, traj = np.pad(data, ((0, 0), (0, more))), np.pad(traj, ((0, more), (0, 0)))
        self._heads.append(item.getHead())
        self.n_readouts += 1
        grown = self._ksp.append(data)
        if traj.size and not self._positions.from_file:
            self._traj.append(traj)
        left = available() if grown else None
        if left is not None and left < 2 * BLOCK_BYTES:
            raise UserError(
                f"readout {item.scan_counter} does not fit into memory any more, {left / 2**20:.0f} MiB are left; "
                "reconstruct fewer slices or repetitions at a time, or take a larger machine"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the samples that wait."""
        return self._ksp.nbytes + sum(group.ksp.nbytes for group in self._shorter)

    @property
    def n_partial(self) -> int:
        """How many readouts have fewer samples than others."""
        return self.n_readouts - self._lengths[max(self._lengths, default=0)]

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
        if self.n_readouts:
            self._positions.close()
        return box

    def cut(self) -> Group:
        """Return the readouts that wait, and let them go.

        Raises
        ------
        UserError
            A trajectory is missing, readouts differ in coils, or samples are not finite.
        """
        self._shorter.append(self._arrays())
        return joined(self._shorter)

    def _arrays(self) -> Group:
        """Return what `cut` does, of readouts that are all as long."""
        heads, self._heads = self._heads, []
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
        positions = self._positions.find(
            heads, self._trajectories(heads), frame=group.frame, n_samples=ksp.shape[2], present=self._present
        )
        inside = within(positions, group.shape)
        for place, present in self._present.items():
            inside[place] &= present
        self._present.clear()
        weights = None if inside.all() else inside.astype(np.float32)
        return replace(
            group, traj=positions, weights=weights, dwell=float(heads[0].sample_time_us), calibration=self.calibration
        )

    def _trajectories(self, heads: list[AcquisitionHeader]) -> NDArray[np.float32] | None:
        """Return the trajectories of readouts, if they have some."""
        without = [head.scan_counter for head in heads if head.trajectory_dimensions == 0]
        axes = sorted({shape[1] for shape in self._traj.shapes})
        given = self._traj.pop(axis=0) if axes else None
        if given is None:
            return None
        if without:
            raise untold(without, len(heads))
        if len(axes) > 1:
            raise UserError(f"trajectories of one image have {axes} dimensions, expected the same for all")
        return given


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
