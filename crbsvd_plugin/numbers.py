"""Numbers of readouts in a scan: which have come, which are missing, and what tells a readout from all others."""

from __future__ import annotations

import hashlib
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


def identity(item: Acquisition) -> bytes:
    """Return what tells a readout from all others: its number and counters, and the samples of the first coil."""
    digest = hashlib.blake2b(bytes(item.idx), digest_size=8)
    digest.update(item.scan_counter.to_bytes(4, "little"))
    digest.update(item.data[0].tobytes())
    return digest.digest()
