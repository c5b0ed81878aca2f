"""Messages of Gadgetron that hold arrays: buffered readouts, and images with their heads.

An array is its number of axes, its sizes (uint64) and its values, the first axis fastest. Axes are E0 (samples), E1,
E2, CHA, N, S, LOC of readouts, and X, Y, Z, CHA, N, S, LOC of images.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..mrd_header import REVERSE, n_kept
from .messages import Bounded, Id

if TYPE_CHECKING:
    from ismrmrd import Acquisition, AcquisitionHeader, ImageHeader
    from numpy.typing import NDArray

_MAX_AXES = 16
_SAMPLING_BYTES = 56  # 54 and what the compiler adds
_CENTRE = 38  # where in them the centre of E0 is: 2 x 3 float, 2 x 3 uint16, then minimum, centre, maximum


@dataclass(frozen=True)
class ImageArray:
    """Images in one message.

    Parameters
    ----------
    data : complex64 array (X, Y, Z, CHA, N, S, LOC)
        Their pixels.
    heads : list of ismrmrd.ImageHeader
        One for every (N, S, LOC), N fastest.
    meta : list of bytes
        Their Meta, in the same order.
    """

    data: NDArray[np.complex64]
    heads: list[ImageHeader]
    meta: list[bytes]

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.data.nbytes + sum(map(len, self.meta))


def read_recon_data(source: Bounded) -> Iterator[Acquisition]:
    """Yield the readouts of a message RECON_DATA; those for calibration alone are left out.

    Raises
    ------
    UserError
        Its parts do not fit each other, or it is too large.
    """
    for _ in range(_count(source, "readouts")):
        yield from _readouts(*_buffer(source))
        if _flag(source):
            _buffer(source)


def _buffer(source: Bounded) -> tuple[Any, Any, list[AcquisitionHeader], int]:
    """Return data, trajectory or None, heads, and the sample that is the centre of E0."""
    from ismrmrd import AcquisitionHeader

    data = _array(source, np.complex64, "readouts")
    traj = _array(source, np.float32, "a trajectory") if _flag(source) else None
    if _flag(source):
        _array(source, np.float32, "density weights")
    shape, heads = _heads(source, AcquisitionHeader)
    (centre,) = struct.unpack_from("<H", source.read(_SAMPLING_BYTES, what="a sampling description"), _CENTRE)
    if not data.size:
        return data, None, [], 0
    if data.ndim != 7 or shape != data.shape[1:3] + data.shape[4:]:
        raise UserError(
            f"buffered readouts have sizes {data.shape}, their heads {shape}; expected 7 axes, and the same"
        )
    if traj is not None and traj.shape[1:] != (data.shape[0], *shape):
        raise UserError(f"buffered readouts have sizes {data.shape}, their trajectory {traj.shape}")
    return data, traj, heads, centre


def _readouts(data: Any, traj: Any, heads: list[AcquisitionHeader], centre: int) -> Iterator[Acquisition]:
    from ismrmrd import Acquisition

    places = np.ndindex(*(data.shape[1:3] + data.shape[4:])[::-1]) if heads else ()
    for place, head in zip(places, heads, strict=True):
        n_samples = n_kept(head)
        if head.active_channels == 0 or n_samples <= 0:
            continue  # no readout came for this place
        e1, e2, *rest = place[::-1]
        # straight lines lie where the centre is, others at the beginning
        first = 0 if traj is not None else _offset(head, data.shape[0], centre)
        if not 0 <= first <= data.shape[0] - n_samples:
            raise UserError(
                f"readout {head.scan_counter} has {n_samples} samples from {first} on, its buffer {data.shape[0]}; "
                "leave out the gadget that changes their number (RemoveROOversampling)"
            )
        kept = slice(first, first + n_samples)
        samples = np.ascontiguousarray(data[(kept, e1, e2, slice(None), *rest)].T)
        positions = np.zeros((n_samples, 0), np.float32) if traj is None else traj[(slice(None), kept, e1, e2, *rest)].T
        head.number_of_samples, head.active_channels = n_samples, len(samples)
        # of a readout that runs backwards it counts from the other end
        before = head.discard_post if head.flags & REVERSE else head.discard_pre
        head.center_sample = max(head.center_sample - before, 0)
        head.discard_pre = head.discard_post = 0
        head.trajectory_dimensions = positions.shape[1]
        yield Acquisition(head, samples, np.ascontiguousarray(positions))


def _offset(head: AcquisitionHeader, size: int, centre: int) -> int:
    """Return where the samples of a straight line begin, as Gadgetron's BucketToBuffer puts them."""
    if head.number_of_samples == size and head.center_sample == size // 2:
        return int(head.discard_pre)
    return centre - int(head.center_sample)


