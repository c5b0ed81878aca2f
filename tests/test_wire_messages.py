"""Messages of streams: the same bytes as ismrmrd's, bounds, and bytes that are no stream."""

from __future__ import annotations

import io
import resource
import struct
from typing import Any

import ismrmrd
import numpy as np
import pytest
from ismrmrd import ConfigFile, ConfigText
from message_case import a_waveform, an_image, channel_of, read, some_readouts
from mrd_stream import header, readout
from wire_case import packed

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.wire.messages import CLOSE, Bounded, Foreign, Id, Reader, Text, message, text_message


def test_what_ismrmrd_writes_is_read(rng: np.random.Generator) -> None:
    readouts = some_readouts(rng)
    made = header((4, 4, 1), 5)
    opening = (ConfigFile("crbsvd"), ConfigText("<configuration/>"), made, "{}")
    content = packed(*opening, *readouts, a_waveform(), an_image())
    file, config, document, text, *items = read(content)
    assert [(one.id, one.nul) for one in (file, config, document, text)] == [(n, False) for n in (1, 2, 3, 5)]
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
    said = r"readout 7 has 5 coils, the header says 4 \(receiverChannels\)"
    with channel_of(packed(readout(np.ones((5, 4)), scan_counter=7))) as channel:
        reader = Reader(channel)
        reader.max_coils = 4
        with pytest.raises(UserError, match=said):
            list(reader)


def test_discards_that_leave_less_than_nothing() -> None:
    content = packed(readout(np.ones((2, 4)), discard_pre=3, discard_post=2))
    with pytest.raises(UserError, match="lose 3 and 2 of its 4 samples"):
        read(content)


def test_parts_of_a_message_count_together() -> None:
    with channel_of(bytes(100)) as channel:
        bounded = Bounded(channel, 10)
        assert bounded.read(6, what="a part") == bytes(6)
        with pytest.raises(UserError, match="a part announces 5 bytes, a message may have 10"):
            bounded.read(5, what="a part")
