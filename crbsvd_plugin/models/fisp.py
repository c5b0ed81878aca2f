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

from ..model import Defaults
from . import slice_profile
from .blocks import Block, plain
from .gradient_echo import GradientEchoTrain
from .pulses import hard_pulse
from .rows import B1, LONGEST_B1, T1, T2

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


class MrfFisp(GradientEchoTrain):
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
    blocks : sequence of Block
        Preparations between pulses, see `blocks`.
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
    dephased = True
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
        blocks: Sequence[Block] = (),
        slice_positions: int = 1,
        b1: bool = False,
        accuracy: float = 1e-4,
    ):
        angles = jiang_train() if flip_angles is None else np.array(flip_angles, dtype=np.float64)
        self._set_train(
            flip_angles=angles, phases=np.zeros(len(angles)) if phases is None else np.array(phases, dtype=np.float64),
            tr=tr, te=te, ti=ti, inversion_efficiency=inversion_efficiency, recovery=recovery, blocks=blocks,
        )  # fmt: skip
        self.slice_positions, self.b1, self.accuracy = slice_positions, b1, accuracy
        self._expect("slice_positions", slice_positions, 1, 10_000)
        self._expect("accuracy", accuracy, 0, 0.1)
        self.parameters = (T1, T2, *((B1,) if b1 else ()))
        # With phases of 0 and pi the signal of the position -x is the conjugate of that of x
        self._one_side = slice_positions > 1 and bool(np.all(np.abs(np.sin(self.phases)) < 1e-15))
        largest = float(np.abs(self.flip_angles).max()) * (LONGEST_B1 if b1 else 1.0)
        self._pulses = (
            hard_pulse(largest)
            if slice_positions == 1
            else slice_profile.selective_pulse(largest, slice_positions, one_side=self._one_side)
        )

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
            "slice_positions": self.slice_positions,
            "b1": self.b1,
            "accuracy": self.accuracy,
        }
