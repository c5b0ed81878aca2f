"""What has come of one image so far, and what of it is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .joining import Joining
from .numbers import Expected
from .waiting import Waiting

if TYPE_CHECKING:
    from ismrmrd import Acquisition


class Tally:
    """An image that is not complete: its readouts, and what is known of them."""

    def __init__(self, waiting: Waiting, n_pieces: int, expected: Expected):
        self.waiting, self.expected = waiting, expected
        self.calibrated = False
        self._joining = Joining(n_pieces)
        self.twice = 0
        self.first = self.last = -1  # lowest and highest number of its readouts
        self.missing: int | None = None  # of the numbers up to the last one; None: not said to be complete
        self.ended = 0
        self.n_pieces = 0
        self.waited = 0

    @property
    def numbered(self) -> bool:
        """The numbers of its readouts tell them apart."""
        return self.last > self.first or (self.n_pieces == 1 and self.last > 0)

    def append(self, item: Acquisition) -> list[Acquisition]:
        """Take a readout or a piece of one; return the readouts that are whole now, or will never be."""
        number = item.scan_counter
        self.first = number if self.first < 0 else min(self.first, number)
        self.last = max(self.last, number)
        self.n_pieces += 1
        self.expected.add(item)
        over = self._joining.add(item)
        for whole, present in over:
            self.waiting.append(whole, present)
        return [whole for whole, _ in over]

    def end(self) -> None:
        """Take what lacks pieces: nothing else will come."""
        for whole, present in self._joining.rest():
            self.waiting.append(whole, present)
