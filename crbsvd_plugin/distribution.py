"""How the values of one parameter are distributed: grid, uniform, log-uniform, normal, reciprocal of normal.

Each distribution has a `quantile`, the inverse of its cumulative distribution: points that are even on [0, 1],
as those of `even_points`, become values that are distributed so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Spacing = Literal["linear", "log"]

_GOLDEN = (5**0.5 - 1) / 2
# Multiples of their square roots fill the unit interval; this choice and order, found by search, fills the squares of
# every two dimensions best: for the first eight the discrepancy is a third of that of the first eight primes
_PRIMES = (3, 149, 103, 5, 107, 37, 89, 67, 17, 59, 151, 83, 41, 29, 53, 13)
_LEAST_PROBABILITY = 1e-12

IRRATIONAL = 101**0.5
"""Its multiples modulo 1 are even over every part of `even_points` too: no equation with integers relates it to their
steps, and of thirty such numbers it comes least near to one for 100 to 10,000 points."""


@dataclass(frozen=True)
class Grid:
    """A half-open grid: n values from `low`, `high` not included.

    Parameters
    ----------
    low, high : float
        Range, in the unit of the parameter.
    n : int
        Number of values; 1 gives `low` alone: a fixed value.
    spacing : {"linear", "log"}
        Equal differences or equal ratios.

    Raises
    ------
    UserError
        No values, or a range that is empty, infinite or, for equal ratios, not positive.
    """

    low: float
    high: float
    n: int
    spacing: Spacing = "linear"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"grid has n = {self.n}, expected at least 1")
        if self.n > 1:  # the upper limit of a fixed value means nothing
            _check_range("grid", self.low, self.high, self.spacing)
        elif not np.isfinite(self.low):
            raise UserError(f"fixed value is {self.low}, expected a finite number")

    def shifted(self) -> Grid:
        """Return the grid 0.618 steps further up; one of a single value as it is.

        That share, the golden ratio, is irrational: no grid of the same range has one of the points.
        """
        if self.n == 1:
            return self
        if self.spacing == "log":
            ratio = (self.high / self.low) ** (_GOLDEN / self.n)
            return replace(self, low=self.low * ratio, high=self.high * ratio)
        step = (self.high - self.low) * (_GOLDEN / self.n)
        return replace(self, low=self.low + step, high=self.high + step)

    @property
    def values(self) -> NDArray[np.float64]:
        """The n values, increasing."""
        steps = np.arange(self.n) / self.n
        if self.spacing == "log":
            return np.asarray(self.low * (self.high / self.low) ** steps)
        return self.low + (self.high - self.low) * steps

    def quantile(self, u: ArrayLike) -> NDArray[np.float64]:
        """Return value number floor(u n) for u in [0, 1], of any shape."""
        number = np.floor(np.asarray(u, dtype=np.float64) * self.n).astype(np.int64)
        return self.values[np.minimum(number, self.n - 1)]

    @property
    def spec(self) -> dict[str, Any]:
        """The distribution as plain values, ready for JSON."""
        return {"kind": "grid", "low": self.low, "high": self.high, "n": self.n, "spacing": self.spacing}


@dataclass(frozen=True)
class Uniform:
    """A uniform distribution, of the values or of their logarithms.

    Parameters
    ----------
    low, high : float
        Range, in the unit of the parameter.
    spacing : {"linear", "log"}
        What is uniform: the value or its logarithm.

    Raises
    ------
    UserError
        The range is empty, infinite or, for logarithms, not positive.
    """

    low: float
    high: float
    spacing: Spacing = "linear"

    def __post_init__(self) -> None:
        _check_range("uniform distribution", self.low, self.high, self.spacing)

    def quantile(self, u: ArrayLike) -> NDArray[np.float64]:
        """Return the values at u in [0, 1], of any shape; never outside of [low, high]."""
        u = np.asarray(u, dtype=np.float64)
        if self.spacing == "log":
            values = self.low * (self.high / self.low) ** u
        else:
            values = self.low + (self.high - self.low) * u
        return np.clip(values, self.low, self.high)

    @property
    def spec(self) -> dict[str, Any]:
        """The distribution as plain values, ready for JSON."""
        return {"kind": "log-uniform" if self.spacing == "log" else "uniform", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Normal:
    """A normal distribution, truncated where it has limits.

    Parameters
    ----------
    mean, sd : float
        Mean and standard deviation before it is truncated, in the unit of the parameter.
    low, high : float
        Range, in the same unit; infinite where there is no limit.

    Raises
    ------
    UserError
        The mean or the deviation is not finite, the deviation not positive, the range empty, or all but outside of
        the distribution (it holds less than 1e-12 of it).
    """

    mean: float
    sd: float
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        name = f"normal distribution of mean {self.mean:g} and standard deviation {self.sd:g}"
        if not (np.isfinite(self.mean) and 0 < self.sd < np.inf):
            raise UserError(f"{name}, expected a finite mean and a finite, positive deviation")
        if not (self.low < self.high and self.low < np.inf and self.high > -np.inf):
            raise UserError(f"{name} from {self.low:g} to {self.high:g}, expected the lower limit first")
        if np.isfinite(self.low) or np.isfinite(self.high):
            (p_low, p_high), (q_low, q_high) = self._tails()
            if max(p_high - p_low, q_low - q_high) < _LEAST_PROBABILITY:
                raise UserError(
                    f"{name} has next to nothing from {self.low:g} to {self.high:g}; "
                    "widen the range, move the mean, or take a uniform distribution"
                )

    def _tails(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the probabilities below, and above, both limits: each is accurate where it is small."""
        from scipy.special import ndtr

        limits = (np.array([self.low, self.high]) - self.mean) / self.sd
        return ndtr(limits), ndtr(-limits)

    def quantile(self, u: ArrayLike) -> NDArray[np.float64]:
        """Return the values at u in (0, 1), of any shape; never outside of [low, high].

        Above the mean it is the mirrored distribution that is inverted, so that the upper tail is as accurate
        as the lower one.
        """
        from scipy.special import ndtri

        u = np.asarray(u, dtype=np.float64)
        (p_low, p_high), (q_low, q_high) = self._tails()
        p = p_low + u * (p_high - p_low)
        q = q_high + (1 - u) * (q_low - q_high)
        z = np.where(p <= 0.5, ndtri(p), -ndtri(q))
        return np.clip(self.mean + self.sd * z, self.low, self.high)

    @property
    def spec(self) -> dict[str, Any]:
        """The distribution as plain values, ready for JSON; None where there is no limit."""
        low, high = (limit if np.isfinite(limit) else None for limit in (self.low, self.high))
        return {"kind": "normal", "mean": self.mean, "sd": self.sd, "low": low, "high": high}


