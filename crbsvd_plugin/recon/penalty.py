r"""What is added to the misfit of the data, and its proximal map.

.. math:: \operatorname{prox}_{t R}(v) = \arg\min_x \tfrac12 \|x - v\|^2 + t R(x)

References
----------
Parikh and Boyd, Proximal algorithms, doi 10.1561/2400000003.
Coifman and Donoho, Translation-invariant de-noising, doi 10.1007/978-1-4612-2544-7_9 (all shifts).
Bauschke et al., The proximal average, doi 10.1137/070687542 (what a mean of proximal maps minimises).
Yu, Better approximation and faster algorithm using the proximal average, NeurIPS 2013 (how far that is from the mean).
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Regulariser = Literal["l2", "llr", "wavelet"]
REGULARISERS: tuple[Regulariser, ...] = ("l2", "llr", "wavelet")
Shift = Literal["none", "random", "overlap"]
SHIFTS: tuple[Shift, ...] = ("none", "random", "overlap")


class Penalty(Protocol):
    """A convex function R of coefficient images (K, *X)."""

    def value(self, coeff: NDArray[Any]) -> float:
        """Return R(coeff)."""

    def prox(self, coeff: NDArray[Any], threshold: float, iteration: int = 0) -> NDArray[Any]:
        """Return the proximal map of threshold R; `iteration` chooses the random shift."""


class Grid(Protocol):
    """A penalty that depends on where its grid (of blocks, of wavelets) begins."""

    @property
    def cycle(self) -> tuple[int, ...]:
        """Number of different shifts along each image axis."""

    def value_at(self, coeff: NDArray[Any], shift: tuple[int, ...]) -> float:
        """Return R of the grid that begins at `shift`."""

    def prox_at(self, coeff: NDArray[Any], threshold: float, shift: tuple[int, ...]) -> NDArray[Any]:
        """Return the proximal map of threshold R of the grid that begins at `shift`."""


class Quadratic:
    """R(c) = 1/2 ||c||^2, with the proximal map c / (1 + t)."""

    def value(self, coeff: NDArray[Any]) -> float:
        """Return half of the energy."""
        return 0.5 * float(np.vdot(coeff, coeff).real)

    def prox(self, coeff: NDArray[Any], threshold: float, iteration: int = 0) -> NDArray[Any]:  # noqa: ARG002 - no shift
        """Return coeff / (1 + threshold)."""
        return coeff / np.asarray(1 + threshold, coeff.real.dtype)


class Shifted:
    """A grid's penalty, with its grid in one place, in a random one, or in all of them.

    Parameters
    ----------
    grid : Grid
        Blocks or wavelets.
    shift : {"none", "random", "overlap"}
        none: R of the grid that begins at the first voxel. Else R is the mean of R_s over all shifts
        s, and the proximal map is a substitute, because that mean has none in closed form: random
        takes that of one R_s, drawn anew from `seed` in every iteration; overlap takes the mean of
        them all, which is the exact proximal map of the proximal average of the R_s. That lies below
        R by at most t L^2 / 2, where L is the Lipschitz constant of R_s.
    seed : int
        Of the random shifts.
    """

    def __init__(self, grid: Grid, shift: Shift, *, seed: int = 0):
        self.grid, self.shift, self.seed = grid, shift, seed

    def value(self, coeff: NDArray[Any]) -> float:
        """Return R; a mean over all shifts takes as many times longer."""
        shifts = self._all()
        return math.fsum(self.grid.value_at(coeff, shift) for shift in shifts) / len(shifts)

    def prox(self, coeff: NDArray[Any], threshold: float, iteration: int = 0) -> NDArray[Any]:
        """Return the proximal map; the same arguments give the same shift."""
        if self.shift == "random":
            rng = np.random.default_rng([self.seed, iteration])
            return self.grid.prox_at(coeff, threshold, tuple(rng.integers(self.grid.cycle).tolist()))
        shifts = self._all()
        total = self.grid.prox_at(coeff, threshold, shifts[0])
        for shift in shifts[1:]:
            total += self.grid.prox_at(coeff, threshold, shift)
        total /= len(shifts)
        return total

    def _all(self) -> list[tuple[int, ...]]:
        if self.shift == "none":
            return [(0,) * len(self.grid.cycle)]
        return list(itertools.product(*map(range, self.grid.cycle)))


def penalty(regulariser: Regulariser, shape: tuple[int, ...], *, block: int, shift: Shift) -> Penalty:
    """Return the penalty of that name for images of size `shape`.

    Parameters
    ----------
    regulariser : {"l2", "llr", "wavelet"}
        1/2 ||c||^2, nuclear norms of blocks, or l1 norm of wavelet coefficients.
    shape : tuple of int
        Image size X.
    block : int
        Edge of a block [voxels], at least 1; only used by llr.
    shift : {"none", "random", "overlap"}
        See `Shifted`; not used by l2.

    Raises
    ------
    UserError
        A name is unknown or the block is empty.
    """
    if shift not in SHIFTS:
        raise UserError(f"shift is {shift!r}, expected one of {', '.join(SHIFTS)}")
    if block < 1:
        raise UserError(f"block is {block}, expected at least 1")
    if regulariser == "l2":
        return Quadratic()
    if regulariser == "llr":
        from .llr import Blocks

        return Shifted(Blocks(shape, block), shift)
    if regulariser == "wavelet":
        from .wavelet import Wavelet

        return Shifted(Wavelet(shape), shift)
    raise UserError(f"regulariser is {regulariser!r}, expected one of {', '.join(REGULARISERS)}")
