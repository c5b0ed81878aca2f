"""Messages of a stream: read with bounds, and written."""

from __future__ import annotations

import ctypes
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .channel import Channel

if TYPE_CHECKING:
    from ismrmrd import Acquisition
    from numpy.typing import NDArray

TEXT_LIMIT = 2**24
"""Largest header or other text [bytes]."""
MESSAGE_LIMIT = 2**30
"""Largest message of any other kind [bytes]."""


class Id(IntEnum):
    """Numbers of messages; those from ERROR on that are not in `ismrmrd` are Gadgetron's."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ERROR = 8
    ACQUISITION = 1008
    IMAGE = 1022
    RECON_DATA = 1023
    IMAGE_ARRAY = 1024
    WAVEFORM = 1026


@dataclass(frozen=True)
class Text:
    """A message that is text: config, header, or anything.

    Parameters
    ----------
    id : Id
        Which of them.
    content : bytes
        The text, without the NULs at its end.
    nul : bool
        It had some: the peer is one that ends its texts with them.
    """

    id: Id
    content: bytes
    nul: bool

    def __str__(self) -> str:
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"a text from the host is not UTF-8 ({error.reason}); send it as such") from None


@dataclass(frozen=True)
class Foreign:
    """A message that is not for us: an image, or a waveform.

    Parameters
    ----------
    content : bytes
        All of it, number included, ready to be sent on; empty if it was not wanted.
    id : Id
        Its number.
    """

    content: bytes
    id: Id


class Reader:
    """The messages of a stream, up to its CLOSE.

    Parameters
    ----------
    channel : Channel
        Where they come from.
    limit : int
        Largest message [bytes].
    keep_images : bool
        Keep images whole, to send them on.

    Attributes
    ----------
    max_coils : int, optional
        More coils than that are refused in an acquisition; None: any number. The header of the scan says it.
    """

    def __init__(self, channel: Channel, *, limit: int = MESSAGE_LIMIT, keep_images: bool = False):
        self.max_coils: int | None = None
        self._channel = channel
        self._limit = limit
        self._keep_images = keep_images

    def __iter__(self) -> Iterator[Any]:
        """Yield Text, ismrmrd.Acquisition, `arrays.ImageArray` and Foreign.

        Raises
        ------
        UserError
            The stream ends before its CLOSE, a message is unknown, too large, or not what it says.
        """
        from .arrays import read_image_array, read_recon_data

        texts: dict[int, Callable[[], bytes]] = {
            Id.CONFIG_FILE: lambda: self._channel.read(1024), Id.CONFIG_TEXT: self._text, Id.HEADER: self._text,
            Id.TEXT: self._text,
        }  # fmt: skip
        while (number := self._channel.next_id()) != Id.CLOSE:
            if number in texts:
                content = texts[number]()
                # the name of a file is filled up with NULs whoever sends it
                nul = content.endswith(b"\0") and number != Id.CONFIG_FILE
                yield Text(Id(number), content.rstrip(b"\0"), nul)
            elif number == Id.ACQUISITION:
                yield self._acquisition()
            elif number == Id.RECON_DATA:
                yield from read_recon_data(Bounded(self._channel, self._limit))
            elif number == Id.IMAGE_ARRAY:
                yield read_image_array(Bounded(self._channel, self._limit))
            elif number == Id.IMAGE:
                yield Foreign(self._image(), Id.IMAGE)
            elif number == Id.WAVEFORM:
                self._skip_waveform()
                yield Foreign(b"", Id.WAVEFORM)
            else:
                known = ", ".join(f"{known.value} ({known.name})" for known in Id if known != Id.ERROR)
                raise UserError(f"message {number} is unknown, expected one of {known}; is this an ISMRMRD stream?")

    def _text(self) -> bytes:
        (length,) = struct.unpack("<I", self._channel.read(4))
        if length > TEXT_LIMIT:
            raise UserError(f"a text of {length} bytes is announced, expected at most {TEXT_LIMIT}")
        return self._channel.read(length)

    def _acquisition(self) -> Acquisition:
        from ismrmrd import Acquisition, AcquisitionHeader

        head = AcquisitionHeader.from_buffer_copy(self._channel.read(ctypes.sizeof(AcquisitionHeader)))
        n_coils, n_samples, n_axes = head.active_channels, head.number_of_samples, head.trajectory_dimensions
        bounded = Bounded(self._channel, self._limit)
        n_bytes = 4 * n_samples * n_axes + 8 * n_coils * n_samples
        what = f"readout {head.scan_counter}"
        if self.max_coils is not None and n_coils > self.max_coils:
            raise UserError(f"{what} has {n_coils} coils, the header says {self.max_coils} (receiverChannels)")
        if head.discard_pre + head.discard_post > n_samples:
            raise UserError(f"{what} is to lose {head.discard_pre} and {head.discard_post} of its {n_samples} samples")
        bounded.check(n_bytes, what)  # both, before the first is read
        traj = bounded.array((n_samples, n_axes), np.float32, what=what)
        data = bounded.array((n_coils, n_samples), np.complex64, what=what)
        return Acquisition(head, data, traj)

    def _image(self) -> bytes:
        from ismrmrd import ImageHeader

        head = self._channel.read(ctypes.sizeof(ImageHeader))
        length = self._channel.read(8)
        (n_meta,) = struct.unpack("<Q", length)
        fields = ImageHeader.from_buffer_copy(head)
        size = _PIXEL_BYTES.get(fields.data_type)
        if size is None:
            raise UserError(f"an image has pixels of type {fields.data_type}, expected 1 to 8")
        n_pixels = fields.channels * int(np.prod(fields.matrix_size[:], dtype=object))
        n_bytes = Bounded(self._channel, self._limit).claim(n_meta + n_pixels * size, "an image")
        if not self._keep_images:
            self._channel.skip(n_bytes)
            return b""
        return struct.pack("<H", Id.IMAGE) + head + length + self._channel.read(n_bytes)

    def _skip_waveform(self) -> None:
        from ismrmrd import WaveformHeader

        head = WaveformHeader.from_buffer_copy(self._channel.read(ctypes.sizeof(WaveformHeader)))
        n_bytes = 4 * head.channels * head.number_of_samples
        self._channel.skip(Bounded(self._channel, self._limit).claim(n_bytes, "a waveform"))


# as they are on the wire: `ismrmrd` takes type 4, int32, for int64
_PIXEL_BYTES = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4, 6: 8, 7: 8, 8: 16}


class Bounded:
    """The body of one message, whose parts together may not be larger than a limit.

    Parameters
    ----------
    channel : Channel
        Where it comes from.
    limit : int
        Bytes that it may have.
    """

    def __init__(self, channel: Channel, limit: int):
        self._channel = channel
        self._limit = self._left = limit

    def check(self, n_bytes: int, what: str) -> None:
        """Refuse so many bytes if they are not left, before anything is allocated."""
        if n_bytes > self._left:
            raise UserError(f"{what} announces {n_bytes} bytes, a message may have {self._limit} (--max-message)")

    def claim(self, n_bytes: int, what: str) -> int:
        """Return `n_bytes`, which from here on are taken; refuse them as `check` does."""
        self.check(n_bytes, what)
        self._left -= n_bytes
        return n_bytes

    def read(self, n_bytes: int, *, what: str) -> bytes:
        """Return so many bytes."""
        return self._channel.read(self.claim(n_bytes, what))

    def array(self, shape: tuple[int, ...], dtype: Any, *, what: str) -> Any:
        """Return an array in C order."""
        dtype = np.dtype(dtype)
        # numpy refuses even an empty array whose other sizes are too large
        self.check(int(np.prod([max(n, 1) for n in shape], dtype=object)) * dtype.itemsize, what)
        self.claim(int(np.prod(shape, dtype=object)) * dtype.itemsize, what)
        array: NDArray[Any] = np.empty(shape, dtype)
        if array.size:
            self._channel.read_into(array.data.cast("B"))
        return array


def message(item: Any) -> bytes:
    """Return a message of `ismrmrd`: an Acquisition or Image, its number included."""
    from ismrmrd import ProtocolSerializer

    stream = io.BytesIO()
    ProtocolSerializer(stream).serialize(item)
    return stream.getvalue()


def text_message(number: Id, content: bytes) -> bytes:
    """Return a message that is text; only that of an error has a length of 8 bytes."""
    return struct.pack("<HQ" if number == Id.ERROR else "<HI", number, len(content)) + content


CLOSE = struct.pack("<H", Id.CLOSE)