@dataclass(frozen=True)
class Reciprocal:
    """The distribution of a rate whose time has a normal distribution.

    Parameters
    ----------
    of : Normal
        Distribution of the reciprocal, all of it above 0.

    Raises
    ------
    UserError
        The reciprocal may be zero or negative.
    """

    of: Normal

    def __post_init__(self) -> None:
        if not self.of.low > 0:
            raise UserError(f"reciprocal of a normal distribution from {self.of.low:g}, expected low above 0")

    def quantile(self, u: ArrayLike) -> NDArray[np.float64]:
        """Return the values at u in (0, 1), of any shape; they grow with u."""
        return 1 / self.of.quantile(1 - np.asarray(u, dtype=np.float64))

    @property
    def spec(self) -> dict[str, Any]:
        """The distribution as plain values, ready for JSON; mean, deviation and limits are those of the reciprocal."""
        return {**self.of.spec, "kind": "reciprocal-normal"}


Distribution = Grid | Uniform | Normal | Reciprocal


def fixed(value: float) -> Grid:
    """Return the distribution of a single value."""
    return Grid(value, value, 1)


def even_points(n: int, n_dimensions: int, *, start: float = 0.0) -> NDArray[np.float64]:
    """Return n points (n, D) that fill the unit cube evenly: u_ij = start + i sqrt(prime_j) modulo 1, i = 1 .. n.

    A Kronecker sequence: the same on every machine, with every library, and the first m of n points are the m points.
    Taking every q-th of its points gives another one, for any q. That is why it is not Halton's sequence
    (scipy.stats.qmc), which is a little more even: there the points i, i + q, .. share digits, so that the strided
    batches of a fold would each see a part of the range only.

    Parameters
    ----------
    n : int
        Number of points.
    n_dimensions : int
        D, at most 16.
    start : float
        Another start gives other points.

    Returns
    -------
    float64 array (n, D)
        In (0, 1), the ends not included.

    Raises
    ------
    UserError
        There are more than 16 dimensions.
    """
    if n_dimensions > len(_PRIMES):
        raise UserError(f"{n_dimensions} parameters vary, expected at most {len(_PRIMES)}; fix some of them")
    steps = np.sqrt(_PRIMES[:n_dimensions])
    points = (start + np.arange(1, n + 1)[:, None] * steps) % 1
    return np.clip(points, 2.0**-53, 1 - 2.0**-53)


def even_phases(theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each of the atoms (B, P): those below any threshold are even over all ranges.

    On a product of grids, whole or in part, and where one parameter varies alone, it is sum_j k_j sqrt(prime_j)
    modulo 1, with the position k_j of the atom's value among those of parameter j: even along every parameter,
    whatever the sizes of the grids. (A function of the atom's number would come into step with the period of some
    of them.) Where one of several parameters has no value twice, as in draws, it is i sqrt(101) modulo 1 for atom i.
    """
    ranks = [np.unique(column, return_inverse=True) for column in theta.T]
    varied = [rank for values, rank in ranks if len(values) > 1]
    if len(varied) > 1 and any(len(values) == len(theta) for values, _ in ranks):
        return np.asarray(np.arange(1, len(theta) + 1) * IRRATIONAL % 1)
    phases = np.zeros(len(theta))
    for rank, step in zip(varied, even_points(1, len(varied))[0], strict=True):
        phases += rank * step
    return np.asarray(phases % 1)


def _check_range(kind: str, low: float, high: float, spacing: str) -> None:
    """Refuse a range that is empty or infinite, a logarithmic one that is not positive, and an unknown spacing."""
    if spacing not in ("linear", "log"):
        raise UserError(f"{kind} has spacing {spacing!r}, expected 'linear' or 'log'")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UserError(f"{kind} from {low:g} to {high:g}, expected finite limits, the lower one first")
    if spacing == "log" and low <= 0:
        raise UserError(f"{kind} from {low:g} to {high:g} with logarithmic spacing, expected positive limits")
    # as Python's own numbers, which overflow without a warning
    if not np.isfinite(float(high) / float(low) if spacing == "log" else float(high) - float(low)):
        raise UserError(f"{kind} from {low:g} to {high:g}, expected limits that are less far apart")
