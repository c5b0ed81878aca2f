"""Which readouts of a scan are missing, by number or by counters, and what tells a readout from all others."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ismrmrd import Acquisition


class Numbers:
    """The numbers of the readouts of a stream.

    Attributes
    ----------
    base : int
        The lowest one that has come, or that below which what is missing has been given up.
    new : bool
        The last one that came had not come before.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.base: int = 2**32
        self.new = False
        self._fixed = False

    def give_up(self, below: int) -> None:
        """Do not wait for lower numbers any more."""
        self.base, self._fixed = below, True

    def add(self, number: int) -> None:
        """Note a number that has come."""
        if not self._fixed:
            self.base = min(self.base, number)
        self.new = number not in self._seen
        self._seen.add(number)

    def missing(self, first: int, last: int) -> int:
        """Return how many of the numbers from `first` to `last` are not there."""
        return max(0, last - first + 1 - sum(first <= number <= last for number in self._seen))


class Expected:
    """Readouts that an image should have: at least one for every combination of some counters.

    Parameters
    ----------
    ranges : mapping of str to pair of int
        Lowest and highest value of every such counter.
    """

    def __init__(self, ranges: Mapping[str, tuple[int, int]]):
        self._ranges = ranges
        self._seen: set[tuple[int, ...]] = set()

    def add(self, item: Acquisition) -> None:
        """Note a readout that has come."""
        values = tuple(getattr(item.idx, name) for name in self._ranges)
        if all(low <= value <= high for value, (low, high) in zip(values, self._ranges.values(), strict=True)):
            self._seen.add(values)

    @property
    def missing(self) -> int:
        """How many combinations have not come."""
        return math.prod(high - low + 1 for low, high in self._ranges.values()) - len(self._seen)


def identity(item: Acquisition) -> bytes:
    """Return what tells a readout from all others: its number and counters, and the samples of the first coil."""
    digest = hashlib.blake2b(bytes(item.idx), digest_size=8)
    digest.update(item.scan_counter.to_bytes(4, "little"))
    digest.update(item.data[0].tobytes())
    return digest.digest()
