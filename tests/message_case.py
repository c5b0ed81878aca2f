"""Readouts, images and buffers as messages, and what reads them, for the tests of the wire."""

from __future__ import annotations

import io
import itertools
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ismrmrd
import numpy as np
from mrd_stream import readout

from crbsvd_plugin.wire.channel import Channel
from crbsvd_plugin.wire.messages import Reader


@contextmanager
def channel_of(content: bytes) -> Iterator[Channel]:
    """Give a channel that reads these bytes from a file."""
    descriptor = os.memfd_create("stream")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield Channel(descriptor, io.BytesIO())
    finally:
        os.close(descriptor)


def read(content: bytes, **options: Any) -> list[Any]:
    """Return all that is read of these bytes."""
    with channel_of(content) as channel:
        return list(Reader(channel, **options))


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
