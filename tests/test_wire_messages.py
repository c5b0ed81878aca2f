"""Messages of streams: the same bytes as ismrmrd's, bounds, and what happens to bytes that are none."""

from __future__ import annotations

import io
import itertools
import os
import random
import resource
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import ismrmrd
import numpy as np
import pytest
from ismrmrd import ConfigFile, ConfigText
from mrd_stream import header, readout
from wire_case import packed

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.wire.arrays import ImageArray, image_array_message
from crbsvd_plugin.wire.channel import Channel
from crbsvd_plugin.wire.drain import Drain
from crbsvd_plugin.wire.messages import CLOSE, Bounded, Foreign, Id, Reader, Text, message, text_message


def channel_of(content: bytes) -> Channel:
    """Return a channel that reads these bytes from a file."""
    descriptor = os.memfd_create("stream")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    channel = Channel(descriptor, io.BytesIO())
    _open.append(descriptor)
    return channel


_open: list[int] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _open:
        os.close(_open.pop())


def read(content: bytes, **options: Any) -> list[Any]:
    try:
        return list(Reader(channel_of(content), **options))
    finally:
        while _open:
            os.close(_open.pop())


def some_readouts(rng: np.random.Generator, n: int = 5) -> list[Any]:
    found = []
    for number in range(n):
        n_coils, n_samples, n_axes = rng.integers(1, 6), rng.integers(1, 40), rng.integers(0, 4)
        data = rng.standard_normal((n_coils, n_samples)) + 1j * rng.standard_normal((n_coils, n_samples))
        traj = rng.standard_normal((n_samples, n_axes)).astype(np.float32)
        found.append(readout(data, traj, scan_counter=number, contrast=number, discard_pre=int(n_samples > 3)))
    return found


def an_image(dtype: Any = np.float32) -> Any:
    image = ismrmrd.Image.from_array(np.arange(2 * 3 * 5).reshape(1, 2, 3, 5).astype(dtype), transpose=False)
    image.meta = {"Name": "5 µs"}
    return image


def a_waveform() -> Any:
    return ismrmrd.Waveform.from_array(np.arange(12, dtype=np.uint32).reshape(3, 4))


def test_what_ismrmrd_writes_is_read(rng: np.random.Generator) -> None:
    readouts = some_readouts(rng)
    made = header((4, 4, 1), 5)
    opening = (ConfigFile("crbsvd"), ConfigText("<configuration/>"), made, "{}")
    content = packed(*opening, *readouts, a_waveform(), an_image())
    file, config, document, text, *items = read(content)
    assert [one.id for one in (file, config, document, text)] == [1, 2, 3, 5]
    assert (str(file), str(config), str(document), str(text)) == ("crbsvd", "<configuration/>", made.toXML(), "{}")
    assert items[:-2] == readouts
    assert items[-2:] == [Foreign(b"", Id.WAVEFORM), Foreign(b"", Id.IMAGE)]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.complex128])
def test_images_that_are_kept_are_whole(dtype: Any) -> None:
    content = packed(an_image(dtype))
    assert read(content, keep_images=True) == [Foreign(content[:-2], Id.IMAGE)]


def test_int32_images_have_four_bytes(rng: np.random.Generator) -> None:
    """Ismrmrd takes them for int64."""
    image = bytearray(packed(an_image(np.float32), close=False))
    struct.pack_into("<H", image, 2 + 2, 4)
    last = some_readouts(rng, 1)
    assert read(bytes(image) + packed(*last)) == [Foreign(b"", Id.IMAGE), *last]


def test_texts_with_nuls() -> None:
    content = text_message(Id.CONFIG_TEXT, b"abc\0") + text_message(Id.HEADER, b"<a/>\0\0") + CLOSE
    assert read(content) == [Text(Id.CONFIG_TEXT, b"abc", True), Text(Id.HEADER, b"<a/>", True)]


