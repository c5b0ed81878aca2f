"""IR-FLASH (Look-Locker): an inversion and a train of equal pulses with ideal spoiling.

    inversion (efficiency f) - TI - [ pulse - signal, averaged over L pulses - TR ] x T L - recovery

Nothing transverse survives until the next pulse, so Mz alone is followed. With E = exp(-TR / T1), c = cos(B1 alpha) and
q = E c, Mz before pulse n obeys m_(n+1) = q m_n + 1 - E, whose fixed point is m* = (1 - E) / (1 - q); hence

    m_n = m* + (m_0 - m*) q^n,       signal_n = sin(B1 alpha) m_n.

After N = T L pulses Mz recovers with E_r = exp(-recovery / T1) to I = 1 - E_r + E_r m_N, is inverted to -f I, and is
m_0 = 1 - E_i - E_i f I at the first pulse, E_i = exp(-TI / T1). In the periodic state both hold, and so

    m_0 (1 + f E_i E_r q^N) = 1 - E_i - E_i f [1 - E_r + E_r m* (1 - q^N)].

A single shot from equilibrium, I = 1, is the limit E_r = 0. Decay to the echo, exp(-TE / T2*), scales all frames alike
and is part of M0.

References
----------
Look and Locker, Rev Sci Instrum 41:250 (1970), doi 10.1063/1.1684482.
Deichmann and Haase, J Magn Reson 96:608 (1992), doi 10.1016/0022-2364(92)90347-A.
Wang et al., Magn Reson Med 79:730 (2018), doi 10.1002/mrm.26726 (single-shot radial).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..model import Defaults, Parameter
from .rows import B1, RowModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST = 1e6  # s


class IrFlash(RowModel):
    """Signals of inversion-recovery Look-Locker gradient echoes; B1 is a nuisance.

    Parameters
    ----------
    n_frames : int
        Number of frames T.
    pulses_per_frame : int
        Pulses L whose mean is the signal of a frame.
    flip_angle : float
        Flip angle [rad].
    tr : float
        Time from pulse to pulse [s].
    ti : float
        Time between inversion and first pulse [s].
    inversion_efficiency : float
        0 to 1; the longitudinal magnetisation becomes minus this times itself.
    recovery : float or None
        Rest [s] from a TR after the last pulse to the next inversion, in the periodic state; None: the only shot,
        from equilibrium.
    b1 : bool
        Include the relative B1 as a parameter.

    Examples
    --------
    >>> model = IrFlash(n_frames=3, flip_angle=0.1, tr=0.1, ti=0.0, b1=False)
    >>> model.signal([[1.0]]).real.round(4).tolist()
    [[-0.0998, -0.0804, -0.0629]]
    """

    name = "ir-flash"
    defaults = Defaults("tissue-3t", "t1-grid", rank=4)

    def __init__(
        self,
        *,
        n_frames: int = 800,
        pulses_per_frame: int = 1,
        flip_angle: float = np.pi / 30,
        tr: float = 0.005,
        ti: float = 0.005,
        inversion_efficiency: float = 1.0,
        recovery: float | None = None,
        b1: bool = True,
    ):
        self._n_frames, self.pulses_per_frame, self.flip_angle, self.tr = n_frames, pulses_per_frame, flip_angle, tr
        self.ti, self.inversion_efficiency, self.recovery, self.b1 = ti, inversion_efficiency, recovery, b1
        self._expect("n_frames", n_frames, 1, 100_000)
        self._expect("pulses_per_frame", pulses_per_frame, 1, 10_000)
        self._expect("flip_angle", flip_angle, 0, np.pi, "rad", above=True)
        self._expect("tr", tr, 0, _LONGEST, "s", above=True)
        self._expect("ti", ti, 0, _LONGEST, "s")
        self._expect("inversion_efficiency", inversion_efficiency, 0, 1)
        if recovery is not None:
            self._expect("recovery", recovery, 0, _LONGEST, "s")
        self.parameters = (
            Parameter("T1", "s", 0.01, 20.0),
            *((B1,) if b1 else ()),
        )

    @property
    def n_frames(self) -> int:
        """Number of frames T."""
        return self._n_frames

    @property
    def spec(self) -> dict[str, Any]:
        """The settings, SI units, from which `models.build` makes this model again."""
        return {
            "name": self.name,
            "n_frames": self.n_frames,
            "pulses_per_frame": self.pulses_per_frame,
            "flip_angle": self.flip_angle,
            "tr": self.tr,
            "ti": self.ti,
            "inversion_efficiency": self.inversion_efficiency,
            "recovery": self.recovery,
            "b1": self.b1,
        }

    def _rows(self, theta: NDArray[np.float64], *, tangents: bool) -> NDArray[np.complex128]:
        t1 = theta[:, 0]
        angle = self.flip_angle * (theta[:, 1] if self.b1 else np.ones(len(theta)))
        zero = np.zeros(len(theta))
        rows = np.empty((len(theta), 1 + (len(self.parameters) if tangents else 0), self.n_frames), np.complex128)
        # derivatives of E, E_i, E_r and of the angle, by T1 and by B1
        by_t1 = [time * np.exp(-time / t1) / t1**2 for time in (self.tr, self.ti, self.recovery or 0.0)]
        sources = [(*by_t1, zero), (zero, zero, zero, np.full(len(theta), self.flip_angle))]
        for row in range(rows.shape[1]):
            rows[:, row] = self._row(t1, angle, sources[row - 1] if row else None)
        return rows

    def _row(
        self, t1: NDArray[Any], angle: NDArray[Any], source: tuple[NDArray[Any], ...] | None
    ) -> NDArray[np.float64]:
        """Return the signal (B, T), or its derivative from those of E, E_i, E_r and the angle: the chain rule."""
        n_pulses, f = self.n_frames * self.pulses_per_frame, self.inversion_efficiency
        e, ei = np.exp(-self.tr / t1), np.exp(-self.ti / t1)
        er = np.zeros(len(t1)) if self.recovery is None else np.exp(-self.recovery / t1)
        sine, c = np.sin(angle), np.cos(angle)
        q = e * c
        last = q**n_pulses
        fixed = (1 - e) / (1 - q)
        before = 1 - er + er * fixed * (1 - last)  # I but for what m_0 adds to it
        size = 1 + f * ei * er * last
        first = (1 - ei - f * ei * before) / size
        n = np.arange(n_pulses)
        powers = q[:, None] ** n
        if source is None:
            return self._mean(sine[:, None] * (fixed[:, None] + (first - fixed)[:, None] * powers))
        de, dei, der, dangle = source
        if self.recovery is None:
            der = np.zeros(len(t1))
        dq = de * c - e * sine * dangle
        dlast = n_pulses * q ** (n_pulses - 1) * dq
        dfixed = (fixed * dq - de) / (1 - q)
        dbefore = -der * (1 - fixed * (1 - last)) + er * (dfixed * (1 - last) - fixed * dlast)
        dsize = f * (dei * er * last + ei * der * last + ei * er * dlast)
        dfirst = (-dei * (1 + f * before) - f * ei * dbefore - first * dsize) / size
        dpowers = n * q[:, None] ** np.maximum(n - 1, 0) * dq[:, None]
        dz = dfixed[:, None] + (dfirst - dfixed)[:, None] * powers + (first - fixed)[:, None] * dpowers
        return self._mean(
            sine[:, None] * dz + (c * dangle)[:, None] * (fixed[:, None] + (first - fixed)[:, None] * powers)
        )

    def _mean(self, pulses: NDArray[np.float64]) -> NDArray[np.float64]:
        return pulses.reshape(len(pulses), self.n_frames, self.pulses_per_frame).mean(axis=2)
