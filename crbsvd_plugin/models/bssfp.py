"""Balanced SSFP fingerprinting: an inversion and a train of pulses whose angle and TR vary, off resonance.

    inversion (efficiency) - TI - [ blocks - pulse - TE - signal - (TR - TE) ] x T - recovery

All gradients are balanced, so that one order of the phase graph is all there is; phases of the pulses alternate and the
receiver follows. Between pulses the magnetisation turns by w0, and with TRs that vary no w0 is a stop band for long;
signals are complex, and those of all w0 fill many dimensions.

References
----------
Ma et al., Nature 495:187 (2013), doi 10.1038/nature11971 (the idea and its ranges; the train here is one of our own).
Park and Miller, Commun ACM 31:1192 (1988), doi 10.1145/63039.63042 (the pseudo-random numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..model import Defaults
from .blocks import Block, plain
from .gradient_echo import GradientEchoTrain
from .pulses import hard_pulse
from .rows import B1, LONGEST_B1, T1, T2, W0

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pseudo_random(n: int, seed: int) -> NDArray[np.float64]:
    """Return n numbers in (0, 1), the same on every machine: x' = 16807 x mod 2^31 - 1, divided by 2^31 - 1."""
    modulus, x = 2**31 - 1, seed
    numbers = []
    for _ in range(n):
        x = 16807 * x % modulus
        numbers.append(x / modulus)
    return np.array(numbers)


def smooth_noise(n: int, period: int, seed: int) -> NDArray[np.float64]:
    """Return n numbers in (0, 1) that wander: pseudo-random ones every `period`, joined by halves of a cosine."""
    at = np.arange(n) / period
    knots = pseudo_random(n // period + 2, seed)
    left = at.astype(int)
    share = (1 - np.cos(np.pi * (at - left))) / 2
    return knots[left] * (1 - share) + knots[left + 1] * share


def wandering_angles(n: int) -> NDArray[np.float64]:
    """Return n flip angles [rad]: 5 to 60 degrees, wandering over 60 pulses, with noise of +- 5 degrees upon it."""
    return np.deg2rad(10 + 45 * smooth_noise(n, 60, 2013) + 10 * (pseudo_random(n, 187) - 0.5))


def wandering_times(n: int) -> NDArray[np.float64]:
    """Return n repetition times [s], pseudo-random from 10.5 to 14 ms."""
    return 1e-3 * (10.5 + 3.5 * pseudo_random(n, 495))


class BssfpMrf(GradientEchoTrain):
    """Signals of balanced SSFP fingerprinting; off-resonance w0 is a nuisance.

    Parameters
    ----------
    flip_angles : sequence of T floats, optional
        Flip angles [rad]; 1000 of `wandering_angles` if not given.
    phases : sequence of T floats, optional
        RF phases [rad], followed by the receiver; 0 and pi by turns if not given.
    tr : float or sequence of T floats, optional
        Repetition time [s] after each pulse; `wandering_times` if not given.
    te : float or None
        Echo time [s], shorter than every TR; None: half of each TR, where the phases of w0 meet.
    ti : float or None
        Time between inversion and first pulse [s]; None: no inversion.
    inversion_efficiency : float
        0 to 1; the longitudinal magnetisation becomes minus this times itself.
    recovery : float or None
        Rest [s] between the repetitions of the train, of which the second is the signal, as of `mrf-fisp`. None: the
        train starts from equilibrium.
    blocks : sequence of Block
        Preparations between pulses, see `blocks`.
    b1 : bool
        Include the relative B1 as a parameter, a nuisance.

    Examples
    --------
    >>> model = BssfpMrf(flip_angles=[0.5, 1.0, 1.0], tr=0.005, ti=None)
    >>> model.signal([[1.0, 0.1, 0.0]]).imag.round(4).tolist()  # T1, T2, w0
    [[-0.4676, -0.4497, -0.6835]]
    """

    name = "bssfp-mrf"
    defaults = Defaults("tissue-3t", "t1-t2-w0", rank=20)
    dephased = False

    def __init__(
        self,
        *,
        flip_angles: Sequence[float] | None = None,
        phases: Sequence[float] | None = None,
        tr: float | Sequence[float] | None = None,
        te: float | None = None,
        ti: float | None = 0.02,
        inversion_efficiency: float = 1.0,
        recovery: float | None = None,
        blocks: Sequence[Block] = (),
        b1: bool = False,
    ):
        angles = wandering_angles(1000) if flip_angles is None else np.array(flip_angles, dtype=np.float64)
        n = len(angles)
        self._set_train(
            flip_angles=angles, phases=np.resize([0.0, np.pi], n) if phases is None else np.array(phases, np.float64),
            tr=wandering_times(n) if tr is None else tr, te=te, ti=ti, inversion_efficiency=inversion_efficiency,
            recovery=recovery, blocks=blocks,
        )  # fmt: skip
        self.b1 = b1
        # in the turned frame of `epg` pulses of phase 0 and pi are real: -w0 makes of s its conjugate, but for the sign
        self.conjugated_by = "w0" if np.all(np.abs(np.sin(self.phases)) < 1e-12) else None
        largest = float(np.abs(angles).max())
        if largest > 2 * np.pi:
            raise UserError(f"{self.name}: flip_angles reach {largest:g} rad, expected at most 2 pi; degrees?")
        self.parameters = (T1, T2, W0, *((B1,) if b1 else ()))
        self._pulses = hard_pulse(largest * (LONGEST_B1 if b1 else 1.0))

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
            "blocks": plain(self.blocks),
            "b1": self.b1,
        }
