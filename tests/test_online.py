"""One scan on every way into the package gives the same images and maps."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ismrmrd
import nibabel as nib
import numpy as np
import pytest
from cli_case import COMMAND
from message_case import recon_data
from mrd_stream import readout
from wire_case import (
    CLOSE,
    environment,
    header_of,
    images_in,
    packed,
    properties,
    readouts_of,
    scan,
    served,
    started,
    talk,
    unpacked,
)

from crbsvd_plugin import pipeline
from crbsvd_plugin.cli import main
from crbsvd_plugin.coils import whitening_matrix
from crbsvd_plugin.config import Config
from crbsvd_plugin.mapfile import map_files
from crbsvd_plugin.mrd import open_raw
from crbsvd_plugin.threads import limit

MAPS = ("T1map", "T2map", "M0map", "M0phase", "EDGEmap")
ASKED = '{"version": "1.0", "parameters": {"basis": "b", "coefficients": "True"}}'


@pytest.fixture(scope="module")
def expected(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Coefficients of the generator, and the maps of `crbsvd maps` as they are on disk."""
    output = tmp_path_factory.mktemp("maps") / "maps"
    assert main(["maps", str(made / "raw.h5"), str(made / "b"), "-o", str(output), "--no-std", "--threads", "1"]) == 0
    found = {name: np.asarray(nib.load(output / f"{name}.nii.gz").dataobj).T for name in MAPS}
    with open_raw(made / "raw.h5") as (header, items):
        made_here = generated(made, header, items)
    np.testing.assert_array_equal(made_here["T1map"], found["T1map"][0])
    return found | {"coefficients": made_here["coefficients"]}


def generated(folder: Path, header: Any, items: Iterable[Any]) -> dict[str, np.ndarray]:
    """Return what the generator makes of readouts."""
    with limit(1):
        (one,) = pipeline.reconstruct_stream(header, items, Config(basis=str(folder / "b")))
    assert one.maps is not None
    maps = {volume.name: volume.array for volume in map_files(one.maps)}
    return maps | {"coefficients": one.coeff[:, None]}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], folder: Path) -> None:
    """Coefficients equal to 1e-5; maps equal, but for voxels whose best two atoms are as good as each other."""
    assert set(MAPS) <= set(found)
    coeff = found["coefficients"]
    assert np.linalg.norm(coeff - expected["coefficients"]) <= 1e-5 * np.linalg.norm(expected["coefficients"])
    mask = (expected["M0map"] != 0).reshape(coeff.shape[1:])
    differ = np.zeros(mask.shape, bool)
    for name in MAPS:
        values, right = found[name].reshape(mask.shape), expected[name].reshape(mask.shape)
        if name in ("M0map", "M0phase"):  # they follow the coefficients
            near = np.isclose(values, right, rtol=1e-4, atol=1e-4)
            differ |= ~near & ~np.isclose(abs(values - right), 2 * np.pi, atol=1e-3)
        else:
            differ |= values != right
    _, dictionary = pipeline.load(str(folder / "b"), rank=None, with_dictionary=True)
    assert dictionary is not None
    scores = abs(dictionary.coeff.conj() @ coeff[:, differ]) / dictionary.norm[:, None]
    first, second = np.sort(scores, axis=0)[:-3:-1]
    assert (first - second <= 1e-6 * first).all()
    assert differ.sum() < 0.001 * mask.sum()


def test_the_comparison_sees_a_difference(made: Path, expected: dict[str, np.ndarray]) -> None:
    found = {name: values[None] for name, values in expected.items()} | {"coefficients": expected["coefficients"]}
    same(found, expected, made)
    worse = {**found, "T1map": np.roll(found["T1map"], 1, axis=-1)}
    with pytest.raises(AssertionError):
        same(worse, expected, made)


def test_serve(made: Path, expected: dict[str, np.ndarray]) -> None:
    """A client of ismrmrd's own serialization; the basis by name, in the JSON of OpenRecon."""
    raw = made / "raw.h5"
    with served(made, "--bases", ".", "--threads", "1") as server:
        content = packed(ismrmrd.ConfigFile("crbsvd"), header_of(raw), ASKED, *readouts_of(raw))
        same(images_in(talk(server.address, content)), expected, made)


