"""Streams that somebody has changed are read or refused: no crash, no hang, no growth."""

from __future__ import annotations

import random
import resource
import time
from contextlib import suppress
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import ismrmrd
import numpy as np
import pytest
from ismrmrd import ConfigText
from message_case import a_waveform, an_image, read, recon_data, some_readouts
from mrd_stream import header, readout
from wire_case import packed

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.wire.arrays import ImageArray, image_array_message
from crbsvd_plugin.wire.messages import CLOSE


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
