"""The NUFFT's own, finer grid, of a size whose Fourier transforms are fast.

FINUFFT takes for every axis the first even number without prime factors above 5 from `upsampfac` times the modes on.
Where that is a multiple of a high power of two, the samples of a column lie in a few lines of the cache: transforms of
384 x 384 x 384 take 3.7 times as long as those of 400 x 400 x 400, of 1536 x 1536 seven times those of 1600 x 1600.
"""

from __future__ import annotations

import itertools

_POWER = 64
_MOST = 1.2  # times the smallest factor: more would cost more than it saves


def size(n: int, factor: float) -> int:
    """Return the size of the grid of an axis of n modes."""
    return next(even for even in itertools.count(2 * -(-int(factor * n) // 2), 2) if _smooth(even))


def upsampling(modes: tuple[int, ...], least: float) -> float:
    """Return the smallest factor from `least` to 1.2 times as much of which the fewest axes are multiples of 64.

    Parameters
    ----------
    modes : tuple of int
        The grid of the NUFFT's result.
    least : float
        The smallest factor that is accurate enough, above 1.
    """
    most = _MOST * least
    # an axis keeps its size up to the first of two factors, and has a larger one from the second on
    sizes = [(even, n) for n in modes for even in range(size(n, least), int(most * n), 2) if _smooth(even)]
    factors = [least, *(even / n for even, n in sizes), *((even + 1) / n for even, n in sizes)]
    factors = [factor for factor in factors if factor >= least]
    return min(factors, key=lambda factor: (sum(size(n, factor) % _POWER == 0 for n in modes), factor))


def _smooth(number: int) -> bool:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1