def test_stream(made: Path, expected: dict[str, np.ndarray]) -> None:
    done = subprocess.run(
        [*COMMAND, "stream", "b", "--coefficients", "--no-std", "--threads", "1"],
        cwd=made, env=environment(), input=scan(made), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    first, *images = unpacked(done.stdout)
    assert first.toXML() == header_of(made / "raw.h5").toXML()
    same(images_in(images), expected, made)


@pytest.mark.parametrize("buffered", [False, True])
def test_gadgetron(made: Path, expected: dict[str, np.ndarray], *, buffered: bool) -> None:
    """A process that the core starts; readouts one by one, or in buffers."""
    pytest.importorskip("gadgetron")
    content = packed(*readouts_of(made / "raw.h5"))
    if buffered:
        readouts = in_order_of_buffers(made / "raw.h5")
        content = in_buffers(readouts)
        expected = generated(made, header_of(made / "raw.h5"), readouts)
    config = properties(basis="b", coefficients="true")
    with started(made, "recon", config, header_of(made / "raw.h5")) as (core, process):
        core.send(content)
        answer = core.answer()
        assert (answer.error, answer.closed) == ("", True)
        same(images_in(answer.images), expected, made)
        assert process.ended() == 0


def in_order_of_buffers(raw: Path) -> list[Any]:
    """Return noise scans, and then the readouts as a buffer has them: E1, which is the shot, before N, the frame."""
    readouts = readouts_of(raw)
    for one in readouts:
        one.idx.kspace_encode_step_1 = one.idx.repetition
    return sorted(readouts, key=lambda one: (not is_noise(one), one.idx.contrast, one.idx.repetition))


def is_noise(one: Any) -> bool:
    return bool(one.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT))


def in_buffers(readouts: list[Any]) -> bytes:
    """Return the noise scans one by one, and the others in one message."""
    noise = [one for one in readouts if is_noise(one)]
    return packed(*noise, close=False) + recon_data([one for one in readouts if not is_noise(one)]) + CLOSE


def test_two_gadgets(made: Path, expected: dict[str, np.ndarray]) -> None:
    """Coefficient images from the one, through the core, to the other."""
    pytest.importorskip("gadgetron")
    header = header_of(made / "raw.h5")
    with started(made, "coefficients", properties(basis="b"), header) as (core, process):
        core.send(packed(*readouts_of(made / "raw.h5")))
        first = core.answer()
        assert process.ended() == 0
    assert (first.error, len(first.arrays), first.images) == ("", 1, [])
    config = properties(basis="b", coefficients="true")
    with started(made, "maps", config, header) as (core, process):
        core.send(first.arrays[0] + CLOSE)
        second = core.answer()
        assert (second.error, second.closed, process.ended()) == ("", True, 0)
    same(images_in(second.images), expected, made)
    (t1, *_) = second.images
    with open_raw(made / "raw.h5") as (_, items):
        one = next(item for item in items if not is_noise(item))
    np.testing.assert_allclose(t1.position[:], one.position[:], rtol=1e-6)
    np.testing.assert_allclose(t1.read_dir[:], one.read_dir[:], rtol=1e-6)


def test_listening_gadgetron(made: Path, expected: dict[str, np.ndarray]) -> None:
    """For <connect port=.../>: the same program listens, and the core comes."""
    import socket
    import sys

    from wire_case import Core

    command = [sys.executable, "-m", "crbsvd_gadgets.gadgetron_external"]
    with served(made, "--bases", ".", "--threads", "1", command=command) as server:
        host = socket.create_connection(server.address, 10)
        core = Core(host, properties(basis="b", coefficients="1"), header_of(made / "raw.h5"))
        core.send(packed(*readouts_of(made / "raw.h5")))
        answer = core.answer()
        core.close()
    assert (answer.error, answer.closed) == ("", True)
    same(images_in(answer.images), expected, made)


class FireConnection:
    """The connection of python-ismrmrd-server, as far as a module uses it (GADGETS A3)."""

    def __init__(self, items: list[Any]):
        self._items = items
        self.images: list[Any] = []
        self.said: list[tuple[str, str]] = []
        self.closed = 0

    def __iter__(self) -> Any:
        yield from self._items
        yield None
        raise AssertionError("read beyond the CLOSE")

    def send_image(self, images: Any) -> None:
        self.images += images if isinstance(images, list) else [images]

    def send_logging(self, level: str, text: str) -> None:
        self.said.append((level, text))

    def send_close(self) -> None:
        self.closed += 1


@pytest.fixture
def fire(made: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FireConnection]:
    from crbsvd_gadgets.fire import process

    monkeypatch.setenv("CRBSVD_BASES", str(made))

    def call(config: Any, metadata: Any, items: list[Any] | None = None) -> FireConnection:
        connection = FireConnection(readouts_of(made / "raw.h5") if items is None else items)
        process(connection, config, metadata)
        assert connection.closed == 1
        return connection

    return call


@pytest.mark.parametrize("text", [False, True])
def test_fire(made: Path, expected: dict[str, np.ndarray], fire: Callable[..., FireConnection], *, text: bool) -> None:
    """The config names this module, as its server demands; the header may have come as text."""
    header = header_of(made / "raw.h5")
    config = {"parameters": {"config": "crbsvd_gadgets.fire", "basis": "b", "coefficients": "True"}}
    waveform = ismrmrd.Waveform.from_array(np.zeros((1, 2), np.uint32))
    with limit(1):
        connection = fire(config, header.toXML() if text else header, [waveform, *readouts_of(made / "raw.h5")])
    assert connection.said == []
    same(images_in(connection.images), expected, made)


