"""Rotations by a pulse of any flip angle, as a table of Cayley-Klein parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PulseTable:
    """Cayley-Klein parameters of one pulse shape, at Q positions, against the flip angle.

    Parameters
    ----------
    step : float
        Distance of the nodes in flip angle [rad]; the first node is 0.
    nodes : array (Q, n_nodes, 4)
        a, b, and their derivatives with respect to the flip angle: real for a hard pulse.
        Between nodes the cubic Hermite interpolant is used.
    weights : array (Q,)
        Weight of each position in the signal.
    """

    step: float
    nodes: NDArray[Any]
    weights: NDArray[np.float64]


def hard_pulse(largest: float, step: float = 2e-3) -> PulseTable:
    """Return the table of an ideal pulse for flip angles from 0 to `largest` [rad].

    a = cos(alpha/2), b = sin(alpha/2). Interpolation error step^4/384/16 = 3e-15.
    """
    half = np.arange(int(np.ceil(largest / step)) + 2) * step / 2
    nodes = np.stack([np.cos(half), np.sin(half), -np.sin(half) / 2, np.cos(half) / 2], axis=-1)
    return PulseTable(step, nodes[None], np.ones(1))
