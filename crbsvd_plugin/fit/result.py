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
        The estimate lies on the edge of the dictionary, so the truth may lie outside of it.
    mask : bool array (*X)
        False where there is nothing to fit.
    """

    parameters: tuple[Parameter, ...]
    theta: NDArray[np.float32]
    m0: NDArray[np.complex64]
    edge: NDArray[np.bool_]
    mask: NDArray[np.bool_]
