"""The noise scans of a stream, as they come: sums, from which data are prewhitened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .coils import refuse_silent, whitening_of
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Noise = Literal["scan", "upstream"]


class NoiseScans:
    """Noise readouts, which may have different sampling intervals.

    Parameters
    ----------
    bandwidth : float
        Share of their band that the receiver passes.
    source : {"scan", "upstream"}
        Where data are prewhitened: here, with the noise scans, or by whoever sent them. Noise scans that come
        nevertheless say nothing of such data, and are not looked at.

    Attributes
    ----------
    n_samples : int
        Samples of a coil that have come.
    upstream : bool
        Noise scans are not looked at.

    Notes
    -----
    Noise power goes with the bandwidth, the inverse of the sampling interval. A receiver that passes a part of the band
    of the noise scan (0.793 is common) makes its noise look smaller than that of the data.

    Prewhitened data have sigma = 1 per real component, E|n|^2 = 2. That is what Gadgetron's NoiseAdjust leaves, which
    multiplies the inverse of the Cholesky factor of E[n n^H] by sqrt(2 dwell / dwell of the noise scan x bandwidth).
    """

    def __init__(self, bandwidth: float = 1.0, *, source: Noise = "scan"):
        self.n_samples = 0
        self.upstream = source == "upstream"
        self._bandwidth = bandwidth
        self._dwell = 0.0  # of the first one, which the others are scaled to [us]; 0: not known
        self._products: NDArray[Any] | None = None

    @property
    def known(self) -> bool:
        """The noise of whitened data is known: sigma = 1."""
        return self.upstream or self.n_samples > 0

    def add(self, samples: NDArray[Any], dwell: float) -> None:
        """Add a readout (C, S) with a sampling interval [us], 0 if it is not known.

        Raises
        ------
        UserError
            A value is not finite.
        """
        if self.upstream:
            return
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
        """Return the matrix after which data have sigma = 1 per real component; None: leave them as they are.

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