def test_what_we_write_ismrmrd_reads(rng: np.random.Generator) -> None:
    items = [*some_readouts(rng), an_image()]
    stream = io.BytesIO(b"".join(message(item) for item in items) + text_message(Id.TEXT, "µ".encode()) + CLOSE)
    *found, text = ismrmrd.ProtocolDeserializer(stream).deserialize()
    assert found == items
    assert text == "µ"
    assert not stream.read()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "without a CLOSE"),
        (b"\x05", "in the middle"),
        (struct.pack("<H", 77), "message 77 is unknown"),
        (struct.pack("<H", 6), "message 6 is unknown"),
        (struct.pack("<HI", 3, 2**24 + 1), "16777217 bytes"),
        (struct.pack("<HI", 5, 100) + b"short", "after 5 of 100 bytes"),
        (struct.pack("<H", 1) + b"name", "after 4 of 1024 bytes"),
        (struct.pack("<HQQQ", 1023, 1, 1, 2**62), "announces"),
        (struct.pack("<HQQ", 1024, 17, 1), "17 axes"),
        (struct.pack("<HQQQ", 1024, 2, 0, 2**62), "announces"),
        (struct.pack("<HQ", 1023, 2**64 - 1), "in the middle"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_stream(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(content)


def acquisition_bytes(**fields: Any) -> bytes:
    head = ismrmrd.AcquisitionHeader()
    for name, value in fields.items():
        setattr(head, name, value)
    return struct.pack("<H", 1008) + bytes(head)


def test_sizes_are_refused_before_anything_is_allocated() -> None:
    huge = acquisition_bytes(number_of_samples=65535, active_channels=65535, trajectory_dimensions=3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"announces 34359476220 bytes, a message may have 1073741824"):
        read(huge)
    head = ismrmrd.ImageHeader()
    head.data_type, head.channels, head.matrix_size = 8, 65535, (65535,) * 3
    with pytest.raises(UserError, match="an image announces"):
        read(struct.pack("<H", 1022) + bytes(head) + struct.pack("<Q", 2**63))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**14  # KiB


def test_more_coils_than_the_header_says() -> None:
    content = packed(readout(np.ones((5, 4)), scan_counter=7))
    reader = Reader(channel_of(content))
    reader.max_coils = 4
    with pytest.raises(UserError, match=r"readout 7 has 5 coils, the header says 4 \(receiverChannels\)"):
        list(reader)


def test_discards_that_leave_less_than_nothing() -> None:
    content = packed(readout(np.ones((2, 4)), discard_pre=3, discard_post=2))
    with pytest.raises(UserError, match="lose 3 and 2 of its 4 samples"):
        read(content)


def test_parts_of_a_message_count_together() -> None:
    bounded = Bounded(channel_of(bytes(100)), 10)
    assert bounded.read(6, what="a part") == bytes(6)
    with pytest.raises(UserError, match="a part announces 5 bytes, a message may have 10"):
        bounded.read(5, what="a part")


# --- arrays of Gadgetron


def recon_data(readouts: list[Any], *, offset: int = 0, size: int | None = None, traj: bool = True) -> bytes:
    """Return readouts of one size as BucketToBuffer packs them: E1 is the first counter, N the contrast."""
    n_e1 = 1 + max(one.idx.kspace_encode_step_1 for one in readouts)
    n_n = 1 + max(one.idx.contrast for one in readouts)
    n_coils, n_samples = readouts[0].data.shape
    size = size or n_samples
    data = np.zeros((size, n_e1, 1, n_coils, n_n, 1, 1), np.complex64)
    places = np.zeros((readouts[0].traj.shape[1], size, n_e1, 1, n_n, 1, 1), np.float32)
    heads: dict[tuple[int, int], bytes] = {}
    for one in readouts:
        e1, n = one.idx.kspace_encode_step_1, one.idx.contrast
        kept = slice(one.discard_pre, n_samples - one.discard_post)
        length = kept.stop - kept.start
        data[offset : offset + length, e1, 0, :, n, 0, 0] = one.data[:, kept].T
        places[:, offset : offset + length, e1, 0, n, 0, 0] = one.traj[kept].T
        heads[e1, n] = bytes(one.getHead())
    empty = bytes(ismrmrd.AcquisitionHeader())

    def array(values: np.ndarray) -> bytes:
        return struct.pack(f"<{1 + values.ndim}Q", values.ndim, *values.shape) + values.tobytes(order="F")

    sampling = struct.pack("<6f6H9H2x", *[100.0] * 6, *[8] * 6, 0, size // 2, size - 1, *[0] * 6)
    buffer = array(data) + (b"\1" + array(places) if traj else b"\0") + b"\0"
    buffer += struct.pack("<6Q", 5, n_e1, 1, n_n, 1, 1)
    buffer += b"".join(heads.get((e1, n), empty) for n, e1 in itertools.product(range(n_n), range(n_e1))) + sampling
    # with a reference: the same once more, which is left out
    return struct.pack("<HQ", 1023, 1) + buffer + b"\1" + buffer


def test_buffered_readouts_are_those_that_went_in(rng: np.random.Generator) -> None:
    readouts = []
    for e1, n in [(0, 0), (2, 0), (1, 1), (2, 2)]:  # not all places are taken
        data = rng.standard_normal((3, 10)) + 1j * rng.standard_normal((3, 10))
        fields = {"discard_pre": 2, "discard_post": 1, "center_sample": 5, "scan_counter": e1 + 10 * n}
        readouts.append(readout(data, rng.standard_normal((10, 2)), kspace_encode_step_1=e1, contrast=n, **fields))
    found = {one.scan_counter: one for one in read(recon_data(readouts) + CLOSE)}
    assert sorted(found) == sorted(one.scan_counter for one in readouts)
    for one in readouts:
        same = found[one.scan_counter]
        np.testing.assert_array_equal(same.data, one.data[:, 2:9])
        np.testing.assert_array_equal(same.traj, one.traj[2:9])
        assert (same.number_of_samples, same.discard_pre, same.discard_post, same.center_sample) == (7, 0, 0, 3)
        assert same.idx == one.idx


@pytest.mark.parametrize(("n_samples", "centre", "size", "offset"), [(8, 4, 8, 0), (6, 2, 8, 2), (8, 4, 8, 2)])
def test_buffered_lines_lie_about_the_centre(
    rng: np.random.Generator, n_samples: int, centre: int, size: int, offset: int
) -> None:
    """Partial echoes begin late in the buffer; and a line that is in full length, after what it is to lose."""
    data = rng.standard_normal((2, n_samples)) + 1j * rng.standard_normal((2, n_samples))
    lost = offset if n_samples == size else 0
    one = readout(data, center_sample=centre, discard_pre=lost)
    (found,) = read(recon_data([one], offset=offset, size=size, traj=False) + CLOSE)
    np.testing.assert_array_equal(found.data, data[:, lost:].astype(np.complex64))
    assert found.traj.shape == (n_samples - lost, 0)


def test_buffers_that_lost_samples_are_refused(rng: np.random.Generator) -> None:
    content = bytearray(recon_data([readout(np.ones((2, 4)), np.ones((4, 2)), scan_counter=3)]))
    at = content.index(bytes(readout(np.ones((2, 4)), np.ones((4, 2)), scan_counter=3).getHead()))
    struct.pack_into("<H", content, at + ismrmrd.AcquisitionHeader.number_of_samples.offset, 8)
    with pytest.raises(UserError, match="readout 3 has 8 samples from 0 on, its buffer 4; leave out the gadget"):
        read(bytes(content) + CLOSE)


def test_image_arrays_come_back(rng: np.random.Generator) -> None:
    data = (rng.standard_normal((5, 4, 3, 1, 1, 2, 3)) + 1j * rng.standard_normal((5, 4, 3, 1, 1, 2, 3))).astype("c8")
    heads = [ismrmrd.ImageHeader(slice=number) for number in range(6)]
    meta = [f"<ismrmrdMeta>µ {number}</ismrmrdMeta>".encode() for number in range(6)]
    (found,) = read(image_array_message(ImageArray(data, heads, meta)) + CLOSE)
    np.testing.assert_array_equal(found.data, data)
    assert found.heads == heads
    assert found.meta == meta


@pytest.mark.filterwarnings("ignore:A builtin ctypes object:RuntimeWarning")  # of numpy, in their code
def test_image_arrays_are_those_of_gadgetron(rng: np.random.Generator) -> None:
    """The package gadgetron, another implementation, reads what we write, and we what it writes."""
    types = pytest.importorskip("gadgetron.types.image_array")
    data = (rng.standard_normal((5, 4, 1, 1, 1, 2, 2)) + 1j * rng.standard_normal((5, 4, 1, 1, 1, 2, 2))).astype("c8")
    heads = [ismrmrd.ImageHeader(slice=number) for number in range(4)]
    ours = ImageArray(data, heads, [b"<a/>"] * 4)
    stream = io.BytesIO(image_array_message(ours))
    stream.read(2)
    theirs = types.read_image_array(stream)
    assert not stream.read()
    np.testing.assert_array_equal(theirs.data, data)
    assert list(theirs.headers.ravel(order="F")) == heads
    back = io.BytesIO()
    types.write_image_array(back, theirs)
    (found,) = read(back.getvalue() + CLOSE)
    np.testing.assert_array_equal(found.data, data)
    assert found.heads == heads


@pytest.mark.filterwarnings("ignore:A builtin ctypes object:RuntimeWarning")  # of numpy, in their code
def test_buffers_are_those_of_gadgetron(rng: np.random.Generator) -> None:
    types = pytest.importorskip("gadgetron.types.recon_data")
    readouts = [readout(np.full((2, 4), n), np.full((4, 2), n), contrast=n, scan_counter=n) for n in range(3)]
    stream = io.BytesIO(recon_data(readouts))
    stream.read(2)
    back = io.BytesIO()
    types.write_recon_data(back, types.read_recon_data(stream))
    assert not stream.read()
    assert read(back.getvalue() + CLOSE) == readouts


# --- waiting


def test_a_pipe_that_is_silent_for_too_long() -> None:
    receiver, sender = os.pipe()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"nothing came for 0\.3 s"):
        list(Reader(Channel(receiver, io.BytesIO(), idle_s=0.3)))
    assert 0.3 <= time.monotonic() - began < 5
    os.close(receiver)
    os.close(sender)


def drain_of(items: Iterator[Any], channel: Channel, limit: int) -> Drain:
    return Drain(items, channel, size_of=lambda item: int(item), limit=limit)


def test_the_queue_is_bounded_and_in_order() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in [3, 4, 5, 100, 1, 2]:
            taken.append(number)
            yield number

    drain = drain_of(items(), channel_of(b""), 10)
    deadline = time.monotonic() + 5
    while len(taken) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert taken == [3, 4, 5]  # 5 waits, for 12 would be more than 10
    assert list(drain) == [3, 4, 5, 100, 1, 2]  # what is larger than the queue goes alone
    drain.close()


def test_a_failure_overtakes_what_waits() -> None:
    failed = threading.Event()

    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        failed.set()
        raise UserError("gone")

    drain = drain_of(items(), channel_of(b""), 100)
    failed.wait(5)
    drain._thread.join(5)
    with pytest.raises(UserError, match="gone"):
        next(drain)
    with pytest.raises(UserError, match="gone"):
        drain.check()
    drain.close()


def test_a_reader_that_waits_can_be_stopped() -> None:
    receiver, sender = os.pipe()
    channel = Channel(receiver, io.BytesIO())
    drain = Drain(iter(Reader(channel)), channel, size_of=lambda _: 0)
    began = time.monotonic()
    drain.close()
    assert time.monotonic() - began < 2
    assert not drain._thread.is_alive()
    os.close(receiver)
    os.close(sender)


# --- bytes that somebody has changed


def seeds() -> list[bytes]:
    rng = np.random.default_rng(3)
    made = header((4, 4, 1), 5)
    equal = [readout(np.ones((2, 4)), np.ones((4, 2)), contrast=n) for n in range(3)]
    images = ImageArray(np.ones((3, 2, 1, 1, 1, 2, 1), np.complex64), [ismrmrd.ImageHeader()] * 2, [b"<a/>"] * 2)
    return [
        packed(ConfigText(""), made, "{}", *some_readouts(rng), a_waveform(), an_image()),
        recon_data(equal) + image_array_message(images) + CLOSE,
    ]


SEEDS = seeds()
INTERESTING = [0, 1, 2, 3, 4, 8, 127, 128, 255]


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Return a stream with one to eight changes: bytes, numbers, cuts, repeats."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 8)):
        if not changed:
            break
        at, kind = generator.randrange(len(changed)), generator.randrange(6)
        if kind == 0:
            changed[at] = generator.randrange(256)
        elif kind == 1:
            changed[at] = generator.choice(INTERESTING)
        elif kind == 2:
            width = generator.choice([2, 4, 8])
            number = generator.choice([0, 1, 2**15, 2**31, 2**63, 2**64 - 1])
            changed[at : at + width] = number.to_bytes(8, "little")[:width]
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + generator.randint(1, 64)]
        else:
            changed[at:at] = changed[at : at + generator.randint(1, 64)]
    return bytes(changed)


def survives(content: bytes) -> None:
    """Read a stream that may be anything: items, or one UserError."""
    with suppress(UserError):
        read(content, limit=2**22, keep_images=True)


@hypothesis.settings(max_examples=500)
@hypothesis.given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_changed_streams_are_read_or_refused(content: bytes, generator: random.Random) -> None:
    survives(mutated(content, generator))


@pytest.mark.slow
def test_many_changed_streams_leave_nothing_behind() -> None:
    generator = random.Random(20261125)
    for number in range(2000):  # what is loaded and kept once
        survives(mutated(SEEDS[number % 2], generator))
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    resident = memory()
    began = time.monotonic()
    for number in range(100_000):
        survives(mutated(SEEDS[number % 2], generator))
    assert time.monotonic() - began < 600
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    assert memory() < resident + 2**25


def memory() -> int:
    """Return the resident memory of this process [bytes]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
