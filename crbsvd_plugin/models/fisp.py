"""MRF-FISP: an inversion and a train of gradient-spoiled pulses of varying flip angle.

    inversion (efficiency) - TI - [ pulse - TE - signal - (TR - TE) - dephasing by 2 pi ] x T - recovery

References
----------
Jiang et al., Magn Reson Med 74:1621 (2015), doi 10.1002/mrm.25559.
Mao et al., arXiv 2305.00326, section III (1040 pulses, TR 10 ms, TE 5 ms, TI 20 ms, 10 s rest).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..model import Defaults, Parameter, checked
from . import epg, slice_profile
from .schedule import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST_B1 = 2.0


def jiang_train() -> NDArray[np.float64]:
    """Return the flip angles [rad] of the untruncated train of Jiang 2015, 1040 pulses.

    FA(n) = 5 + (P_j - 5) sin(pi n / 200) degrees, n = 1 .. 200, for the five peaks
    P = 35, 43, 70, 45, 27, with runs of 10, 10, 9 and 11 zeros between them.
    """
    lobe = np.sin(np.pi * np.arange(1, 201) / 200)
    peaks, gaps = (35, 43, 70, 45, 27), (10, 10, 9, 11, 0)
    return np.deg2rad(
        np.concatenate([np.append(5 + (p - 5) * lobe, np.zeros(n)) for p, n in zip(peaks, gaps, strict=True)])
    )


class MrfFisp:
    """Signals of MRF-FISP by extended phase graphs.

    Parameters
    ----------
    flip_angles : sequence of T floats, optional
        Flip angles [rad]; the train of Jiang 2015 if not given.
    phases : sequence of T floats, optional
        RF phases [rad], followed by the receiver; all zero if not given.
    tr : float or sequence of T floats
        Repetition time [s] after each pulse.
    te : float
        Echo time [s], shorter than every TR.
    ti : float or None
        Time between inversion and first pulse [s]; None: no inversion.
    inversion_efficiency : float
        0 to 1; the longitudinal magnetisation becomes minus this times itself.
    recovery : float or None
        Rest [s] between the repetitions of the train. The signals are those of the second
        repetition, which all later ones equal but for exp(-train / T1). None: the train
        starts from equilibrium.
    slice_positions : int
        Positions across the slice profile whose phase graphs are averaged; 1: ideal pulses.
        For an error of 1e-3 the default train needs about 31 for tissue and 201 for CSF.
    b1 : bool
        Include the relative B1 as a third parameter, a nuisance.
    accuracy : float
        Largest error of a signal of M0 = 1, and of T1 ds/dT1, from leaving out phase-graph orders
        and the first repetition where it is forgotten; 0: nothing is left out.

    Examples
    --------
    >>> model = MrfFisp(flip_angles=[0.5236] * 3, tr=0.01, te=0.005, ti=None, recovery=None)
    >>> model.signal([[1.0, 0.1]]).imag.round(3).tolist()
    [[-0.476, -0.413, -0.336]]
    """

    name = "mrf-fisp"
    defaults = Defaults("mao-mrf-table1", "t1-t2")

    def __init__(
        self,
        *,
        flip_angles: Sequence[float] | None = None,
        phases: Sequence[float] | None = None,
        tr: float | Sequence[float] = 0.01,
        te: float = 0.005,
        ti: float | None = 0.02,
        inversion_efficiency: float = 1.0,
        recovery: float | None = 10.0,
        slice_positions: int = 1,
        b1: bool = False,
        accuracy: float = 1e-4,
    ):
        self.flip_angles = jiang_train() if flip_angles is None else np.array(flip_angles, dtype=np.float64)
        n = self.n_frames
        self.phases = np.zeros(n) if phases is None else np.array(phases, dtype=np.float64)
        self.tr = (
            np.broadcast_to(np.array(tr, dtype=np.float64), (n,))
            if np.ndim(tr) == 0
            else np.array(tr, dtype=np.float64)
        )
        self.te, self.ti, self.recovery = te, ti, recovery
        self.inversion_efficiency = inversion_efficiency
        self.slice_positions, self.b1, self.accuracy = slice_positions, b1, accuracy
        self._check()
        self.parameters: tuple[Parameter, ...] = (
            Parameter("T1", "s", 1e-3, 20.0),
            Parameter("T2", "s", 1e-3, 20.0),
            *((Parameter("B1", "", 0.1, _LONGEST_B1, nuisance=True),) if b1 else ()),
        )
        # With phases of 0 and pi the signal of the position -x is the conjugate of that of x
        self._one_side = slice_positions > 1 and bool(np.all(np.abs(np.sin(self.phases)) < 1e-15))
        largest = float(np.abs(self.flip_angles).max()) * (_LONGEST_B1 if b1 else 1.0)
        self._pulses = (
            epg.hard_pulse(largest)
            if slice_positions == 1
            else slice_profile.selective_pulse(largest, slice_positions, one_side=self._one_side)
        )
        self._schedule = self._build()

    def _check(self) -> None:
        n = self.n_frames
        if n < 1 or self.flip_angles.ndim != 1:
            raise UserError("mrf-fisp: flip_angles is empty or not a list, expected one angle per frame")
        for name, values in (("phases", self.phases), ("tr", self.tr)):
            if values.shape != (n,):
                raise UserError(f"mrf-fisp: {name} has {values.size} entries, expected {n}, one per flip angle")
        for name, values in (("flip_angles", self.flip_angles), ("phases", self.phases), ("tr", self.tr)):
            if not np.isfinite(values).all():
                raise UserError(f"mrf-fisp: {name} holds {np.count_nonzero(~np.isfinite(values))} non-finite values")
        if not 0 < self.te < self.tr.min():
            raise UserError(f"mrf-fisp: te is {self.te} s, expected between 0 and the shortest tr, {self.tr.min()} s")
        for name, value in (("ti", self.ti), ("recovery", self.recovery)):
            if value is not None and not 0 <= value < np.inf:
                raise UserError(f"mrf-fisp: {name} is {value} s, expected at least 0, or none")
        if not 0 <= self.inversion_efficiency <= 1:
            raise UserError(f"mrf-fisp: inversion_efficiency is {self.inversion_efficiency}, expected 0 to 1")
        if not 1 <= self.slice_positions <= 10_000:
            raise UserError(f"mrf-fisp: slice_positions is {self.slice_positions}, expected 1 (ideal) to 10000")
        if not 0 <= self.accuracy <= 0.1:
            raise UserError(f"mrf-fisp: accuracy is {self.accuracy}, expected 0 (all orders) to 0.1")

    @property
    def n_frames(self) -> int:
        """Number of pulses T."""
        return len(self.flip_angles)

    @property
    def spec(self) -> dict[str, Any]:
        """The settings, SI units, from which `models.build` makes this model again."""
        return {
            "name": self.name,
            "flip_angles": self.flip_angles.tolist(),
            "phases": self.phases.tolist(),
            "tr": self.tr.tolist(),
            "te": self.te,
            "ti": self.ti,
            "inversion_efficiency": self.inversion_efficiency,
            "recovery": self.recovery,
            "slice_positions": self.slice_positions,
            "b1": self.b1,
            "accuracy": self.accuracy,
        }

    def signal(self, theta: NDArray[Any]) -> NDArray[np.complex128]:
        """Return the signals (B, T) of theta (B, P), T1 and T2 in s.

        Raises
        ------
        ValueError
            theta has the wrong shape or lies outside the range of the parameters.
        """
        return self._simulate(theta, tangents=())[:, 0]

    def signal_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return the signals (B, T) and their derivatives (B, P, T) in 1/s (B1: relative).

        Raises
        ------
        ValueError
            theta has the wrong shape or lies outside the range of the parameters.
        """
        rows = self._simulate(theta, tangents=epg.tangents(self.parameters))
        return rows[:, 0], rows[:, 1:]

    def _build(self) -> Schedule:
        schedule = Schedule()
        if self.ti is not None:
            schedule.invert(self.inversion_efficiency).relax(self.ti)
        for angle, phase, tr in zip(self.flip_angles, self.phases, self.tr, strict=True):
            schedule.pulse(angle, phase).read(self.te, phase).relax(tr).shift()
        return schedule

    def _simulate(self, theta: NDArray[Any], *, tangents: Sequence[int]) -> NDArray[np.complex128]:
        theta = epg.columns(checked(theta, self.parameters), self.parameters)
        rows = np.empty((len(theta), 1 + len(tangents), self.n_frames), np.complex128)
        # The first repetition's end changes the second by at most exp(-x), x = recovery / T1,
        # and T1 d/dT1 of it by x exp(-x): where both are below the accuracy it is not simulated
        x = np.full(len(theta), np.inf) if self.recovery is None else self.recovery / theta[:, 0]
        again = np.zeros(len(theta), bool) if self.recovery is None else np.exp(-x) * np.maximum(x, 1) > self.accuracy
        for chosen, schedule in ((~again, self._schedule), (again, self._periodic)):
            if chosen.any():
                states = epg.simulate(
                    schedule.rows, self._pulses, theta[chosen], tangents=tangents, accuracy=self.accuracy
                )
                rows[chosen] = -1j * (states.real if self._one_side else states)
        return rows

    @property
    def _periodic(self) -> Schedule:
        """Two repetitions, transverse magnetisation crushed in between; only the second records."""
        rest = self._build().relax(self.recovery or 0.0).spoil()
        return rest.silenced() + self._build()
