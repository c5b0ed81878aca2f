"""Multi-echo gradient echo: T2* decay, off-resonance and fat.

    s(t) = [ (1 - FF) + FF sum_p a_p exp(i 2 pi gamma B0 delta_p t) ] exp(i w0 t - R2* t)

a_p and delta_p are amplitudes, which sum to 1, and shifts against water of the peaks of fat. FF is the share of fat in
the signal at t = 0, where water and fat are in phase; both decay with R2*. The excitation scales all echoes alike and
is part of M0.

ds/dR2* = -t s and ds/dw0 = i t s: over the complex numbers one is a multiple of the other, and the complex Fisher
matrix makes both bounds infinite. R2* and w0 are real, and so must be the Fisher matrix that tells them apart.

References
----------
Hamilton et al., NMR Biomed 24:784 (2011), doi 10.1002/nbm.1622 (the peaks of fat).
Yu et al., Magn Reson Med 60:1122 (2008), doi 10.1002/mrm.21737 (multi-peak fat with R2*).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..model import Defaults, Parameter
from .rows import W0, RowModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GAMMA = 2 * np.pi * 42.577478518e6  # rad/(s T), of the proton
# against water at 4.7 ppm: 0.9, 1.3, 2.1, 2.75, 4.2 and 5.3 ppm
_SHIFTS = (-3.8, -3.4, -2.6, -1.95, -0.5, 0.6)
_AMPLITUDES = (0.088, 0.7, 0.12, 0.006, 0.039, 0.047)


class Mgre(RowModel):
    """Signals of a multi-echo gradient echo.

    Parameters
    ----------
    echo_times : sequence of T floats, optional
        Times [s] from excitation to echo; 1.2 ms to 19.2 ms in 16 steps if not given, which at 3 T are near to
        half-turns of the main peak of fat.
    fat : bool
        Include the fat fraction FF as a parameter; else all is water.
    fat_shifts, fat_amplitudes : sequence of floats, optional
        Peaks of fat: shifts against water [ppm] and amplitudes, which are divided by their sum; those of liver fat
        (Hamilton 2011) if not given.
    field : float
        B0 [T].

    Examples
    --------
    >>> model = Mgre(echo_times=[0.0, 0.01], fat=False)
    >>> model.signal([[20.0, 0.0]]).real.round(4).tolist()  # R2star, w0
    [[1.0, 0.8187]]
    """

    name = "mgre"
    defaults = Defaults("gre-3t", "r2star-grid", rank=10)

    def __init__(
        self,
        *,
        echo_times: Sequence[float] | None = None,
        fat: bool = True,
        fat_shifts: Sequence[float] = _SHIFTS,
        fat_amplitudes: Sequence[float] = _AMPLITUDES,
        field: float = 3.0,
    ):
        self.echo_times = 1.2e-3 * np.arange(1, 17) if echo_times is None else np.array(echo_times, dtype=np.float64)
        self.fat, self.field = fat, field
        self.fat_shifts, self.fat_amplitudes = np.array(fat_shifts, np.float64), np.array(fat_amplitudes, np.float64)
        self._check()
        self.conjugated_by = None if fat else "w0"
        self.parameters = (
            Parameter("R2star", "1/s", 0.0, 5000.0),
            # a little beyond what there can be, so that noise need not end there
            *((Parameter("FF", "", -0.1, 1.1),) if fat else ()),
            W0,
        )
        turns = 1e-6 * _GAMMA * field * np.outer(self.echo_times, self.fat_shifts)
        self._fat = np.exp(1j * turns) @ (self.fat_amplitudes / self.fat_amplitudes.sum())

    def _check(self) -> None:
        for key in ("echo_times", "fat_shifts", "fat_amplitudes"):
            self._expect_list(key, getattr(self, key))
        self._expect("echo_times", float(self.echo_times.min()), 0, 10, "s")
        self._expect("echo_times", float(self.echo_times.max()), 0, 10, "s")
        self._expect("field", self.field, 0, 100, "T", above=True)
        if self.fat_shifts.shape != self.fat_amplitudes.shape:
            raise UserError(
                f"{self.name}: {self.fat_shifts.size} fat_shifts and {self.fat_amplitudes.size} fat_amplitudes, "
                "expected one of each per peak"
            )
        if self.fat_amplitudes.min() < 0 or not self.fat_amplitudes.any():
            raise UserError(f"{self.name}: fat_amplitudes are {self.fat_amplitudes.tolist()}, expected positive ones")

    @property
    def n_frames(self) -> int:
        """Number of echoes T."""
        return len(self.echo_times)

    @property
    def spec(self) -> dict[str, Any]:
        """The settings, SI units but ppm, from which `models.build` makes this model again."""
        return {
            "name": self.name,
            "echo_times": self.echo_times.tolist(),
            "fat": self.fat,
            "fat_shifts": self.fat_shifts.tolist(),
            "fat_amplitudes": self.fat_amplitudes.tolist(),
            "field": self.field,
        }

    def _rows(self, theta: NDArray[np.float64], *, tangents: bool) -> NDArray[np.complex128]:
        t, rate, w0 = self.echo_times, theta[:, :1], theta[:, -1:]
        decay = np.exp((1j * w0 - rate) * t)
        mixture = 1 + theta[:, 1:2] * (self._fat - 1) if self.fat else np.ones_like(decay)
        signal = mixture * decay
        if not tangents:
            return signal[:, None]
        by_fat = ((self._fat - 1) * decay,) if self.fat else ()
        return np.stack([signal, -t * signal, *by_fat, 1j * t * signal], axis=1)
