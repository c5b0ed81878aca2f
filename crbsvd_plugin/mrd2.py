"""Streams of MRD version 2 (the package mrd-python) on the same work as those of version 1.

The streams hold the same things under other names: they are turned into those of version 1, and images back.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import struct
import types
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .errors import UserError
from .settings import Online
from .work import recon

if TYPE_CHECKING:
    from ismrmrd import Acquisition, Image
    from ismrmrd.xsd import ismrmrdHeader

logger = logging.getLogger(__name__)

_MAX_COUNTER = 2**16 - 1
# what its reader raises for bytes that are none of its streams
_DAMAGE = (
    EOFError,
    BufferError,
    RuntimeError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
)


def run(source: BinaryIO, sink: BinaryIO, config: Online) -> None:
    """Reconstruct a stream; write its header and the images, and an end only if all went well.

    Raises
    ------
    UserError
        mrd-python is missing, or the stream is damaged or does not fit.
    """
    mrd = _package()
    with _damage_told():
        reader = mrd.BinaryMrdReader(source)
        header = reader.read_header()
    if header is None:
        raise UserError("the stream has no header, expected one before the data")
    writer = mrd.BinaryMrdWriter(sink)
    writer.write_header(header)
    for images in recon(header_of(header), _readouts(reader.read_data()), config, _silent):
        writer.write_data([stream_item(image) for image in images])
        sink.flush()
    writer.close()
    sink.flush()


def _package() -> Any:
    try:
        import mrd
    except ImportError:
        raise UserError(
            "MRD version 2 needs the package mrd-python on Python 3.12 or newer: pip install 'crbsvd-plugin[mrd2]'"
        ) from None
    return mrd


def _silent(stage: str, done: int, _total: int) -> None:
    if done == 0:
        logger.info("%s", stage)


@contextmanager
def _damage_told() -> Iterator[None]:
    """Turn what the reader raises for bytes that are none of its streams into a message."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(
            f"standard input is no whole stream of MRD version 2 ({type(error).__name__}: {error}); "
            "was it written by mrd-python 2.2?"
        ) from None


def _readouts(items: Iterable[Any]) -> Iterator[Acquisition]:
    left_out: set[str] = set()
    stream = iter(items)
    while True:
        with _damage_told():
            item = next(stream, None)
        if item is None:
            return
        kind = item.tag
        if kind == "acquisition":
            yield readout(item.value)
        elif kind in ("reconData", "acquisitionBucket", "imageArray"):
            raise UserError(f"the stream holds a {kind}, expected readouts; mend what makes it")
        elif kind not in left_out:
            left_out.add(kind)
            logger.warning("items of the kind %s are left out", kind)


def readout(item: Any) -> Acquisition:
    """Return a readout of version 1 of one of version 2.

    Trajectories are taken in both orders that programs write, (axes, samples) as the standard says, and (samples, axes)
    as ``ismrmrd_to_mrd`` does; what is as long as the data are samples.

    Raises
    ------
    UserError
        Data and trajectory do not fit, a counter is too large for version 1, or there are phase offsets.
    """
    from ismrmrd import Acquisition, AcquisitionHeader

    given = item.head
    name = f"readout {given.scan_counter}"
    if item.phase is not None and np.any(item.phase):
        raise UserError(f"{name} has phase offsets, which are not supported; apply them to the data")
    data = np.ascontiguousarray(item.data, np.complex64)
    traj = np.asarray(item.trajectory, np.float32)
    if not traj.size:
        traj = np.zeros((data.shape[1], 0), np.float32)
    elif traj.shape[1] == data.shape[1]:
        traj = traj.T
    elif traj.shape[0] != data.shape[1]:
        raise UserError(f"{name} has {data.shape[1]} samples, its trajectory the sizes {traj.shape}; write it again")
    head = AcquisitionHeader(version=1, flags=int(given.flags), measurement_uid=given.measurement_uid)
    numbers = {"number_of_samples": data.shape[1], "active_channels": len(data), "trajectory_dimensions": traj.shape[1]}
    numbers["available_channels"] = len(data)
    for field in ("discard_pre", "discard_post", "center_sample", "encoding_space_ref"):
        numbers[field] = getattr(given, field) or 0
    for place, found in (
        (head, numbers),
        (head.idx, {counter: getattr(given.idx, counter) or 0 for counter in _COUNTERS}),
    ):
        for field, value in found.items():
            if value > _MAX_COUNTER:
                raise UserError(f"{name}: {field} is {value}, expected at most {_MAX_COUNTER}")
            setattr(place, field, value)
    head.scan_counter = given.scan_counter or 0
    head.sample_time_us = (given.sample_time_ns or 0) / 1000
    head.acquisition_time_stamp = _milliseconds(given.acquisition_time_stamp_ns)
    for i, stamp in enumerate(given.physiology_time_stamp_ns[: len(head.physiology_time_stamp)]):
        head.physiology_time_stamp[i] = _milliseconds(stamp)
    for field in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position"):
        getattr(head, field)[:] = getattr(given, field)
    for field in ("user_int", "user_float"):
        values = getattr(given, field)[: len(getattr(head, field))]
        getattr(head, field)[: len(values)] = values
    return Acquisition(head, data, np.ascontiguousarray(traj))


