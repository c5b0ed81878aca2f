"""Fast spin echo: a CPMG train of refocusing pulses of any angle (`fse`), or of 180 degrees (`mese`).

    90 (x) - E/2 - [ dephasing - pulse (x) - dephasing - E/2 - echo - E/2 ] x T

E is the echo spacing. Half-way between pulses orders of the phase graph that go back to the excitation are even, those
that go back to longitudinal magnetisation recovered since are odd, and no pulse changes which of the two an order is.
So recovery during the train never comes to an echo: what was longitudinal before the excitation (TR, saturation) scales
all echoes alike, and is part of M0. T1 matters as far as orders are stored along z on their way, which pulses of
180 degrees never do: there the derivatives by T1, and at B1 = 1 by B1, vanish exactly.

References
----------
Hennig, J Magn Reson 78:397 (1988), doi 10.1016/0022-2364(88)90128-X (echoes of any refocusing angle).
Weigel, J Magn Reson Imaging 41:266 (2015), doi 10.1002/jmri.24619.
Tamir et al., Magn Reson Med 77:180 (2017), doi 10.1002/mrm.26102 (T2 shuffling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..model import Defaults, Parameter
from . import epg
from .pulses import hard_pulse
from .rows import B1, LONGEST_B1, T2, RowModel
from .schedule import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray


def falling_and_rising(n: int) -> NDArray[np.float64]:
    """Return n refocusing angles [rad] that fall from 150 degrees towards 60 and rise to 120.

    60 + 90 exp(-i/4) + 60 i/(n - 1) degrees, i = 0 .. n-1: high angles make the first echoes, low ones keep the signal
    along z, and rising ones spend what is left, as long trains have it at 3 T for the sake of blur and heating.
    """
    i = np.arange(n)
    return np.deg2rad(60 + 90 * np.exp(-i / 4) + 60 * i / max(n - 1, 1))


class Fse(RowModel):
    """Echoes of a CPMG train by extended phase graphs; T1 and B1 are nuisances.

    Parameters
    ----------
    flip_angles : sequence of T floats, optional
        Refocusing angles [rad]; 80 of `falling_and_rising` if not given.
    echo_spacing : float
        Time from echo to echo [s].
    t1 : float or None
        T1 [s] of all tissues; None: it is a parameter.
    b1 : bool
        Include the relative B1 as a parameter; it scales the excitation of 90 degrees too.

    Notes
    -----
    Pulses are ideal. The signal is real and positive for full refocusing, sin(90 B1) sin(90 B1)^2 exp(-E / T2) for
    the first echo of a pulse of 180 degrees.

    Examples
    --------
    >>> model = Fse(flip_angles=[3.14159265] * 3, echo_spacing=0.01, b1=False)
    >>> model.signal([[0.1, 1.0]]).real.round(4).tolist()  # T2, T1
    [[0.9048, 0.8187, 0.7408]]
    """

    name = "fse"
    defaults = Defaults("tissue-3t", "t2-grid")

    def __init__(
        self,
        *,
        flip_angles: Sequence[float] | None = None,
        echo_spacing: float = 5.5e-3,
        t1: float | None = None,
        b1: bool = True,
    ):
        self.flip_angles = falling_and_rising(80) if flip_angles is None else np.array(flip_angles, dtype=np.float64)
        self.echo_spacing, self.t1, self.b1 = echo_spacing, t1, b1
        self._expect_list("flip_angles", self.flip_angles)
        if np.abs(self.flip_angles).max() > 2 * np.pi:
            raise UserError(f"{self.name}: flip_angles reach {np.abs(self.flip_angles).max():g} rad, expected to 2 pi")
        self._expect("echo_spacing", echo_spacing, 0, 1, "s", above=True)
        if t1 is not None:
            self._expect("t1", t1, 0.01, 20, "s")
        self.parameters = (
            T2,
            *((Parameter("T1", "s", 0.01, 20.0, nuisance=True),) if t1 is None else ()),
            *((B1,) if b1 else ()),
        )
        largest = max(float(np.abs(self.flip_angles).max()), np.pi / 2)
        self._pulses = hard_pulse(largest * (LONGEST_B1 if b1 else 1.0))
        schedule = Schedule().pulse(np.pi / 2, np.pi / 2)
        for angle in self.flip_angles:
            schedule.relax(echo_spacing / 2).shift().pulse(angle, 0.0).shift().relax(echo_spacing / 2)
            schedule.read(0.0, 0.0)
        self._schedule = schedule.rows

    @property
    def n_frames(self) -> int:
        """Number of echoes T."""
        return len(self.flip_angles)

    @property
    def spec(self) -> dict[str, Any]:
        """The settings, SI units, from which `models.build` makes this model again."""
        return {
            "name": self.name,
            "flip_angles": self.flip_angles.tolist(),
            "echo_spacing": self.echo_spacing,
            "t1": self.t1,
            "b1": self.b1,
        }

    def _rows(self, theta: NDArray[np.float64], *, tangents: bool) -> NDArray[np.complex128]:
        full = epg.columns(theta, self.parameters, np.inf if self.t1 is None else self.t1)
        wanted = epg.tangents(self.parameters) if tangents else []
        return -1j * epg.simulate(self._schedule, self._pulses, full, tangents=wanted, accuracy=0.0)


class Mese(Fse):
    """Multi-echo spin echo: `fse` with refocusing pulses of 180 degrees.

    Parameters
    ----------
    n_echoes : int
        Number of echoes T.
    echo_spacing, t1, b1
        As of `Fse`. B1 changes little near 1, and T1 nothing there; so T1 has one value, unless it is None.

    Examples
    --------
    >>> model = Mese(n_echoes=3)
    >>> model.signal([[0.1, 0.9]]).real.round(4).tolist()  # T2, B1
    [[0.8718, 0.8118, 0.7145]]
    """

    name = "mese"

    def __init__(
        self, *, n_echoes: int = 32, echo_spacing: float = 0.01, t1: float | None = 1.0, b1: bool = True
    ) -> None:
        self._expect("n_echoes", n_echoes, 1, 10_000)
        super().__init__(flip_angles=[np.pi] * n_echoes, echo_spacing=echo_spacing, t1=t1, b1=b1)

    @property
    def spec(self) -> dict[str, Any]:
        """The settings, SI units, from which `models.build` makes this model again."""
        settings = super().spec
        del settings["flip_angles"]
        return settings | {"n_echoes": self.n_frames}
