"""What a signal model is, and a batch of what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Parameter:
    """One parameter of a signal model.

    Parameters
    ----------
    name : str
        Name as in the literature, e.g. ``T1``.
    unit : str
        SI unit; an empty string for a relative quantity such as B1.
    low, high : float
        Range in which the model is defined.
    nuisance : bool
        A nuisance parameter is projected out of the others' derivatives, but its own
        Cramer-Rao bound is not a target of the basis.
    """

    name: str
    unit: str
    low: float
    high: float
    nuisance: bool = False

    def __post_init__(self) -> None:
        if self.name in ("signal", ""):
            raise ValueError(f"a parameter is called {self.name!r}, which in tables is the signal itself")


@dataclass(frozen=True)
class Defaults:
    """What a model suggests where a user says nothing: its class attribute ``defaults``, which it need not have.

    Parameters
    ----------
    prior, fit_prior : str, optional
        Names of the presets for its basis and for its dictionary.
    rank : int
        Number of coefficients.
    tolerance : float, optional
        Share of the energy that may fall outside of the fold's subspace; the fold's own if not given.
    """

    prior: str | None = None
    fit_prior: str | None = None
    rank: int = 5
    tolerance: float | None = None


@runtime_checkable
class SignalModel(Protocol):
    """A map from tissue parameters to a time series of T frames.

    The complex scale M0 is never a parameter: signals are those of M0 = 1, and the
    derivative with respect to M0 is the signal itself.
    """

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The P parameters, in the order of the columns of theta."""

    @property
    def n_frames(self) -> int:
        """Number of frames T."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """Everything needed to build this model again, ready for JSON (SI units)."""

    def signal(self, theta: NDArray[Any]) -> NDArray[Any]:
        """Return the signals (B, T), complex128, of theta (B, P)."""

    def signal_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the signals (B, T) and their derivatives (B, P, T), complex128."""


def defaults_of(model: SignalModel) -> Defaults:
    """Return what a model suggests; one that says nothing has the rank of most and no priors."""
    return getattr(model, "defaults", Defaults())


@dataclass(frozen=True)
class Batch:
    """Simulated fingerprints of one tissue class.

    Parameters
    ----------
    theta : array (B, P)
        Tissue parameters, SI units.
    signal : complex array (B, T)
        Signals of M0 = 1.
    jac : complex array (B, P, T) or None
        Derivatives with respect to theta; None where only signals are asked for.
    label : str
        The tissue class.
    weight : float
        How many atoms of the full prior each atom stands for.
    """

    theta: NDArray[Any]
    signal: NDArray[Any]
    jac: NDArray[Any] | None
    label: str
    weight: float = 1.0


def checked(theta: NDArray[Any], parameters: Sequence[Parameter]) -> NDArray[np.float64]:
    """Return theta (B, P) as float64, known to be where a model is defined.

    Raises
    ------
    ValueError
        theta has the wrong shape or lies outside the range of the parameters.
    """
    theta = np.asarray(theta, dtype=np.float64)
    if theta.ndim != 2 or theta.shape[1] != len(parameters):
        raise ValueError(f"theta has shape {theta.shape}, expected (B, {len(parameters)})")
    for column, parameter in zip(theta.T, parameters, strict=True):
        if not np.all((column >= parameter.low) & (column <= parameter.high)):
            raise ValueError(
                f"{parameter.name} runs from {column.min():g} to {column.max():g} {parameter.unit}, "
                f"expected within {parameter.low:g} to {parameter.high:g}"
            )
    return theta
