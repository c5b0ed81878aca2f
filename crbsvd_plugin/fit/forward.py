"""Signals as a fit sees them: phi^H s(theta) and its derivatives, from the model itself.

`emulator.Emulator` is the other one of this kind, and much faster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..batches import batch_size
from ..errors import UserError
from ..model import SignalModel
from .box import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CompressedModel(Protocol):
    """A map from tissue parameters to K coefficients, for M0 = 1."""

    @property
    def box(self) -> Box:
        """Where it is defined."""

    @property
    def rank(self) -> int:
        """Number of coefficients K."""

    def value_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return phi^H s (B, K) and its derivatives (B, P, K) of theta (B, P), SI units, which lie in the box."""

    def truncated(self, rank: int) -> CompressedModel:
        """Return the map to the first `rank` coefficients."""


@dataclass(frozen=True)
class Simulated:
    """The model itself, compressed: exact, and as slow as the model.

    Parameters
    ----------
    model : SignalModel
        The model. Where it adapts its accuracy to theta its signals have small steps, at which no fit
        converges to the last digit: see `models.smooth`.
    phi : array (T, K)
        Orthonormal basis.
    box : Box
        Where it is asked for.

    Raises
    ------
    UserError
        The model has no derivatives, or another number of frames than the basis.
    """

    model: SignalModel
    phi: NDArray[Any]
    box: Box

    def __post_init__(self) -> None:
        if not callable(getattr(self.model, "signal_and_jacobian", None)):
            raise UserError(
                f"model {type(self.model).__name__} has no derivatives (signal_and_jacobian), which a least-squares "
                "fit needs; add them, or take the method matching"
            )
        if self.model.n_frames != len(self.phi):
            raise UserError(
                f"the model has {self.model.n_frames} frames, the basis {len(self.phi)}: they do not belong together"
            )

    @property
    def rank(self) -> int:
        """Number of coefficients K."""
        return int(self.phi.shape[1])

    def value_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return phi^H s (B, K) and its derivatives (B, P, K), a few atoms at a time."""
        n, p = theta.shape
        value, jac = np.empty((n, self.rank), np.complex128), np.empty((n, p, self.rank), np.complex128)
        size = batch_size(len(self.phi), p)
        for start in range(0, n, size):
            some = slice(start, start + size)
            signal, derivatives = self.model.signal_and_jacobian(theta[some])
            value[some], jac[some] = signal @ self.phi.conj(), derivatives @ self.phi.conj()
        return value, jac

    def truncated(self, rank: int) -> Simulated:
        """Return the map to the first `rank` coefficients."""
        return replace(self, phi=self.phi[:, :rank])
