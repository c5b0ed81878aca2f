"""A pulse sequence as a list of operators, which the phase graphs of `epg` run through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Operators, each a row (code, x, y) of the schedule
PULSE, RELAX, SHIFT, SPOIL, INVERT, PREPARE, READ = range(7)


class Schedule:
    """A list of operators, built in the order of the sequence.

    Every method appends one operator and returns the schedule.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[float, float, float]] = []

    def pulse(self, angle: float, phase: float) -> Schedule:
        """Turn by `angle` [rad] times B1 about the transverse axis at `phase` [rad]."""
        return self._add(PULSE, angle, phase)

    def relax(self, time: float) -> Schedule:
        """Relax for `time` [s]; recovery towards z_0 = 1."""
        return self._add(RELAX, time)

    def shift(self) -> Schedule:
        """Dephase all transverse states by one order."""
        return self._add(SHIFT)

    def spoil(self) -> Schedule:
        """Destroy all transverse magnetisation; longitudinal orders stay, as in the Bloch equations."""
        return self._add(SPOIL)

    def invert(self, efficiency: float) -> Schedule:
        """Invert: z_k becomes -efficiency z_k; transverse magnetisation is crushed."""
        return self._add(INVERT, efficiency)

    def prepare(self, time: float) -> Schedule:
        """T2 preparation of `time` [s]: z_k becomes z_k exp(-time/T2); transverse magnetisation is crushed."""
        return self._add(PREPARE, time)

    def read(self, delay: float, phase: float) -> Schedule:
        """Record the signal as it will be after `delay` [s], received at `phase` [rad].

        Time does not go on: only g_0 contributes, so its later value is g_0 exp(-delay/T2).
        """
        return self._add(READ, delay, phase)

    def silenced(self) -> Schedule:
        """Return the same schedule without its readouts."""
        return _of([row for row in self._rows if row[0] != READ])

    def __add__(self, later: Schedule) -> Schedule:
        return _of(self._rows + later._rows)

    def _add(self, code: int, x: float = 0.0, y: float = 0.0) -> Schedule:
        self._rows.append((code, x, y))
        return self

    @property
    def rows(self) -> NDArray[np.float64]:
        """The operators as an array (n, 3)."""
        return np.array(self._rows, dtype=np.float64).reshape(-1, 3)


def _of(rows: list[tuple[float, float, float]]) -> Schedule:
    schedule = Schedule()
    schedule._rows = rows
    return schedule