def read_image_array(source: Bounded) -> ImageArray:
    """Return the images of a message IMAGE_ARRAY.

    Raises
    ------
    UserError
        Its parts do not fit each other, or it is too large.
    """
    from ismrmrd import AcquisitionHeader, ImageHeader

    data = _array(source, np.complex64, "images")
    shape, heads = _heads(source, ImageHeader)
    n_meta = _count(source, "Meta")
    if data.ndim != 7 or shape != data.shape[4:] or n_meta not in (0, len(heads)):
        raise UserError(
            f"images have sizes {data.shape}, their heads {shape} and Meta {n_meta}; expected 7 axes, and the same"
        )
    meta = [source.read(_count(source, "Meta"), what="Meta") for _ in range(n_meta)]
    if _flag(source):
        for _ in range(_count(source, "waveforms")):
            _skip_waveform(source)
    if _flag(source):
        _heads(source, AcquisitionHeader)
    return ImageArray(data, heads, meta)


def image_array_message(images: ImageArray) -> bytes:
    """Return the message IMAGE_ARRAY of images, its number included."""
    shape = images.data.shape
    parts = [struct.pack("<H", Id.IMAGE_ARRAY), _sizes(shape), images.data.tobytes(order="F"), _sizes(shape[4:])]
    parts += [bytes(head) for head in images.heads]
    parts.append(struct.pack("<Q", len(images.meta)))
    for meta in images.meta:
        parts += [struct.pack("<Q", len(meta)), meta]
    return b"".join([*parts, b"\0\0"])  # neither waveforms nor heads of readouts


def _sizes(shape: Sequence[int]) -> bytes:
    return struct.pack(f"<{1 + len(shape)}Q", len(shape), *shape)


def _flag(source: Bounded) -> bool:
    return source.read(1, what="a flag") != b"\0"


def _count(source: Bounded, what: str) -> int:
    (count,) = struct.unpack("<Q", source.read(8, what=what))
    return int(count)


def _shape(source: Bounded, what: str) -> tuple[int, ...]:
    n_axes = _count(source, what)
    if n_axes > _MAX_AXES:
        raise UserError(f"{what}: an array of {n_axes} axes, expected at most {_MAX_AXES}")
    return tuple(_count(source, what) for _ in range(n_axes))


def _array(source: Bounded, dtype: Any, what: str) -> Any:
    shape = _shape(source, what)
    # the first axis is the fastest; an empty one has no axes
    return source.array(shape[::-1] or (0,), dtype, what=what).T


def _heads(source: Bounded, kind: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Return sizes and entries of an array of heads, the first axis fastest."""
    shape = _shape(source, "heads")
    size = ctypes.sizeof(kind)
    n_heads = int(np.prod(shape, dtype=object)) if shape else 0
    content = source.read(n_heads * size, what="heads")
    return shape, [kind.from_buffer_copy(content, i * size) for i in range(n_heads)]


def _skip_waveform(source: Bounded) -> None:
    from ismrmrd import WaveformHeader

    # gadgetron-python puts a message number before each, and such arrays cannot be told apart: they are not read
    head = WaveformHeader.from_buffer_copy(source.read(ctypes.sizeof(WaveformHeader), what="a waveform"))
    source.read(4 * head.channels * head.number_of_samples, what="a waveform")
