"""Messages of Gadgetron: buffers become readouts, image arrays come back; the package gadgetron agrees."""

from __future__ import annotations

import io
import struct

import ismrmrd
import numpy as np
import pytest
from message_case import read, recon_data
from mrd_stream import readout

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.wire.arrays import ImageArray, image_array_message
from crbsvd_plugin.wire.messages import CLOSE


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


@pytest.mark.parametrize(("flag", "centre"), [(None, 3), (ismrmrd.ACQ_IS_REVERSE, 4)])
def test_the_centre_is_counted_in_the_direction_of_the_readout(flag: int | None, centre: int) -> None:
    one = readout(np.ones((2, 10)), np.ones((10, 2)), center_sample=5, discard_pre=2, discard_post=1, flag=flag)
    (found,) = read(recon_data([one]) + CLOSE)
    assert found.center_sample == centre


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
