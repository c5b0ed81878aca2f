"""A trajectory in a file of BART's: of scans whose readouts carry none, or a better one than they carry.

Dimensions are those of BART's trajectories, 3 x samples x readouts x 1 x 1 x frames: x, y, z of sample s of the readout
with the counter `kspace_encode_step_1` in a frame, in the order of acquisition. One readout, or one frame, stands for
all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import bart
from .errors import UserError

if TYPE_CHECKING:
    from ismrmrd import AcquisitionHeader
    from numpy.typing import NDArray

SUFFIXES = (".cfl", ".hdr")


class TrajFile:
    """A trajectory, which is mapped and not read.

    Parameters
    ----------
    name : path
        Name of the file without suffix.
    n_frames : int
        Number of frames T of the basis.

    Raises
    ------
    UserError
        The file is missing or damaged, its dimensions are no trajectory's, or it has another number of frames.
    """

    def __init__(self, name: str | Path, *, n_frames: int):
        self._name = str(name)
        array = bart.read_cfl(name, mapped=True)
        dims = array.shape + (1,) * (6 - array.ndim)
        if dims[0] != 3 or dims[3:5] != (1, 1) or any(n != 1 for n in dims[6:]):
            listed = " ".join(map(str, dims))
            raise UserError(
                f"{name} has the dimensions {listed}, expected those of a trajectory: 3 samples readouts 1 1 "
                "frames; make it again"
            )
        if dims[5] not in (1, n_frames):
            raise UserError(f"{name} has {dims[5]} frames, the basis {n_frames}: name the trajectory of this sequence")
        self._array = array.reshape((3, dims[1], dims[2], dims[5]), order="F")

    def of(self, heads: list[AcquisitionHeader], frame: NDArray[np.intp], n_samples: int) -> NDArray[np.float64]:
        """Return the positions (R, S, 3) of the samples that readouts keep, in the order x, y, z of MRD.

        Parameters
        ----------
        heads : list of AcquisitionHeader
            The readouts.
        frame : int array (R,)
            Their frames.
        n_samples : int
            Samples S that the longest of them keeps; of others, the last position comes again.

        Raises
        ------
        UserError
            The file has no such readout, other numbers of samples, or values that are no positions.
        """
        _, n_given, n_rows, n_frames = self._array.shape
        other = [head for head in heads if head.number_of_samples != n_given]
        if other:
            raise UserError(
                f"readout {other[0].scan_counter} has {other[0].number_of_samples} samples, {self._name} has {n_given} "
                "for each: name the trajectory of this scan"
            )
        row = np.array([head.idx.kspace_encode_step_1 for head in heads]) if n_rows > 1 else np.zeros(len(heads), int)
        if row.max() >= n_rows:
            raise UserError(
                f"readout {heads[int(row.argmax())].scan_counter} has kspace_encode_step_1 = {row.max()}, {self._name} "
                f"has {n_rows} readouts: name the trajectory of this scan"
            )
        found = self._read(row, frame if n_frames > 1 else np.zeros(len(heads), int))
        first = np.array([head.discard_pre for head in heads])
        sample = np.minimum(first[:, None] + np.arange(n_samples), n_given - 1)
        return np.take_along_axis(found, sample[..., None], axis=1)

    def whole(self, n_frames: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Return all positions (R, S, 3), x, y, z, frame by frame, and the frames (R,), of T = `n_frames`.

        Raises
        ------
        UserError
            There are values that are no positions.
        """
        rows = self._array.shape[2]
        frame, row = (axis.ravel() for axis in np.indices((n_frames, rows)))
        return self._read(row, frame if self._array.shape[3] > 1 else np.zeros(len(row), int)), frame

    def _read(self, row: NDArray[np.intp], frame: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the positions (R, S, 3) of readouts."""
        found = np.asarray(self._array[:, :, row, frame])
        if not np.isfinite(found).all() or found.imag.any():
            raise UserError(
                f"{self._name} holds values that are no finite real numbers, expected positions; make it again"
            )
        return np.asarray(found.real.astype(np.float64).transpose(2, 1, 0))
