r"""What a fit found in many noisy measurements, and how far that is from the truth.

With the errors e = estimate - truth of n measurements, s^2 = sum (e - mean e)^2 / (n - 1) and m4 = mean (e - mean e)^4:

    bias = mean e,             standard error s / sqrt(n)
    sd   = s,                  standard error sqrt((m4 - (n - 3) / (n - 1) s^4) / n) / (2 s)
    rmse = sqrt(mean e^2),     standard error sd(e^2) / (2 rmse sqrt(n))

The second is the variance of s^2 for any distribution, to first order; for normal errors it is s / sqrt(2 (n - 1)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .fit.result import Maps

_FAILED, _EDGE = 1, 2


class Statistics(NamedTuple):
    """Statistics of one parameter, in its unit; NaN where fewer than two fits succeeded."""

    bias: float
    bias_se: float
    sd: float
    sd_se: float
    rmse: float
    rmse_se: float


class Estimates:
    """All estimates of all cases, 4 bytes each; a case is a basis, a rank and a fingerprint.

    Parameters
    ----------
    n_bases, n_ranks, n_fingerprints, n_measurements, n_parameters : int
        Their numbers.
    """

    def __init__(self, n_bases: int, n_ranks: int, n_fingerprints: int, n_measurements: int, n_parameters: int):
        shape = (n_bases, n_ranks, n_fingerprints, n_measurements)
        self._theta = np.full((*shape, n_parameters), np.nan, np.float32)
        self._flags = np.zeros(shape, np.uint8)

    def put(self, basis: int, rank: int, fingerprint: int, measured: slice, maps: Maps, part: slice) -> None:
        """Keep a part of maps that have one axis: those of some measurements of a case.

        A fit that came to no minimum, or found nothing to fit, has failed.
        """
        at = (basis, rank, fingerprint, measured)
        self._theta[at] = maps.theta[:, part].T
        failed = ~maps.mask | ~np.isfinite(maps.theta).all(axis=0)
        if maps.converged is not None:
            failed |= ~maps.converged
        self._flags[at] = (np.where(failed, _FAILED, 0) | np.where(maps.edge, _EDGE, 0))[part]

    def failed(self, basis: int, rank: int, fingerprint: int) -> int:
        """Return how many fits failed."""
        return int(np.count_nonzero(self._flags[basis, rank, fingerprint] & _FAILED))

    def at_edge(self, basis: int, rank: int, fingerprint: int) -> int:
        """Return how many fits ended at an end of a range (of all that did not fail)."""
        return int(np.count_nonzero(self._flags[basis, rank, fingerprint] == _EDGE))

    def statistics(self, basis: int, rank: int, fingerprint: int, parameter: int, truth: float) -> Statistics:
        """Return bias, standard deviation and root mean square error of the fits that did not fail."""
        case = (basis, rank, fingerprint)
        known = (self._flags[case] & _FAILED) == 0
        return statistics(self._theta[case][known, parameter].astype(np.float64) - truth)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return all that `restore` needs."""
        return {}, {"theta": self._theta, "flags": self._flags}

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become, bit for bit, what had this state.

        Raises
        ------
        ValueError
            It is that of a study of another size.
        """
        if values or {name: array.shape for name, array in arrays.items()} != {
            "theta": self._theta.shape,
            "flags": self._flags.shape,
        }:
            raise ValueError("the state is that of a study of another size")
        self._theta, self._flags = arrays["theta"], arrays["flags"]


def statistics(errors: NDArray[np.float64]) -> Statistics:
    """Return the statistics of errors (n,), each with its standard error."""
    n = len(errors)
    if n < 2:
        return Statistics(*(math.nan,) * 6)
    bias, sd = float(errors.mean()), float(errors.std(ddof=1))
    rmse = math.sqrt(float(np.mean(errors**2)))
    fourth = float(np.mean((errors - bias) ** 4))
    # of two values the difference is but rounding
    of_square = math.sqrt(max(fourth - (n - 3) / (n - 1) * sd**4, 0.0) / n)
    of_mean_square = float(np.std(errors**2, ddof=1)) / math.sqrt(n)
    return Statistics(
        bias,
        sd / math.sqrt(n),
        sd,
        of_square / (2 * sd) if sd else 0.0,
        rmse,
        of_mean_square / (2 * rmse) if rmse else 0.0,
    )
