"""What signal models with analytic derivatives have in common: one array holds the signal and its derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..model import Parameter, checked

if TYPE_CHECKING:
    from numpy.typing import NDArray


LONGEST_B1 = 2.0
# parameters that several models have
T1, T2 = Parameter("T1", "s", 1e-3, 20.0), Parameter("T2", "s", 1e-3, 20.0)
W0 = Parameter("w0", "rad/s", -2e4, 2e4, nuisance=True)
B1 = Parameter("B1", "", 0.1, LONGEST_B1, nuisance=True)


class RowModel(ABC):
    """A model that computes its signal and its derivatives together, as rows (B, 1 + P, T)."""

    name: str
    parameters: tuple[Parameter, ...]

    @property
    @abstractmethod
    def n_frames(self) -> int:
        """Number of frames T."""

    @abstractmethod
    def _rows(self, theta: NDArray[np.float64], *, tangents: bool) -> NDArray[np.complex128]:
        """Return the rows (B, 1 + P, T), or (B, 1, T) without tangents."""

    def signal(self, theta: NDArray[Any]) -> NDArray[np.complex128]:
        """Return the signals (B, T) of theta (B, P), in the units of the parameters.

        Raises
        ------
        ValueError
            theta has the wrong shape or lies outside the range of the parameters.
        """
        return self._rows(checked(theta, self.parameters), tangents=False)[:, 0]

    def signal_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return the signals (B, T) and their derivatives (B, P, T), in the inverse units of theta.

        Raises
        ------
        ValueError
            theta has the wrong shape or lies outside the range of the parameters.
        """
        rows = self._rows(checked(theta, self.parameters), tangents=True)
        return rows[:, 0], rows[:, 1:]

    def _expect(self, key: str, value: float, low: float, high: float, unit: str = "", *, above: bool = False) -> None:
        """Refuse a setting outside of low to high; `above`: low itself too."""
        if not (low < value if above else low <= value) or not value <= high:
            least = f"above {low:g}, to" if above else f"{low:g} to"
            raise UserError(f"{self.name}: {key} is {f'{value:g} {unit}'.strip()}, expected {least} {high:g}")

    def _expect_list(self, key: str, values: NDArray[np.float64]) -> None:
        """Refuse a setting that is no list of finite numbers."""
        if values.ndim != 1 or not values.size:
            raise UserError(f"{self.name}: {key} is empty or not a list, expected one number per frame")
        if not np.isfinite(values).all():
            raise UserError(f"{self.name}: {key} holds {np.count_nonzero(~np.isfinite(values))} non-finite values")
