"""A sequence that a file tells: its operators as they are, for pulses, gradients and readouts in any order.

The operators are all that is kept, so that the sidecar of a basis needs no file of the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..model import Defaults
from . import epg
from .pulses import hard_pulse
from .rows import B1, LONGEST_B1, T1, T2, W0, RowModel
from .schedule import INVERT, PREPARE, PULSE, READ, RELAX

if TYPE_CHECKING:
    from numpy.typing import NDArray

_N_OPERATORS = 7


class Operators(RowModel):
    """Signals of a list of operators, by extended phase graphs from equilibrium; pulses are ideal.

    Parameters
    ----------
    operators : sequence of n triples
        Code, x and y, see `schedule`: angle [rad] and phase [rad] of a pulse, a time [s], an efficiency, delay [s] and
        phase [rad] of a readout. Every readout is a frame.
    t1 : float or None
        T1 [s] of all tissues; None: it is a parameter.
    t1_nuisance : bool
        Whether T1 is a nuisance, as for trains of spin echoes.
    b1, w0 : bool
        Include the relative B1, or the off-resonance, as a nuisance.
    accuracy : float
        As of `MrfFisp`; 0: nothing is left out.

    Examples
    --------
    >>> model = Operators(operators=[[0, 1.5708, 0.0], [1, 0.1, 0.0], [6, 0.0, 0.0]], b1=False)
    >>> model.signal([[1.0, 0.1]]).imag.round(3).tolist()  # T1, T2
    [[-0.368]]
    """

    name = "pulseq"

    def __init__(
        self,
        *,
        operators: Sequence[Sequence[float]],
        t1: float | None = None,
        t1_nuisance: bool = False,
        b1: bool = True,
        w0: bool = False,
        accuracy: float = 1e-4,
    ):
        self.operators = self._checked(operators)
        self.t1, self.t1_nuisance, self.b1, self.w0, self.accuracy = t1, t1_nuisance, b1, w0, accuracy
        self._expect("accuracy", accuracy, 0, 0.1)
        if t1 is not None:
            self._expect("t1", t1, 0.01, 20, "s")
        self.parameters = (
            *((replace(T1, nuisance=t1_nuisance),) if t1 is None else ()),
            T2,
            *((W0,) if w0 else ()),
            *((B1,) if b1 else ()),
        )
        fit_prior = "t1-t2-w0" if w0 else "t2-grid" if t1_nuisance or t1 is not None else "t1-t2"
        self.defaults = Defaults("tissue-3t", fit_prior, rank=20 if w0 else 5)
        codes = self.operators[:, 0]
        phases = self.operators[np.isin(codes, (PULSE, READ)), 2]
        # in the turned frame of `epg` pulses of phase 0 and pi are real: -w0 makes of s its conjugate, but for the sign
        self.conjugated_by = "w0" if w0 and np.all(np.abs(np.sin(phases)) < 1e-12) else None
        largest = float(np.abs(self.operators[codes == PULSE, 1]).max(initial=0.0))
        self._pulses = hard_pulse(largest * (LONGEST_B1 if b1 else 1.0))

    def _checked(self, operators: Sequence[Sequence[float]]) -> NDArray[np.float64]:
        if not operators or any(len(row) != 3 for row in operators):
            raise UserError(f"{self.name}: operators is empty or has rows of another length, expected triples")
        rows = np.array(operators, dtype=np.float64)
        if not np.isfinite(rows).all():
            raise UserError(f"{self.name}: operators holds {np.count_nonzero(~np.isfinite(rows))} non-finite values")
        codes, x = rows[:, 0], rows[:, 1]
        if not np.isin(codes, range(_N_OPERATORS)).all():
            raise UserError(
                f"{self.name}: operators has codes that stand for nothing, expected 0 to {_N_OPERATORS - 1}"
            )
        if (x[np.isin(codes, (RELAX, READ, PREPARE))] < 0).any():
            raise UserError(f"{self.name}: operators has negative times, expected at least 0 s")
        if ((x < 0) | (x > 1))[codes == INVERT].any():
            raise UserError(f"{self.name}: operators has an inversion with an efficiency not from 0 to 1")
        if (np.abs(x[codes == PULSE]) > 2 * np.pi).any():
            raise UserError(f"{self.name}: operators has pulses of more than 2 pi rad; degrees?")
        if not (codes == READ).any():
            raise UserError(f"{self.name}: operators has no readout, expected one for every frame")
        return rows

    @property
    def n_frames(self) -> int:
        """Number of readouts T."""
        return int(np.count_nonzero(self.operators[:, 0] == READ))

    @property
    def spec(self) -> dict[str, Any]:
        """The settings, SI units, from which `models.build` makes this model again."""
        return {
            "name": self.name,
            "operators": self.operators.tolist(),
            "t1": self.t1,
            "t1_nuisance": self.t1_nuisance,
            "b1": self.b1,
            "w0": self.w0,
            "accuracy": self.accuracy,
        }

    def _rows(self, theta: NDArray[np.float64], *, tangents: bool) -> NDArray[np.complex128]:
        full = epg.columns(theta, self.parameters, np.inf if self.t1 is None else self.t1)
        wanted = epg.tangents(self.parameters) if tangents else []
        return -1j * epg.simulate(self.operators, self._pulses, full, tangents=wanted, accuracy=self.accuracy)
