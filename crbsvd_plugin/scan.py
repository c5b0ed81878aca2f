"""A scan of a digital phantom, before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .encoding import coefficient_noise
from .phantom import Phantom

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scan:
    """A noise-free scan of a phantom, readouts in the order of time.

    Parameters
    ----------
    ksp : complex64 array (C, R, S)
        Data, scaled as those of the unitary operator on the image grid.
    traj : array (R, S, ndim)
        Positions (y, x) or (z, y, x) in cycles per field of view.
    frame, shot : int array (R,)
        Counters of every readout.
    phantom : Phantom
        What was scanned.
    spec : dict
        The signal model, as far as it tells.
    rank : int
        Coefficients that the signals were expanded in.
    n_cycles : int
        Parts of the train that are repeated by themselves: all shots of one, then all shots of the next.
    gradient_delay : tuple of 3 float
        S_x, S_y, S_xy [samples]: the data lie that far from `traj`, see `delays`.
    phase_drift : float
        Phase [rad] of the last readout; it grows with the time from 0 at the first.
    line : int array (R,), optional
        Of Cartesian readouts the encoding step along y, with its centre at n//2; these are written without `traj`.
    """

    ksp: NDArray[np.complex64]
    traj: NDArray[np.float64]
    frame: NDArray[np.intp]
    shot: NDArray[np.intp]
    phantom: Phantom
    spec: dict[str, Any]
    rank: int
    n_cycles: int = 1
    gradient_delay: tuple[float, float, float] = (0.0, 0.0, 0.0)
    phase_drift: float = 0.0
    line: NDArray[np.intp] | None = None

    @property
    def n_frames(self) -> int:
        """Frames T."""
        return int(self.frame.max()) + 1

    def sigma(self, snr: float | None) -> float:
        """Return the noise of the data per real component, for an SNR of the coefficients where M0 = 1."""
        unit = coefficient_noise(self.traj[..., 0].size, self.phantom.geometry.shape, n_frames=self.n_frames)
        return 0.0 if snr is None else 1 / (unit * snr)

    @property
    def start_times(self) -> NDArray[np.float64]:
        """When the readouts begin [s]; frames of 10 ms where the model does not tell."""
        n_shots, n_pulses = int(self.shot.max()) + 1, self.n_frames // self.n_cycles
        tr = self.timing("tr")
        tr = np.broadcast_to(tr if tr.size in (1, self.n_frames) else 0.01, self.n_frames)
        trains = np.zeros((self.n_cycles, n_pulses + 1))
        trains[:, 1:] = np.cumsum(tr.reshape(self.n_cycles, -1), axis=1)
        periods = trains[:, -1] + self.timing("ti").sum() + self.timing("recovery").sum()
        cycle, pulse = np.divmod(self.frame, n_pulses)
        before = np.concatenate([[0.0], np.cumsum(n_shots * periods)])
        return np.asarray(before[cycle] + self.shot * periods[cycle] + trains[cycle, pulse])

    def timing(self, key: str) -> NDArray[np.float64]:
        """Return a setting of the sequence as a list, empty where the model does not tell it."""
        value = self.spec.get(key)
        return np.zeros(0) if value is None else np.atleast_1d(np.asarray(value, dtype=np.float64))
