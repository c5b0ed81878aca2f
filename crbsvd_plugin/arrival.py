"""Which readouts of a stream belong together, which came twice, which are missing, and which images are complete.

Readouts may come in any order. An image is complete at the end of the stream, or before that where `ends` says so: at
the flag for the last readout of the measurement, the slice, ... or when the next image begins. Readouts have numbers
(`scan_counter`); where some between the lowest that has come and the last one are missing, they may only be late, and
are waited for as long as those that come fill gaps. Where all numbers of an image are alike, gaps are frames and shots
without a readout.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .compression import CalibrationScans
from .counters import Counters
from .ends import End, Key, ended
from .errors import UserError
from .mrd_header import geometry_of, kept, noise_bandwidth
from .noise import Noise, NoiseScans
from .numbers import Numbers, identity
from .positions import Source
from .readouts import CALIBRATION_FLAGS, NOISE_FLAG, VIRTUAL, Group, is_imaging
from .roles import Roles
from .stack import BLOCK_BYTES
from .tally import Tally
from .waiting import Waiting

if TYPE_CHECKING:
    from ismrmrd import Acquisition

logger = logging.getLogger(__name__)

_PATIENCE = 64  # readouts that fill no gap, until those that are missing are given up
_IMPATIENT = 32  # so many times smaller are batches where readouts shall not wait for long
_WAITING = 2**28  # bytes of the samples of all images that wait to be cut


@dataclass(frozen=True)
class Arrival:
    """What has come of an image.

    Parameters
    ----------
    image : Waiting
        The image.
    box : list of Group
        Its readouts since the last time, if there are any: whoever empties it has the only ones.
    urgent : bool
        They shall not wait for others.
    complete : bool
        These are the last ones.
    received : dict of str to int
        Of a complete image: readouts that were ``used``, that came ``twice`` and were left out, that are ``missing``
        between the first and the last, of this image or another one (without numbers: frames and shots that have
        none), and of those used the ``partial`` ones, which
        have fewer samples than others. Where readouts come in pieces, these are what came twice or is missing.
    """

    image: Waiting
    box: list[Group]
    urgent: bool = False
    complete: bool = False
    received: dict[str, int] = field(default_factory=dict)


class Arrivals:
    """The readouts of a stream, sorted.

    Parameters
    ----------
    source : Source
        MRD header, and where positions come from.
    n_frames : int
        Number of frames T of the basis.
    roles : Roles
        The role of every counter.
    ends : sequence of str
        What completes an image before the end of the stream, see `ends.ended`.
    noise : str
        Where data are prewhitened, see `NoiseScans`.
    n_pieces : int
        Pieces that a readout comes in, see `joining`.
    calibrates : bool
        Calibration readouts say what the coils see. What has come of them with readout 256 of an image goes with it.

    Attributes
    ----------
    noise : NoiseScans
        The noise scans that have come.
    """

    def __init__(
        self,
        source: Source,
        *,
        n_frames: int,
        roles: Roles,
        ends: Iterable[End] = (),
        noise: Noise = "scan",
        n_pieces: int = 1,
        calibrates: bool = False,
    ):
        self.noise = NoiseScans(noise_bandwidth(source.header) or 1.0, source=noise)
        self._source, self._roles, self._n_pieces = source, roles, n_pieces
        self._calibration = CalibrationScans() if calibrates else None
        self._counters = Counters(source.header, n_frames=n_frames, roles=roles, n_pieces=n_pieces)
        self._ends = tuple(ends)
        self._open: dict[Key, Tally] = {}
        self._closed: set[Key] = set()
        self._numbers = Numbers()
        self._seen: set[bytes] = set()
        self._twice = self._late = self._n_imaging = self._n_noise = 0
        self._n_coils: int | None = None

    @property
    def images(self) -> list[Waiting]:
        """The images that have begun and are not complete, in the order of their counters."""
        return [self._open[key].waiting for key in sorted(self._open)]

    def sorted(self, items: Iterable[Acquisition], *, patience: float | None = None) -> Iterator[Arrival]:
        """Yield what has come of every image, a batch at a time.

        Parameters
        ----------
        items : iterable of Acquisition
            The stream.
        patience : float, optional
            How long a readout waits for others at most, while readouts come [s]. None: until there are enough.

        Raises
        ------
        UserError
            There is nothing to reconstruct, frames do not fit the basis, a counter varies without a role, or what
            `Waiting.cut` raises for.
        """
        since, block = time.monotonic(), BLOCK_BYTES if patience is None else BLOCK_BYTES // _IMPATIENT
        for item in items:
            image, over = self._take(item)
            if image is not None:
                if image.waiting.nbytes >= block:
                    yield Arrival(image.waiting, [image.waiting.cut()])
                elif sum(one.waiting.nbytes for one in self._open.values()) >= _WAITING:
                    most = max(self._open.values(), key=lambda one: one.waiting.nbytes)
                    yield Arrival(most.waiting, [most.waiting.cut()])
            if patience is not None and time.monotonic() - since > patience:
                for one in list(self._open.values()):
                    yield Arrival(one.waiting, [] if one.waiting.empty else [one.waiting.cut()], urgent=True)
                since = time.monotonic()
            yield from self._completed(item, over)
        if not self._n_imaging:
            raise UserError(
                f"raw data hold no imaging readouts ({self._n_noise} noise readouts), expected some to reconstruct"
            )
        self._counters.close()
        for key in sorted(self._open):
            yield self._close(key)
        if self._late:
            logger.warning("%d readouts came after their image was complete, and are left out", self._late)

    def _take(self, item: Acquisition) -> tuple[Tally | None, list[Acquisition]]:
        """Give a readout, or a piece of one, to its image.

        Return the image, None if it is not part of one, came twice or too late; and the readouts that are whole now.
        """
        self._numbers.add(item.scan_counter)
        if item.is_flag_set(NOISE_FLAG):
            self._n_noise += 1
            if not self.noise.upstream:
                self._check_coils(item)
            self.noise.add(item.data, float(item.sample_time_us))
            return None, []
        if not is_imaging(item):
            self._calibrate(item)
            return None, []
        if not item.data.size:  # at once: of a damaged table there may be billions
            raise UserError(f"readout {item.scan_counter} holds no samples; the file is damaged, write it again")
        key = self._roles.key(item)
        image = self._open.get(key)
        known = identity(item)
        if known in self._seen:
            self._twice += 1
            if image is not None:
                image.twice += 1
            return None, []
        if key in self._closed:
            self._late += 1
            return None, []
        self._check_coils(item)
        self._calibrate(item)
        self._counters.check(item)
        self._seen.add(known)
        self._n_imaging += 1
        if image is None:
            named = dict(zip(self._roles.groups, key, strict=True))
            waiting = Waiting(
                self._source, named, counter=self._roles.frame,
                geometry=geometry_of(self._source.header, item),
            )  # fmt: skip
            image = self._open[key] = Tally(waiting, self._n_pieces, self._counters.expected(item.encoding_space_ref))
        over = image.append(item)
        if image.waiting.n_readouts >= VIRTUAL:
            self._calibrated(image)
        return image, over

    def _calibrate(self, item: Acquisition) -> None:
        if self._calibration is not None and any(item.is_flag_set(flag) for flag in CALIBRATION_FLAGS):
            self._check_coils(item)
            self._calibration.add(item.data[:, kept(item)], item.idx.slice)

    def _calibrated(self, image: Tally) -> None:
        """Settle what is known of the coils of an image, unless that has been done."""
        if self._calibration is not None and not image.calibrated:
            image.calibrated = True
            image.waiting.calibration = self._calibration.of(image.waiting.key.get("slice"))

    def _check_coils(self, item: Acquisition) -> None:
        n_coils = len(item.data)
        if self._n_coils not in (None, n_coils):
            raise UserError(
                f"readouts have {sorted((self._n_coils or 0, n_coils))} coils, noise scan included, expected the same "
                "number everywhere"
            )
        self._n_coils = n_coils

    def _completed(self, item: Acquisition, over: list[Acquisition]) -> Iterator[Arrival]:
        """Yield the images that are complete with this item, which made some readouts of its image whole."""
        for whole in over:
            for key in ended(whole, self._roles.key(whole), self._open, ends=self._ends, roles=self._roles):
                one = self._open.get(key)
                if one is not None and one.missing is None:
                    one.missing = self._missing(one, self._numbers.base, whole.scan_counter)
                    one.ended = whole.scan_counter
        for key, one in list(self._open.items()):
            if one.missing is None:
                continue
            filled = self._numbers.new and self._numbers.base < item.scan_counter < one.ended
            if one.missing and (filled or not one.numbered):
                still = one.missing - 1 if one.numbered else one.expected.missing
                one.missing, one.waited = still, 0 if still < one.missing else one.waited
            if not one.missing or one.waited >= _PATIENCE:
                self._numbers.give_up(one.ended)
                yield self._close(key)
            one.waited += 1

    def _close(self, key: Key) -> Arrival:
        image = self._open.pop(key)
        self._closed.add(key)
        image.end()
        self._calibrated(image)
        received = {
            "used": image.waiting.n_readouts,
            "twice": image.twice,
            "missing": self._missing(image, image.first, image.last),
            "partial": image.waiting.n_partial,
        }
        if any((received["twice"], received["missing"], received["partial"])):
            logger.warning(
                "image %s: %d readouts; %d that came twice are left out, %d %s are missing, %d have fewer samples than "
                "others", image.waiting.key, received["used"], received["twice"], received["missing"],
                "between the first and the last" if image.numbered else "that frames and shots should have",
                received["partial"],
            )  # fmt: skip
        return Arrival(image.waiting, image.waiting.last(), complete=True, received=received)

    def _missing(self, image: Tally, first: int, last: int) -> int:
        return self._numbers.missing(first, last) if image.numbered else image.expected.missing