_COUNTERS = (
    "kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set",
    "segment",
)  # fmt: skip


def _milliseconds(nanoseconds: int | None) -> int:
    # a clock is none of the numbers that must be right: version 1 has 32 bits for it
    return (nanoseconds or 0) // 1_000_000 % 2**32


def stream_item(image: Image) -> Any:
    """Return an image of version 1 as an item of a stream of version 2."""
    mrd = _package()
    given = image.getHead()
    head = mrd.ImageHeader(
        measurement_uid=given.measurement_uid, image_type=mrd.ImageType(given.image_type),
        col_dir=np.array(given.read_dir, np.float32), line_dir=np.array(given.phase_dir, np.float32),
        acquisition_time_stamp_ns=given.acquisition_time_stamp * 1_000_000,
        physiology_time_stamp_ns=[stamp * 1_000_000 for stamp in given.physiology_time_stamp],
        user_int=list(given.user_int), user_float=list(given.user_float),
        **{name: np.array(getattr(given, name), np.float32) for name in _VECTORS},
        **{name: getattr(given, name) for name in _NUMBERS},
    )  # fmt: skip
    kind = {"uint16": "Uint16", "float32": "Float", "complex64": "ComplexFloat"}[image.data.dtype.name]
    meta = {
        name: [mrd.ImageMetaValue.String(str(value)) for value in (values if isinstance(values, list) else [values])]
        for name, values in image.meta.items()
    }
    return getattr(mrd.StreamItem, f"Image{kind}")(mrd.Image(head=head, data=image.data, meta=meta))


_VECTORS = ("field_of_view", "position", "slice_dir", "patient_table_position")
_NUMBERS = ("average", "slice", "contrast", "phase", "repetition", "set", "image_index", "image_series_index")


def header_of(header: Any) -> ismrmrdHeader:
    """Return a header of version 1 of one of version 2, as far as both have the same elements.

    They have them under names that differ in capitals and ``_`` only, so that no list of them is needed; dates and
    times, which nothing here asks for, are left out.
    """
    from ismrmrd.xsd import ismrmrdHeader

    found: ismrmrdHeader = _converted(header, ismrmrdHeader)
    return found


def _converted(value: Any, kind: Any) -> Any:
    """Return a value of version 2 as one of a type of version 1, or None if there is no such."""
    kinds = [part for part in typing.get_args(kind) if part is not types.NoneType] if _is_union(kind) else [kind]
    kind = kinds[0]
    if value is None:
        return None
    if typing.get_origin(kind) is list:
        parts = [_converted(part, typing.get_args(kind)[0]) for part in value]
        return [part for part in parts if part is not None]
    if dataclasses.is_dataclass(kind):
        given = {_plain(name): part for name, part in vars(value).items()}
        hints = typing.get_type_hints(kind)
        fields = [field for field in dataclasses.fields(kind) if field.init]
        found = {field.name: _converted(given.get(_plain(field.name)), hints[field.name]) for field in fields}
        # what has a default there keeps it: a list that is not there is empty
        defaults = {field.name for field in fields if dataclasses.MISSING is not field.default_factory}
        build: Any = kind
        return build(**{name: part for name, part in found.items() if part is not None or name not in defaults})
    if isinstance(value, enum.Enum):
        return next((member for member in kind if _plain(member.name) == _plain(value.name)), None)
    return kind(value) if kind in (int, float, str) else None


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