def test_fire_says_what_is_wrong(made: Path, fire: Callable[..., FireConnection]) -> None:
    connection = fire({"parameters": {"bases": "b"}}, header_of(made / "raw.h5"))
    ((level, said),) = connection.said
    assert level == "ERROR  "
    assert said == "crbsvd: config: nothing is called 'bases' (did you mean 'basis'?); leave it out"
    connection = fire("os.path", header_of(made / "raw.h5"))
    ((_, said),) = connection.said
    assert "no preset is called 'os.path'" in said


def test_fire_tells_a_defect_before_it_raises(
    made: Path, fire: Callable[..., FireConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = FireConnection(readouts_of(made / "raw.h5"))
    monkeypatch.setattr("crbsvd_plugin.pipeline.reconstruct_stream", lambda *_, **__: 1 / 0)
    from crbsvd_gadgets.fire import process

    with pytest.raises(ZeroDivisionError):
        process(connection, {"parameters": {"basis": "b"}}, header_of(made / "raw.h5"))
    assert connection.said == [("ERROR  ", "crbsvd: internal error (ZeroDivisionError: division by zero)")]
    assert connection.closed == 1


def test_whole_numbers_become_si_units(made: Path, fire: Callable[..., FireConnection]) -> None:
    """What a scanner stores as 12 bits, times the slope, is the map to half a step."""
    with limit(1):
        single = fire({"parameters": {"basis": "b", "images": "float32"}}, header_of(made / "raw.h5")).images
        whole = fire({"parameters": {"basis": "b", "images": "uint16"}}, header_of(made / "raw.h5")).images
    for one, other in zip(single, whole, strict=True):
        assert other.data.dtype == np.uint16
        assert other.data.max() < 2**12
        slope, intercept = float(other.meta["RescaleSlope"]), float(other.meta["RescaleIntercept"])
        np.testing.assert_allclose(other.data * slope + intercept, one.data, atol=0.5001 * slope)


def test_a_host_whose_readouts_come_whitened_in_pieces_and_without_trajectories(
    made: Path, fire: Callable[..., FireConnection]
) -> None:
    """The very scan, as another host would send it: the image is the same."""
    header, items = header_of(made / "raw.h5"), readouts_of(made / "raw.h5")
    whiten = whitening_matrix(np.hstack([one.data for one in items if is_noise(one)]))
    header.encoding[0].encodingLimits.segment.maximum = 1
    pieces = []
    for one in items:
        for place, samples in enumerate(np.split(whiten @ one.data, [27], axis=1) if not is_noise(one) else ()):
            counters = {name: getattr(one.idx, name) for name in ("kspace_encode_step_1", "contrast", "repetition")}
            pieces.append(
                readout(
                    samples, segment=place, scan_counter=len(pieces), center_sample=one.center_sample,
                    sample_time_us=one.sample_time_us, position=one.position, **counters,
                )
            )  # fmt: skip
    asked = {"basis": "b", "iterations": 8, "lam": 0.5, "coefficients": True}
    config = {"parameters": {**asked, "noise": "upstream", "pieces": 2}}
    with limit(1):
        found = fire(config, header, pieces)
        expected = images_in(fire({"parameters": asked}, header_of(made / "raw.h5"), items).images)["coefficients"]
    assert found.said == []
    coeff = images_in(found.images)["coefficients"]
    # whitened data and positions in single precision, 1e-7, and eight iterations with a penalty
    assert np.linalg.norm(coeff - expected) < 1e-5 * np.linalg.norm(expected)


def test_a_slice_of_each_group_has_its_own_number(made: Path, fire: Callable[..., FireConnection]) -> None:
    """Two slices in two sets: four images in each series, no two with one number; and the times of their readouts."""
    header, items = header_of(made / "raw.h5"), readouts_of(made / "raw.h5")
    # limits that do not tell of them would refuse them; without, numbers are found as images come
    header.encoding[0].encodingLimits = None
    noise = [one for one in items if is_noise(one)]
    groups = []
    for number, (place, among) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        for one in items:
            if one not in noise:
                fields = {"slice": place, "set": among, "contrast": one.idx.contrast, "repetition": one.idx.repetition}
                groups.append(readout(one.data, one.traj, acquisition_time_stamp=1000 + number, **fields))
    config = {"parameters": {"basis": "b", "iterations": 1, "coefficients": True}}
    images = fire(config, header, noise + groups).images
    assert len(images) == 4 * (5 + 4)
    indices = [(image.image_series_index, image.image_index) for image in images]
    assert len(set(indices)) == len(indices)
    times = {(image.slice, image.set): image.acquisition_time_stamp for image in images}
    assert times == {(0, 0): 1000, (1, 0): 1001, (0, 1): 1002, (1, 1): 1003}
