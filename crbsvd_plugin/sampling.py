r"""Where and when a scan samples k-space, and the same scan of a smaller image.

How noise is amplified, and what leaks, is decided by which rows phi(t_j) of the basis meet in one cell of k-space, a
cycle per field of view wide: by the number of samples for each unknown, by how their density varies from the centre to
the edge, and by the frames that they are of. A smaller image, of m instead of n voxels along its longest side, keeps
the three where

- it is covered to the edge as the large one is: of the samples at k those stay whose cell, floor(k), holds positions
  k' m / n of the large scan. So a disc stays a disc, and a quarter that is left out stays left out;
- it has as many samples for each voxel. Of Cartesian lines, equally dense everywhere, what is cut has that already.
  Of spokes what is cut has n / m times too many (in a koosh ball (n / m)^2 times), because density falls from the
  centre as 1 / k: of R readouts only R m / n stay. Then there are, between k m / n and (k + dk) m / n of the small
  image, as many samples for each of its cells as between k and k + dk in the large one, at every k;
- these are taken evenly in the order of frames, and within a frame in the order of time: where a frame has several
  readouts each frame keeps its share, and else every other one, or every tenth, is left out.

What it cannot keep is finer than a cell: the innermost cell, where all readouts meet, is as many times larger.

Conjugate gradients that stop early are part of it. After j iterations they have resolved eigenvalues of the normal
operator down to about lambda_max / j^2, and lambda_max goes with the number of samples in the fullest cell, which of
spokes is all readouts, n / m times fewer. The sparse edge of k-space has the same eigenvalues in both images, so it is
resolved likewise after j' = j sqrt(lambda_max' / lambda_max) iterations: of spokes j sqrt(m / n), of lines j.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDING = 1e-6
"""Of a cell: positions in single precision lie on its edge."""
SMALLEST = 8
"""Fewest voxels along the longest side."""


@dataclass(frozen=True)
class Sampling:
    """A scan without its data.

    Parameters
    ----------
    traj : array (R, S, ndim)
        Positions in cycles per field of view, in the order of X.
    frame : int array (R,)
        Frame of every readout.
    weights : array (R, S)
        Of the samples; 0: missing.
    shape : tuple of int
        Image size X.
    n_coils : int
        Coils.
    """

    traj: NDArray[np.float64]
    frame: NDArray[np.intp]
    weights: NDArray[np.float32]
    shape: tuple[int, ...]
    n_coils: int

    @property
    def n_samples(self) -> int:
        """Samples of a coil that are there."""
        return int(np.count_nonzero(self.weights))

    @property
    def per_voxel(self) -> float:
        """Samples of a coil for each voxel."""
        return float(self.n_samples / np.prod(self.shape))

    @property
    def densest(self) -> int:
        """Samples of a coil in the fullest cell, a cycle wide, about a frequency of the image."""
        index = self._nearest()
        return int(np.bincount(np.ravel_multi_index(tuple(index.T), self.shape)).max(initial=0))

    def covered(self) -> NDArray[np.bool_]:
        """Return which frequencies (*X) of the image, zero at n//2, have a sample within half a cycle."""
        there = np.zeros(self.shape, bool)
        there[tuple(self._nearest().T)] = True
        return there

    def iterations(self, whole: Sampling, iterations: int) -> int:
        """Return after how many iterations the edge of k-space is resolved as in `whole` after `iterations`."""
        return max(1, round(iterations * np.sqrt(self.densest / whole.densest)))

    def _nearest(self) -> NDArray[np.intp]:
        """Return the indices (N, ndim) of the frequencies, zero at n//2, that samples are nearest to."""
        index = np.floor(self.traj[self.weights > 0] + 0.5 + _ROUNDING).astype(np.intp) + np.array(self.shape) // 2
        return np.asarray(index[_within(index, self.shape)])

    def reduced(self, matrix: int) -> Sampling:
        """Return the scan of an image of `matrix` voxels along its longest side; see above.

        Raises
        ------
        UserError
            The number is out of range, or no sample lies in the middle of k-space.
        """
        longest = max(self.shape)
        if not min(SMALLEST, longest) <= matrix <= longest:
            raise UserError(
                f"--matrix is {matrix}, expected {min(SMALLEST, longest)} to {longest}, the matrix of the scan"
            )
        if matrix == longest:
            return self
        shape = tuple(max(1, round(n * matrix / longest)) for n in self.shape)
        ratio = np.array(shape) / np.array(self.shape)
        cells = np.zeros(shape, bool)
        index = _cells(self.traj[self.weights > 0] * ratio, shape)
        cells[tuple(index[_within(index, shape)].T)] = True
        index = _cells(self.traj, shape)
        kept = (self.weights > 0) & _within(index, shape)
        kept[kept] = cells[tuple(index[kept].T)]
        rows = np.flatnonzero(kept.any(axis=1))
        if not len(rows):
            size = " x ".join(map(str, shape))
            raise UserError(f"no sample lies in the middle of k-space ({size}), expected some; take a larger --matrix")
        share = min(1.0, self.per_voxel * np.prod(shape) / np.count_nonzero(kept))
        rows = rows[np.argsort(self.frame[rows], kind="stable")]
        n_rows = max(1, round(len(rows) * share))
        # the middle of each of so many equal parts
        rows = np.sort(rows[((2 * np.arange(n_rows) + 1) * len(rows)) // (2 * n_rows)])
        columns = np.flatnonzero(kept[rows].any(axis=0))
        part = slice(columns[0], columns[-1] + 1)
        weights = np.where(kept, self.weights, 0)[rows, part].astype(np.float32)
        return Sampling(self.traj[rows, part], self.frame[rows], weights, shape, self.n_coils)


def _cells(traj: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the cells of positions, between -n/2 and n/2 those from 0 to n - 1."""
    return np.floor(traj + np.array(shape) / 2 + _ROUNDING).astype(np.intp)


def _within(index: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(((index >= 0) & (index < np.array(shape))).all(axis=-1))
