"""The box of parameters that a fit may move in, with scaled coordinates.

Coordinates u run from -1 to 1 over the range of each parameter, evenly in its logarithm where the range
spans more than a factor of four (relaxation times), else evenly in the parameter itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError, nearest
from ..model import Parameter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_WIDE = 4.0
_ROUNDING = 1e-6  # maps are float32


@dataclass(frozen=True)
class Box:
    """Ranges of the P parameters of a fit.

    Parameters
    ----------
    parameters : tuple of Parameter
        The P parameters.
    low, high : float64 arrays (P,)
        Their ranges, SI units. Where both are the same the parameter is not fitted.

    Raises
    ------
    UserError
        A range is empty or not finite, or reaches beyond that of the model.
    """

    parameters: tuple[Parameter, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __post_init__(self) -> None:
        for parameter, low, high in zip(self.parameters, self.low, self.high, strict=True):
            if not parameter.low <= low <= high <= parameter.high:
                raise UserError(
                    f"bounds of {parameter.name} are {low:.6g} to {high:.6g} {parameter.unit}".rstrip()
                    + f", expected a range within that of the model, {parameter.low:g} to {parameter.high:g}"
                )

    @classmethod
    def around(cls, parameters: tuple[Parameter, ...], theta: NDArray[Any]) -> Box:
        """Return the smallest box that holds all theta (B, P), such as the atoms of a dictionary."""
        return cls(parameters, np.array(theta.min(axis=0), np.float64), np.array(theta.max(axis=0), np.float64))

    @property
    def free(self) -> NDArray[np.bool_]:
        """Which parameters have more than one value (P,)."""
        return self.low < self.high

    def unit(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Return the coordinates u (..., P) of theta (..., P); 0 for a parameter of one value."""
        low, half = self._scaled()
        u = (self._curved(np.asarray(theta, np.float64)) - low) / np.where(half > 0, half, 1) - 1
        return np.where(half > 0, u, 0)

    def theta(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return theta (..., P) of coordinates u (..., P)."""
        low, half = self._scaled()
        curved = low + (u + 1) * half
        theta = np.where(self._log, np.exp(np.where(self._log, curved, 0)), curved)
        # the ends are exact, and rounding must not leave the range in which the model is defined
        return np.clip(np.where(u <= -1, self.low, np.where(u >= 1, self.high, theta)), self.low, self.high)

    def slope(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return dtheta/du (..., P) at theta (..., P); 0 for a parameter of one value."""
        return np.where(self._log, theta, 1) * self._scaled()[1]

    def index(self, name: str) -> int:
        """Return the column of a parameter.

        Raises
        ------
        UserError
            There is none of that name.
        """
        names = [parameter.name for parameter in self.parameters]
        if name not in names:
            raise UserError(
                f"the model has no parameter {name!r}, expected one of: {', '.join(names)}{nearest(name, names)}"
            )
        return names.index(name)

    def range(self, name: str) -> tuple[float, float]:
        """Return lowest and highest value of a parameter."""
        i = self.index(name)
        return float(self.low[i]), float(self.high[i])

    def replaced(self, ranges: Mapping[str, Sequence[float]]) -> Box:
        """Return the box with other ranges, by name, for some parameters; they may be wider.

        Raises
        ------
        UserError
            A name is unknown, or a range is empty or reaches beyond that of the model.
        """
        low, high = self.low.copy(), self.high.copy()
        for name, ends in ranges.items():
            low[self.index(name)], high[self.index(name)] = ends
        return Box(self.parameters, low, high)

    def narrowed(self, bounds: Mapping[str, Sequence[float]]) -> Box:
        """Return the box with other ranges, by name, for some parameters.

        Raises
        ------
        UserError
            A name is unknown, or a range is empty or reaches out of this box.
        """
        low, high = self.low.copy(), self.high.copy()
        for name, (lower, upper) in bounds.items():
            i = self.index(name)
            if not self.low[i] <= lower < upper <= self.high[i]:
                raise UserError(
                    f"bounds of {name} are {lower:.6g} to {upper:.6g} {self.parameters[i].unit}".rstrip()
                    + f", expected a range within {self.low[i]:.6g} to {self.high[i]:.6g}"
                )
            low[i], high[i] = lower, upper
        return Box(self.parameters, low, high)

    def check(self, name: str, values: NDArray[Any], what: str) -> None:
        """Refuse values (B,) of a parameter outside of its range, but for the rounding of single precision.

        Raises
        ------
        UserError
            `what` is outside.
        """
        i = self.index(name)
        low, high = self.low[i], self.high[i]
        outside = ~((values >= low - _ROUNDING * abs(low)) & (values <= high + _ROUNDING * abs(high)))
        if outside.any():
            where = values[outside]
            raise UserError(
                f"{what} of {name} is outside of {low:.6g} to {high:.6g} {self.parameters[i].unit}".rstrip()
                + f" in {len(where)} of {len(values)} voxels, the first being {where[0]:.6g}; widen the range, or "
                "change the values"
            )

    @property
    def _log(self) -> NDArray[np.bool_]:
        return (self.low > 0) & (self.high > _WIDE * self.low)

    def _curved(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(self._log, np.log(np.where(self._log, theta, 1)), theta)

    def _scaled(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower ends and half the widths, in the logarithm where that counts."""
        low = self._curved(self.low)
        return low, (self._curved(self.high) - low) / 2
