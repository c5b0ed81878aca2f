"""What trains of gradient echoes have in common: pulses, preparations, and the repetition of the whole.

inversion (efficiency) - TI - [ blocks - pulse - TE - signal - (TR - TE) ] x T - recovery
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from . import blocks as preparations
from . import epg
from .pulses import PulseTable
from .rows import RowModel
from .schedule import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray


class GradientEchoTrain(RowModel):
    """A train of T pulses by phase graphs; what it needs besides is `_pulses` and `parameters`."""

    dephased: bool
    """Whether a gradient dephases by 2 pi at the end of every TR."""
    accuracy = 0.0
    """See `epg.simulate`."""

    _pulses: PulseTable
    _one_side = False
    """Whether the pulse table has one side of the slice only, of which the signal is the real part."""

    def _set_train(
        self,
        *,
        flip_angles: NDArray[np.float64],
        phases: NDArray[np.float64],
        tr: float | Sequence[float] | NDArray[np.float64],
        te: float | None,
        ti: float | None,
        inversion_efficiency: float,
        recovery: float | None,
        blocks: Sequence[preparations.Block],
    ) -> None:
        """Keep the settings, known to be possible; a TE of None is half of every TR."""
        self.flip_angles, self.phases = flip_angles, phases
        n = self.n_frames
        given = np.array(tr, dtype=np.float64)
        self.tr = np.broadcast_to(given, (n,)) if given.ndim == 0 else given
        self.te, self.ti, self.recovery, self.inversion_efficiency = te, ti, recovery, inversion_efficiency
        self._check_train()
        self.blocks = preparations.check(blocks, n, self.name)

    def _check_train(self) -> None:
        n = self.n_frames
        if n < 1 or self.flip_angles.ndim != 1:
            raise UserError(f"{self.name}: flip_angles is empty or not a list, expected one angle per frame")
        for name, values in (("phases", self.phases), ("tr", self.tr)):
            if values.shape != (n,):
                raise UserError(f"{self.name}: {name} has {values.size} entries, expected {n}, one per flip angle")
        for name, values in (("flip_angles", self.flip_angles), ("phases", self.phases), ("tr", self.tr)):
            if not np.isfinite(values).all():
                raise UserError(f"{self.name}: {name} holds {np.count_nonzero(~np.isfinite(values))} non-finite values")
        if self.tr.min() <= 0:
            raise UserError(f"{self.name}: tr falls to {self.tr.min()} s, expected above 0")
        if self.te is not None and not 0 < self.te < self.tr.min():
            raise UserError(
                f"{self.name}: te is {self.te} s, expected between 0 and the shortest tr, {self.tr.min()} s"
            )
        for name, value in (("ti", self.ti), ("recovery", self.recovery)):
            if value is not None and not 0 <= value < np.inf:
                raise UserError(f"{self.name}: {name} is {value} s, expected at least 0, or none")
        if not 0 <= self.inversion_efficiency <= 1:
            raise UserError(f"{self.name}: inversion_efficiency is {self.inversion_efficiency}, expected 0 to 1")

    @property
    def n_frames(self) -> int:
        """Number of pulses T."""
        return len(self.flip_angles)

    def _schedule(self) -> Schedule:
        schedule = Schedule()
        if self.ti is not None:
            schedule.invert(self.inversion_efficiency).relax(self.ti)
        for i, (angle, phase, tr) in enumerate(zip(self.flip_angles, self.phases, self.tr, strict=True)):
            for block in self.blocks:
                if block.before == i:
                    block.add(schedule)
            schedule.pulse(angle, phase).read(tr / 2 if self.te is None else self.te, phase).relax(tr)
            if self.dephased:
                schedule.shift()
        return schedule

    def _periodic(self) -> Schedule:
        """Two repetitions, transverse magnetisation crushed in between; only the second records."""
        rest = self._schedule().relax(self.recovery or 0.0).spoil()
        return rest.silenced() + self._schedule()

    def _rows(self, theta: NDArray[np.float64], *, tangents: bool) -> NDArray[np.complex128]:
        full = epg.columns(theta, self.parameters)
        wanted = epg.tangents(self.parameters) if tangents else []
        rows = np.empty((len(full), 1 + len(wanted), self.n_frames), np.complex128)
        # The first repetition's end changes the second by at most exp(-x), x = recovery / T1,
        # and T1 d/dT1 of it by x exp(-x): where both are below the accuracy it is not simulated
        x = np.full(len(full), np.inf) if self.recovery is None else self.recovery / full[:, epg.T1]
        again = np.zeros(len(full), bool) if self.recovery is None else np.exp(-x) * np.maximum(x, 1) > self.accuracy
        for chosen, schedule in ((~again, self._schedule), (again, self._periodic)):
            if chosen.any():
                states = epg.simulate(
                    schedule().rows, self._pulses, full[chosen], tangents=wanted, accuracy=self.accuracy
                )
                rows[chosen] = -1j * (states.real if self._one_side else states)
        return rows
