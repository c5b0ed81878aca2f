"""The noise scans of a stream, as they come: sums, from which data are prewhitened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .coils import refuse_silent, whitening_of
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class NoiseScans:
    """Noise readouts, which may have different sampling intervals.

    Parameters
    ----------
    bandwidth : float
        Share of their band that the receiver passes.

    Attributes
    ----------
    n_samples : int
        Samples of a coil that have come.

    Notes
    -----
    Noise power goes with the bandwidth, the inverse of the sampling interval. A receiver that passes a part of the band
    of the noise scan (0.793 is common) makes its noise look smaller than that of the data.
    """

    def __init__(self, bandwidth: float = 1.0):
        self.n_samples = 0
        self._bandwidth = bandwidth
        self._dwell = 0.0  # of the first one, which the others are scaled to [us]; 0: not known
        self._products: NDArray[Any] | None = None

    def add(self, samples: NDArray[Any], dwell: float) -> None:
        """Add a readout (C, S) with a sampling interval [us], 0 if it is not known.

        Raises
        ------
        UserError
            A value is not finite.
        """
        n_bad = samples.size - int(np.count_nonzero(np.isfinite(samples)))
        if n_bad:
            raise UserError(f"noise scan holds {n_bad} non-finite values; remove it")
        exact = samples.astype(np.complex128)
        products = exact @ exact.conj().T
        if self._products is None:
            self._products, self._dwell = np.zeros_like(products), dwell
        self._products += products * (dwell / self._dwell if dwell > 0 and self._dwell > 0 else 1.0)
        self.n_samples += samples.shape[1]

    def whitening(self, dwell: float, *, mixing: NDArray[Any] | None = None) -> NDArray[np.complex128] | None:
        """Return the matrix after which data have sigma = 1 per real component; None without noise scans.

        Parameters
        ----------
        dwell : float
            Sampling interval of the data [us], 0 if it is not known.
        mixing : array (N, C), optional
            What has been done to their coils already.

        Raises
        ------
        UserError
            As for `coils.whitening_matrix`.
        """
        if self._products is None:
            return None
        refuse_silent(self._products.diagonal()[:, None], "noise scan")
        products = self._products if mixing is None else mixing @ self._products @ mixing.conj().T
        scale = np.sqrt(dwell / self._dwell * self._bandwidth) if dwell > 0 and self._dwell > 0 else 1.0
        return whitening_of(products, self.n_samples) * scale
