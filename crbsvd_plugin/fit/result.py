"""What a fit gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..model import Parameter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Maps:
    """Maps of tissue parameters.

    Parameters
    ----------
    parameters : tuple of Parameter
        The P parameters.
    theta : float32 array (P, *X)
        Estimates, SI units; 0 where `mask` is False.
    m0 : complex64 array (*X)
        Complex scale of the signal; 0 where `mask` is False.
    edge : bool array (*X)
        The estimate lies on the edge of the dictionary, or at a bound, so the truth may lie outside.
    mask : bool array (*X)
        False where there is nothing to fit.
    converged : bool array (*X), optional
        The fit came to a minimum; False where `mask` is. None for matching, which always ends.
    residual : float32 array (*X), optional
        ||c - M0 phi^H s(theta)||, in the unit of the coefficients c; 0 where `mask` is False.
    """

    parameters: tuple[Parameter, ...]
    theta: NDArray[np.float32]
    m0: NDArray[np.complex64]
    edge: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    converged: NDArray[np.bool_] | None = None
    residual: NDArray[np.float32] | None = None
