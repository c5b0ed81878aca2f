"""Streams of MRD version 2 give what those of version 1 give; the package mrd-python is the other end."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from cli_case import COMMAND
from mrd_stream import readout
from wire_case import environment, header_of, images_in, readouts_of, scan, unpacked

from crbsvd_plugin import mrd2
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.mrd_header import geometry_of, limits, noise_bandwidth, user_strings

mrd = pytest.importorskip("mrd", reason="mrd-python needs Python 3.12")


def second(header: Any) -> Any:
    """Return a header of version 2, by mrd-python's own converter."""
    from mrd.tools.ismrmrd_to_mrd import convert_header

    return convert_header(header)


def readout2(one: Any, *, standard: bool) -> Any:
    """Return a readout of version 2, its trajectory (axes, samples) or, as the converter leaves it, the other way."""
    from mrd.tools.ismrmrd_to_mrd import convert_acquisition

    made = convert_acquisition(one)
    made.trajectory = np.ascontiguousarray(made.trajectory.T) if standard else made.trajectory
    return made


def stream2(header: Any, items: list[Any]) -> bytes:
    stream = io.BytesIO()
    with mrd.BinaryMrdWriter(stream) as writer:
        writer.write_header(header)
        writer.write_data(items)
    return stream.getvalue()


def test_headers_say_the_same(made: Path) -> None:
    """All that is asked of a header, and the rest of what both versions have."""
    first = header_of(made / "raw.h5")
    found = mrd2.header_of(second(first))
    one = readout(np.ones((1, 4)))
    assert geometry_of(found, one) == geometry_of(first, one)
    assert limits(found) == limits(first)
    assert noise_bandwidth(found) == noise_bandwidth(first)
    assert user_strings(found) == user_strings(first)
    assert found.encoding[0].trajectory == first.encoding[0].trajectory
    assert found.measurementInformation.patientPosition == first.measurementInformation.patientPosition
    assert found.experimentalConditions == first.experimentalConditions
    np.testing.assert_allclose(found.sequenceParameters.TE, first.sequenceParameters.TE, rtol=1e-6)


def test_an_empty_header() -> None:
    found = mrd2.header_of(mrd.Header())
    assert (found.encoding, found.userParameters, found.acquisitionSystemInformation) == ([], None, None)


@pytest.mark.parametrize("standard", [True, False])
def test_readouts_come_through(rng: np.random.Generator, *, standard: bool) -> None:
    data = rng.standard_normal((3, 7)) + 1j * rng.standard_normal((3, 7))
    fields = {"scan_counter": 5, "contrast": 3, "slice": 2, "discard_pre": 1, "center_sample": 3, "sample_time_us": 2.5}
    one = readout(data, rng.standard_normal((7, 2)), flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT, **fields)
    one.position[:], one.user_int[3] = (1, 2, 3), -7
    one.acquisition_time_stamp = 123456
    assert mrd2.readout(readout2(one, standard=standard)) == one


def test_a_readout_without_trajectory() -> None:
    found = mrd2.readout(readout2(readout(np.ones((2, 5))), standard=False))
    assert found.traj.shape == (5, 0)


def test_readouts_that_do_not_fit() -> None:
    made = readout2(readout(np.ones((2, 5)), np.ones((5, 2)), scan_counter=4), standard=True)
    made.trajectory = np.ones((2, 6), np.float32)
    with pytest.raises(UserError, match=r"readout 4 has 5 samples, its trajectory the sizes \(2, 6\)"):
        mrd2.readout(made)
    made = readout2(readout(np.ones((2, 5))), standard=True)
    made.phase = np.ones(5, np.float32)
    with pytest.raises(UserError, match="phase offsets"):
        mrd2.readout(made)
    made = readout2(readout(np.ones((2, 5))), standard=True)
    made.head.idx.contrast = 2**16
    with pytest.raises(UserError, match="contrast is 65536, expected at most 65535"):
        mrd2.readout(made)


def run(made: Path, content: bytes, *arguments: str) -> Any:
    return subprocess.run(
        [*COMMAND, "stream", "b", "--coefficients", "--no-std", "--threads", "1", *arguments],
        cwd=made, env=environment(), input=content, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("standard", [True, False])
def test_the_same_images(made: Path, *, standard: bool) -> None:
    first = images_in(unpacked(run(made, scan(made)).stdout))
    raw = made / "raw.h5"
    waveform = mrd.StreamItem.WaveformUint32(mrd.WaveformUint32(data=np.zeros((1, 4), np.uint32)))
    items = [mrd.StreamItem.Acquisition(readout2(one, standard=standard)) for one in readouts_of(raw)]
    content = stream2(second(header_of(raw)), [waveform, *items])
    done = run(made, content, "--mrd2")
    assert (done.returncode, done.stderr) == (0, b"crbsvd: items of the kind waveformUint32 are left out\n")
    with mrd.BinaryMrdReader(io.BytesIO(done.stdout)) as reader:
        header = reader.read_header()
        images = [item.value for item in reader.read_data()]
    with mrd.BinaryMrdReader(io.BytesIO(content)) as reader:
        assert reader.read_header() == header
        list(reader.read_data())
    coefficients = [image.data[0] for image in images if image.data.dtype == np.complex64]
    np.testing.assert_array_equal(np.stack(coefficients), first.pop("coefficients"))
    maps = {image.meta["SeriesDescription"][0].value: image for image in images if image.data.dtype != np.complex64}
    assert set(maps) == set(first)
    for name, values in first.items():
        np.testing.assert_array_equal(maps[name].data, values)
    one = next(one for one in readouts_of(raw) if not one.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT))
    t1 = maps["T1map"]
    np.testing.assert_array_equal(t1.head.position, one.position[:])
    np.testing.assert_array_equal(t1.head.col_dir, one.read_dir[:])
    assert t1.meta["DataRole"][0].value == "Quantitative"
    assert (t1.head.image_series_index, t1.head.image_index) == (1, 1)


def all_of(content: bytes) -> list[Any]:
    with mrd.BinaryMrdReader(io.BytesIO(content)) as reader:
        reader.read_header()
        return list(reader.read_data())


def test_streams_that_are_none(made: Path) -> None:
    """One line, status 2, and a stream that the next program finds to be cut off."""
    raw = made / "raw.h5"
    items = [mrd.StreamItem.Acquisition(readout2(one, standard=True)) for one in readouts_of(raw)]
    whole = stream2(second(header_of(raw)), items)
    for content in (b"", scan(made), whole[: len(whole) // 2], whole[:-1]):
        done = run(made, content, "--mrd2")
        assert done.returncode == 2
        assert done.stderr.startswith(b"crbsvd: standard input is no whole stream of MRD version 2")
        assert done.stderr.count(b"\n") == 1
        with pytest.raises((EOFError, BufferError, RuntimeError)):
            all_of(done.stdout)
    done = run(made, stream2(None, items), "--mrd2")
    assert b"the stream has no header" in done.stderr


def test_only_messages_of_version_1_have_bounds(made: Path) -> None:
    done = run(made, b"", "--mrd2", "--max-message", "3")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"leave it or --mrd2 out" in done.stderr
