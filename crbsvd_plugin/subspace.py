"""The few dimensions that the signals of one sequence live in, found while they stream by.

Fingerprints of T frames, and their derivatives, fill only a few hundred dimensions to any accuracy
that matters. Everything the fold keeps is kept in such a subspace U (T, r), which grows when what
falls outside of it exceeds a tolerance.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Parts = Sequence[NDArray[np.float64]]

Key = TypeVar("Key", bound=Hashable)

TOLERANCE = 1e-18
"""Share of a block's energy that may fall outside of the subspace."""
MOST = 2048
"""Columns of a subspace, from which on it is cut to the leading half, unless that is three quarters of all."""

_N_PROBES = 32
_MARGIN = 10.0
_FIRST = 64
_COMPLETED = 0.75
# of what falls outside, a hundredth of the tolerance is looked at: that must be well above T eps^2
_ROUNDING = 1e4
# energies below it have lost digits of their squares to the end of the range
_SMALLEST = 1e-280


class Subspace:
    r"""Orthonormal real columns U (T, r) that hold nearly all energy of the rows shown to it.

    Parameters
    ----------
    n_frames : int
        Number of frames T.
    tolerance : float
        Share of the energy of each block of each batch that may fall outside, below 1, and not below
        what rounding leaves there, 1e4 T eps^2 (5e-28 T); 0 keeps all T dimensions, from the first batch on.
    most : int
        Columns from which on it is `full`.

    Attributes
    ----------
    floor : float
        0, or of a subspace that was cut: the share of all energy in the strongest direction that was dropped.

    Raises
    ------
    UserError
        The tolerance is out of range.

    Notes
    -----
    The energy outside is measured with 32 random directions g of the complement of U: each gives
    an unbiased estimate, E |g^T e|^2 = ||e||^2, at the price of one more column of U. The subspace
    grows until the estimate is a tenth of the tolerance. For the true share to exceed the
    tolerance then, chi^2 with 32 degrees of freedom would have to be below a tenth of its mean:
    a probability of 2e-11 per block and batch at worst, when all residuals share one direction.
    Explicit residuals would double the cost of a fold.

    Growth is the adaptive randomised range finder (Halko, Martinsson, Tropp,
    doi:10.1137/090771806, algorithm 4.2), with the residual norms computed explicitly. Columns
    are ordered by their size in the batch that brought them, and stay. Once more than three
    quarters of all dimensions are needed, U is completed, and nothing falls outside any more.

    Where that many are too many, whoever knows what all rows are worth cuts a full subspace to its leading columns
    (`cut`). From then on it no longer grows until the tolerance is met, but by directions outside that are worth more
    than the strongest one that was dropped.
    """

    def __init__(self, n_frames: int, *, tolerance: float = TOLERANCE, most: int = MOST):
        least = _ROUNDING * n_frames * float(np.finfo(float).eps) ** 2
        if tolerance != 0 and not least <= tolerance < 1:
            raise UserError(
                f"tolerance is {tolerance:g}, expected a share of the energy from {least:.1g} (rounding) to 1, or 0"
            )
        self.n_frames = n_frames
        self.tolerance = tolerance
        self.most = most
        self.floor = 0.0
        self._limit = most if tolerance > 0 and most < _COMPLETED * n_frames else n_frames
        self._size = 0
        # the columns of U, then the probes: one product gives coefficients and estimate
        self._frame = _probes(np.empty((n_frames, 0)))

    @property
    def columns(self) -> NDArray[np.float64]:
        """The orthonormal columns (T, r)."""
        return self._frame[:, : self._size]

    @property
    def dimension(self) -> int:
        """Number of columns r."""
        return self._size

    @property
    def full(self) -> bool:
        """Whether it has so many columns that it should be `cut`."""
        return self._size > self._limit

    @property
    def leading(self) -> int:
        """How many columns a full subspace should keep."""
        return self._limit // 2

    def cut(self, vectors: NDArray[np.float64], floor: float) -> None:
        """Keep orthonormal combinations (r, fewer) of the columns; directions outside count from `floor` on."""
        self._frame, self._size = _probes(self.columns @ vectors), vectors.shape[1]
        self.floor = max(floor, self.floor)

    def project(
        self, blocks: Mapping[Key, Parts], *, weight: float = 1.0, known: Mapping[Key, float] | None = None
    ) -> tuple[dict[Key, Parts], dict[Key, float], dict[Key, float]]:
        """Return the coefficients of blocks of rows, after growing to hold them.

        Parameters
        ----------
        blocks : mapping of key to sequence of real arrays (N, T)
            Each block has a tolerance of its own, relative to its own energy: its parts are
            e.g. the real and imaginary part of signals.
        weight : float
            How much these rows count.
        known : mapping of key to float, optional
            The energy, by weight, of the rows of a block that were shown before. All blocks are worth the same, as long
            as the subspace was never cut nothing depends on that.

        Returns
        -------
        coeff : dict of key to list of arrays (N, r)
            Rows times U, of the subspace as it is on return.
        energy, tail : dict of key to float
            The energy of each block, and the estimate of what falls outside of the subspace.

        Raises
        ------
        ValueError
            A block is not finite, or too large to be squared.
        """
        energy = {key: sum(float(np.vdot(part, part)) for part in parts) for key, parts in blocks.items()}
        for key, size in energy.items():
            if not np.isfinite(size) or 0 < size < _SMALLEST:
                raise ValueError(f"block {key!r} is not finite, or its energy exceeds the range of double precision")
        whole = {key: (known or {}).get(key, 0.0) + weight * size for key, size in energy.items()}
        worth = {key: weight / size if size else 0.0 for key, size in whole.items()}
        final = False
        while True:
            products = {key: [part @ self._frame for part in parts] for key, parts in blocks.items()}
            tail = {key: self._tail(parts) for key, parts in products.items()}
            coeff: dict[Key, Parts] = {key: [p[:, : self._size] for p in parts] for key, parts in products.items()}
            missing = [key for key in blocks if tail[key] * _MARGIN > self.tolerance * energy[key]]
            few = sum(tail[key] * worth[key] for key in missing) <= self.floor
            if final or few:
                break
            residuals = []
            for key in missing:
                pairs = zip(blocks[key], coeff[key], strict=True)
                rows = np.concatenate([part - inside @ self.columns.T for part, inside in pairs])
                residuals.append(rows * (worth[key] if self.floor else 1 / energy[key]) ** 0.5)
            if not self.floor:
                self._grow(residuals)
            elif self._add_strong(np.concatenate(residuals)):
                final = True
            else:
                break
        return coeff, energy, tail

    @property
    def frame(self) -> NDArray[np.float64]:
        """The columns and the probes: with dimension and floor, all that `restored` needs."""
        return self._frame

    @classmethod
    def restored(
        cls, frame: NDArray[np.float64], dimension: int, floor: float = 0.0, *, tolerance: float, most: int = MOST
    ) -> Subspace:
        """Return the subspace that had this frame, dimension and floor."""
        subspace = cls(len(frame), tolerance=tolerance, most=most)
        subspace._frame, subspace._size, subspace.floor = frame, dimension, floor
        return subspace

    def _tail(self, products: Parts) -> float:
        n_probes = self._frame.shape[1] - self._size
        if n_probes == 0:
            return 0.0
        return sum(float(np.sum(part[:, self._size :] ** 2)) for part in products) / n_probes

    def _grow(self, residuals: Sequence[NDArray[np.float64]]) -> None:
        """Append the leading directions of blocks of residuals, each of them scaled to its block's energy."""
        target = self.tolerance / _MARGIN**2
        rows = np.concatenate(residuals)
        edges = np.cumsum([0, *(len(block) for block in residuals)])
        found, coeffs = np.empty((self.n_frames, 0)), []
        while True:
            known = np.concatenate([self.columns, found], axis=1)
            n_left = self.n_frames - known.shape[1]
            n_new = n_left if self.tolerance == 0 else min(max(_FIRST, self._size // 8, found.shape[1]), n_left)
            new = _complement(known) if n_new == n_left else _range(rows, known, n_new)
            coeffs.append(rows @ new)
            rows -= coeffs[-1] @ new.T
            found = np.concatenate([found, new], axis=1)
            outside = _energies(rows, edges).sum(axis=1)
            if n_new == n_left or (outside <= target).all():
                break
        coeff = np.concatenate(coeffs, axis=1)
        vh = np.linalg.svd(np.linalg.qr(coeff, mode="r"))[2]
        # energy of every block in the columns from the k-th on
        inside = np.cumsum(_energies(coeff @ vh.T, edges)[:, ::-1], axis=1)[:, ::-1]
        # at least one: whatever rounding leaves to the probes, growth comes to an end
        needed = max(1, int(np.count_nonzero((inside + outside[:, None] > target).any(axis=0))))
        columns = np.concatenate([self.columns, found @ vh[:needed].T], axis=1)
        if self.tolerance == 0 or (self._limit == self.n_frames and columns.shape[1] > _COMPLETED * self.n_frames):
            self._frame = np.concatenate([columns, _complement(columns)], axis=1)
            self._size = self.n_frames
        else:
            self._frame, self._size = _probes(columns), columns.shape[1]

    def _add_strong(self, rows: NDArray[np.float64]) -> bool:
        """Append the directions of residuals, scaled to what they are worth, that are worth more than the floor.

        Return whether there are any.
        """
        size, most = _FIRST, min(len(rows), self.n_frames - self._size)
        while True:
            new = _range(rows, self.columns, min(size, most))
            _, values, vh = np.linalg.svd(rows @ new, full_matrices=False)
            strong = int(np.count_nonzero(values**2 > self.floor))
            if strong < new.shape[1] or new.shape[1] == most:
                break
            size *= 2
        if not strong:
            return False
        columns = np.concatenate([self.columns, new @ vh[:strong].T], axis=1)
        self._frame, self._size = _probes(columns), columns.shape[1]
        return True


def _range(rows: NDArray[np.float64], known: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return orthonormal columns (T, size), orthogonal to those known, that hold most energy of the rows."""
    random = np.random.default_rng([known.shape[1], size]).standard_normal((size, len(rows)))
    columns = (random @ rows).T
    for _ in range(2 if known.size else 1):
        columns = np.linalg.qr(columns - known @ (known.T @ columns))[0]
    return columns


def _energies(rows: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the energy of every block of rows in every column, (blocks, columns)."""
    return np.array([np.sum(rows[a:b] ** 2, axis=0) for a, b in itertools.pairwise(edges)])


def _complement(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return orthonormal columns of all that orthonormal ones leave."""
    return np.linalg.qr(columns, mode="complete")[0][:, columns.shape[1] :]


def _probes(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return columns followed by random directions of their complement."""
    probes = np.random.default_rng(columns.shape).standard_normal((len(columns), _N_PROBES))
    for _ in range(2):
        probes = probes - columns @ (columns.T @ probes)
    return np.concatenate([columns, probes], axis=1)
