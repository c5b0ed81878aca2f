"""Whether the counters of a stream are those that the header and the basis speak of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .errors import UserError
from .mrd_header import limits
from .numbers import Expected
from .roles import COUNTERS, Roles

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from ismrmrd.xsd import ismrmrdHeader

logger = logging.getLogger(__name__)


class Counters:
    """The counters of the readouts that have come.

    Parameters
    ----------
    header : ismrmrdHeader
        MRD header.
    n_frames : int
        Number of frames T of the basis.
    roles : Roles
        The role of every counter.
    n_pieces : int
        Pieces of every readout, which the counter ``segment`` tells apart.

    Raises
    ------
    UserError
        There are pieces, but ``segment`` has another role, or other limits.
    """

    def __init__(self, header: ismrmrdHeader, *, n_frames: int, roles: Roles, n_pieces: int = 1):
        self._header, self._n_frames, self._roles, self._n_pieces = header, n_frames, roles, n_pieces
        self._largest = -1
        self._values: dict[str, int] = {}  # of counters without a role
        self._limits: dict[int, dict[str, tuple[int, int]]] = {}  # by encoding
        if n_pieces > 1:
            if "segment" in (roles.frame, *roles.groups):
                raise UserError("counter 'segment' tells pieces of readouts, it cannot be the frame or a group too")
            told = self._told(0).get("segment")
            if told is not None and told[1] + 1 != n_pieces:
                raise UserError(
                    f"readouts shall come in {n_pieces} pieces, but the header has segments up to {told[1]}: say "
                    f"--pieces {told[1] + 1}, or mend the header"
                )

    def check(self, item: Acquisition) -> None:
        """Note the counters of a readout.

        Raises
        ------
        UserError
            Frames do not fit the basis, a group counter leaves the limits in the header, or a counter varies without
            a role.
        """
        roles, counter = self._roles, self._roles.frame
        self._largest = max(self._largest, getattr(item.idx, counter))
        told = self._told(item.encoding_space_ref).get(counter)
        n_data = max(self._largest, told[1] if told is not None else 0) + 1
        if n_data > self._n_frames or (told is not None and n_data != self._n_frames):
            raise UserError(
                f"raw data have {n_data} frames (counter {counter!r}), the basis has {self._n_frames}: "
                "take the basis of this sequence, or name the counter of the frames (--frame)"
            )
        for name in roles.groups:
            # every value is an image, with sums of its own; converters write 0 to 0 where they know nothing
            low, high = self._told(item.encoding_space_ref).get(name, (0, 2**16))
            if high and not low <= getattr(item.idx, name) <= high:
                raise UserError(
                    f"readout {item.scan_counter} has {name} {getattr(item.idx, name)}, the limits in the header are "
                    f"{low} to {high}: mend one of them"
                )
        for other in COUNTERS:
            if other not in (counter, *roles.shots, *roles.groups) and (other != "segment" or self._n_pieces == 1):
                value = getattr(item.idx, other)
                if self._values.setdefault(other, value) != value:
                    raise UserError(
                        f"counter {other!r} takes 2 values or more in the raw data but has no role: "
                        "name it among the shots (summed) or the groups (apart)"
                    )

    def expected(self, encoding: int) -> Expected:
        """Return the readouts that an image should have: all frames of the basis in all shots that the header tells of.

        Encoding steps and segments are left out: they need not go through all frames.
        """
        told = self._told(encoding)
        shots = [name for name in self._roles.shots if not name.startswith(("kspace", "segment")) and name in told]
        return Expected({self._roles.frame: (0, self._n_frames - 1)} | {name: told[name] for name in shots})

    def close(self) -> None:
        """Say what is missing, once all readouts are there."""
        if self._largest + 1 < self._n_frames:
            logger.warning(
                "raw data have readouts of %d frames only, the basis has %d", self._largest + 1, self._n_frames
            )

    def _told(self, encoding: int) -> dict[str, tuple[int, int]]:
        """Return the limits in the header, under the names that readouts have for counters."""
        if encoding not in self._limits:
            # readouts say "encode" where the header says "encoding"
            told = limits(self._header, encoding)
            self._limits[encoding] = {name.replace("encoding", "encode"): pair for name, pair in told.items()}
        return self._limits[encoding]
