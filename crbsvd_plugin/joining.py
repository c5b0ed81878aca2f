"""Readouts that come in pieces, as where an ADC is split, joined again.

The counter `segment` tells which piece one is; all other counters are those of the readout. Pieces are numbered one
after the other (`scan_counter`), and those of a readout are found by that in any order; or they share the number of
their readout, or have none, and then the next readout begins where a piece comes for the second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .mrd_header import kept

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from numpy.typing import NDArray

    Whole = tuple[Acquisition, NDArray[np.bool_] | None]

_OPEN = 64  # readouts that wait for pieces
_LONGEST = 2**16 - 1  # what the head of a readout can say


class Joining:
    """The pieces of the readouts of one image.

    Parameters
    ----------
    n_pieces : int
        Pieces of every readout; 1: they are whole.

    Notes
    -----
    A readout is given away when its last piece has come, whichever that is; or without some, where too many wait or the
    image is over. Its samples are those of the pieces in their order, what they discard not being present. Flags are
    those of any piece, the number is the highest, everything else is what the first piece says: its `center_sample` is
    that of the whole readout.
    """

    def __init__(self, n_pieces: int):
        self._n_pieces = n_pieces
        self._open: dict[tuple[bytes, int], dict[int, Acquisition]] = {}
        self._lengths: dict[int, int] = {}  # of the pieces, by their place
        self._shared: bool | None = None  # pieces share the number of their readout; None: not known yet
        self._first: int | None = None  # number of the first piece

    def add(self, item: Acquisition) -> list[Whole]:
        """Take a piece; return the readouts that are over, each with the samples (S,) that are present, None: all.

        Raises
        ------
        UserError
            Pieces do not make a readout.
        """
        if self._n_pieces == 1:
            return [(item, None)]
        place, number = item.idx.segment, item.scan_counter
        if place >= self._n_pieces:
            raise UserError(
                f"readout {number} is piece {place} (counter 'segment'), expected 0 to {self._n_pieces - 1}: say how "
                "many pieces a readout comes in (--pieces)"
            )
        if self._shared is None and self._first is not None:
            self._shared = number == self._first
            if self._shared:  # the one that waits is filed under a number of its own
                self._open = {(key, number): pieces for (key, _), pieces in self._open.items()}
        self._first = number if self._first is None else self._first
        expected = self._lengths.setdefault(place, item.number_of_samples)
        if item.number_of_samples != expected:
            raise UserError(
                f"readout {number}, piece {place} of one, has {item.number_of_samples} samples, others have "
                f"{expected}: expected the same for all"
            )
        key = _counters(item), number if self._shared else number - place
        waiting = (one for pieces in self._open.values() for one in pieces.values())
        if not self._shared and any(one.scan_counter == number for one in waiting):
            raise UserError(
                f"pieces of readouts share the number {number}, but not the first two pieces; number them one after "
                "the other, or let all pieces of a readout share its number"
            )
        over = []
        if place in self._open.get(key, ()):
            over.append(self._joined(self._open.pop(key)))
        pieces = self._open.setdefault(key, {})
        pieces[place] = item
        if len(pieces) == self._n_pieces:
            over.append(self._joined(self._open.pop(key)))
        elif len(self._open) > _OPEN:
            over.append(self._joined(self._open.pop(next(iter(self._open)))))
        return over

    def rest(self) -> list[Whole]:
        """Return the readouts that lack pieces."""
        found = [self._joined(pieces) for pieces in self._open.values()]
        self._open.clear()
        return found

    def _joined(self, pieces: dict[int, Acquisition]) -> Whole:
        from ismrmrd import Acquisition

        heads = {place: piece.getHead() for place, piece in sorted(pieces.items())}
        axes = sorted({head.trajectory_dimensions for head in heads.values()})
        if len(axes) > 1:
            raise UserError(f"pieces of a readout have trajectories of {axes} dimensions, expected the same for all")
        first, *_ = heads.values()
        edges = np.cumsum([0, *(self._lengths.get(place, 0) for place in range(self._n_pieces))]).tolist()
        if edges[-1] > _LONGEST:
            raise UserError(f"a readout has {edges[-1]} samples in its pieces, expected at most {_LONGEST}")
        data = np.zeros((first.active_channels, edges[-1]), np.complex64)
        traj = np.zeros((edges[-1], first.trajectory_dimensions), np.float32)
        present = np.zeros(edges[-1], bool)
        for place, piece in pieces.items():
            some = kept(piece)
            whole = np.arange(edges[place], edges[place + 1])[some]
            data[:, whole], traj[whole], present[whole] = piece.data[:, some], piece.traj[some], True
        first.number_of_samples, first.discard_pre, first.discard_post = edges[-1], 0, 0
        first.idx.segment = 0
        first.scan_counter = max(one.scan_counter for one in heads.values())
        for one in heads.values():
            first.flags |= one.flags
        return Acquisition(first, data, traj), None if present.all() else present


def _counters(item: Acquisition) -> bytes:
    """Return the counters that the pieces of a readout have in common."""
    idx: Any = type(item.idx).from_buffer_copy(item.idx)
    idx.segment = 0
    return bytes(idx)
