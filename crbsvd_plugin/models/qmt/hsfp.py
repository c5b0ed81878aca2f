"""Quantitative magnetisation transfer with a balanced hybrid-state sequence.

    [ inversion, crushed - (TR) - pulse - (TR) - pulse - .. ] x for ever,   RF phases alternate

Pulses of varying angle and length; the echo lies TR/2 after the middle of a pulse.

References
----------
Asslaender et al., Magn Reson Med 91:1478 (2024), doi 10.1002/mrm.29951 (the sequence and its model).
Mao et al., arXiv 2305.00326, section III.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UserError
from ...model import Defaults, Parameter, checked

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST_TR = 0.01
_LARGEST_SHARE = 0.25  # of TR, that a pulse may take: what the propagators are exact for with |w0| up to 2 pi / TR


class QmtHsfp:
    """Signals of two pools, free and semi-solid, by the linear approximation of the generalized Bloch model.

    Parameters
    ----------
    alpha : sequence of C sequences of N floats, optional
        Flip angles [rad] of the N pulses of C cycles; `train.built_in` if not given. The first pulse of every cycle
        is a crushed inversion. One cycle may be a plain sequence. Angles are not negative: phases alternate anyway.
    TRF : sequence of C sequences of N floats, optional
        Durations of the pulses [s], in the same shape; also where the angle is 0, where they do not matter.
    tr : float
        Repetition time [s].

    Notes
    -----
    Each cycle is in its own steady state; the signals of all are one series of T = C N frames.
    T2s is limited by the table of R2sl, which knows pulses of 3.9 to 102 T2s, and B1 by its largest angle, 1.32 pi.

    Examples
    --------
    >>> model = QmtHsfp(alpha=[3.14159, 0.5, 0.5], TRF=[5e-4, 2e-4, 2e-4])
    >>> model.signal([[0.2, 0.5, 13.0, 16.0, 3.0, 12e-6, 0.0, 1.0]]).real.round(4).tolist()
    [[-0.0004, -0.0, 0.0004]]
    """

    name = "qmt-hsfp"
    # the rank is the paper's, for ten real unknowns; signals ring in thousands of dimensions of next to no energy
    # (docs/design.md), and with this tolerance losses change by 4e-6
    defaults = Defaults("mao-table1", "qmt-tissue", rank=15, tolerance=1e-4)
    conjugated_by = "w0"
    """The parameter whose change of sign conjugates the signal."""

    def __init__(
        self,
        *,
        alpha: Sequence[Sequence[float] | float] | None = None,
        TRF: Sequence[Sequence[float] | float] | None = None,
        tr: float = 3.5e-3,
    ):
        from . import saturation, train

        if (alpha is None) != (TRF is None):
            missing = "TRF" if TRF is None else "alpha"
            raise UserError(f"qmt-hsfp: {missing} is not given, expected both alpha and TRF, or neither")
        if alpha is None or TRF is None:
            self.alpha, self.trf = train.built_in()
        else:
            self.alpha, self.trf = _rows(alpha, "alpha"), _rows(TRF, "TRF")
        self.tr = tr
        self._check()
        shortest, longest = self._durations
        low, high = longest / saturation.TAU[1], shortest / saturation.TAU[0]
        if low >= high:
            raise UserError(
                f"qmt-hsfp: TRF runs from {shortest:g} to {longest:g} s; the table of R2sl holds TRF / T2s from "
                f"{saturation.TAU[0]:g} to {saturation.TAU[1]:g}, which leaves no T2s for all pulses"
            )
        largest = float(self.alpha.max())
        if largest >= saturation.THETA:
            raise UserError(
                f"qmt-hsfp: alpha reaches {largest:g} rad, but the table of R2sl ends at B1 alpha = "
                f"{saturation.THETA:g} rad; take smaller angles"
            )
        self.parameters: tuple[Parameter, ...] = (
            Parameter("m0s", "", 0.0, 0.9),
            Parameter("R1f", "1/s", 0.05, 20.0),
            Parameter("R2f", "1/s", 0.1, 200.0),
            Parameter("Rx", "1/s", 0.0, 200.0),
            Parameter("R1s", "1/s", 0.05, 20.0),
            Parameter("T2s", "s", low, high),
            Parameter("w0", "rad/s", -2 * np.pi / tr, 2 * np.pi / tr, nuisance=True),
            Parameter("B1", "", 0.1, min(2.0, saturation.THETA / largest) if largest else 2.0, nuisance=True),
        )

    @property
    def _durations(self) -> tuple[float, float]:
        """The shortest and the longest pulse [s]."""
        some = self.trf[self.alpha > 0] if self.alpha.any() else self.trf
        return float(some.min()), float(some.max())

    def _check(self) -> None:
        alpha, trf = self.alpha, self.trf
        if alpha.shape != trf.shape:
            raise UserError(
                f"qmt-hsfp: alpha has shape {alpha.shape} and TRF {trf.shape}, expected the same (cycles, pulses)"
            )
        n_cycles, n_pulses = alpha.shape
        if n_pulses < 2 or n_cycles > n_pulses:
            raise UserError(
                f"qmt-hsfp: a train of {n_cycles} cycles of {n_pulses} pulses, expected (cycles, pulses) with at least "
                "2 pulses, and more pulses than cycles; transpose it?"
            )
        for name, values in (("alpha", alpha), ("TRF", trf)):
            if not np.isfinite(values).all():
                raise UserError(f"qmt-hsfp: {name} holds {np.count_nonzero(~np.isfinite(values))} non-finite values")
        if alpha.max() > 2 * np.pi:
            raise UserError(f"qmt-hsfp: alpha reaches {alpha.max():g}, more than 2 pi: degrees? expected rad")
        if alpha.min() < 0:
            raise UserError(
                f"qmt-hsfp: alpha falls to {alpha.min():g} rad, expected at least 0; phases alternate without it"
            )
        if not 0 < self.tr <= _LONGEST_TR:
            raise UserError(f"qmt-hsfp: tr is {self.tr} s, expected above 0, to {_LONGEST_TR} s")
        if not (trf.min() > 0 and self._durations[1] <= _LARGEST_SHARE * self.tr):
            raise UserError(
                f"qmt-hsfp: TRF runs from {trf.min():g} to {trf.max():g} s, expected above 0, to a quarter of tr, "
                f"{_LARGEST_SHARE * self.tr:g} s"
            )

    @property
    def n_frames(self) -> int:
        """Number of pulses T of all cycles."""
        return int(self.alpha.size)

    @property
    def n_cycles(self) -> int:
        """Number of cycles, each repeated by itself."""
        return len(self.alpha)

    @property
    def spec(self) -> dict[str, Any]:
        """The settings, SI units, from which `models.build` makes this model again."""
        return {"name": self.name, "alpha": self.alpha.tolist(), "TRF": self.trf.tolist(), "tr": self.tr}

    def signal(self, theta: NDArray[Any]) -> NDArray[np.complex128]:
        """Return the signals (B, T) of theta (B, 8): m0s, R1f, R2f, Rx, R1s [1/s], T2s [s], w0 [rad/s], B1.

        Raises
        ------
        ValueError
            theta has the wrong shape or lies outside the range of the parameters.
        """
        return self._simulate(theta, tangents=False)[:, 0]

    def signal_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return the signals (B, T) and their derivatives (B, 8, T), in the inverse units of theta.

        Raises
        ------
        ValueError
            theta has the wrong shape or lies outside the range of the parameters.
        """
        rows = self._simulate(theta, tangents=True)
        return rows[:, 0], rows[:, 1:]

    def _simulate(self, theta: NDArray[Any], *, tangents: bool) -> NDArray[np.complex128]:
        from .cycle import simulate

        return simulate(self.alpha, self.trf, self.tr, checked(theta, self.parameters), tangents=tangents)


def _rows(values: Sequence[Sequence[float] | float], name: str) -> NDArray[np.float64]:
    """Return the rows of a train as an array (C, N)."""
    rows = [list(row) for row in values if not isinstance(row, int | float)]
    if len(rows) < len(values):
        rows = [[row for row in values if isinstance(row, int | float)], *rows]  # one cycle
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise UserError(f"qmt-hsfp: {name} has cycles of {lengths} pulses, expected as many in each")
    return np.array(rows, dtype=np.float64)
