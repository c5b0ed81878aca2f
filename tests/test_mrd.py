"""MRD raw files: round trip, the official readers, incomplete headers, and files that are something else."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd

from crbsvd_plugin import mrd
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.mrd_header import radial_header


def header() -> xsd.ismrmrdHeader:
    sequence: dict[str, Any] = {"TR": [10.0, 12.0], "TE": [5.0], "TI": [], "flipAngle_deg": [30.0, 40.0]}
    geometry = Geometry((6, 6, 1), (2.0, 2.0, 5.0))
    return radial_header(geometry, (3, 10, 12), n_frames=5, n_shots=2, sequence=sequence)


def readouts(n: int, rng: np.random.Generator) -> list[ismrmrd.Acquisition]:
    """Return readouts of unequal lengths, some without trajectory, as a noise scan has none."""
    made = []
    for number in range(n):
        n_samples, n_axes = 12 + number % 3, (0, 2, 3)[number % 3]
        data = rng.standard_normal((3, n_samples)) + 1j * rng.standard_normal((3, n_samples))
        readout = ismrmrd.Acquisition.from_array(
            data.astype(np.complex64), rng.standard_normal((n_samples, n_axes)).astype(np.float32), scan_counter=number
        )
        readout.idx.contrast = number % 5
        readout.idx.user[7] = number
        readout.position[:] = [1.5, -2.5, number]
        readout.user_float[3] = 0.25
        readout.set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        made.append(readout)
    return made


@pytest.fixture
def raw(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "raw.h5"
    mrd.write_raw(path, header(), readouts(4, rng))
    return path


@pytest.mark.parametrize("n", [1, 255, 256, 600])  # blocks of 256
def test_round_trip(tmp_path: Path, rng: np.random.Generator, n: int) -> None:
    written = readouts(n, rng)
    mrd.write_raw(tmp_path / "raw.h5", header(), iter(written))
    with mrd.open_raw(tmp_path / "raw.h5") as (read_header, acquisitions):
        assert read_header == header()
        for expected, got in zip(written, acquisitions, strict=True):
            assert got == expected  # header, data and trajectory, bit by bit
            assert got.data.dtype == np.complex64
    assert [path.name for path in tmp_path.iterdir()] == ["raw.h5"]


def test_official_reader_reads_what_we_write(raw: Path, rng: np.random.Generator) -> None:
    with ismrmrd.File(str(raw), "r") as file:
        assert file["dataset"].header == header()
        assert list(file["dataset"].acquisitions) == readouts(4, np.random.default_rng(20261122))


def test_we_read_what_the_official_writer_writes(tmp_path: Path, rng: np.random.Generator) -> None:
    written = readouts(5, rng)
    dataset = ismrmrd.Dataset(str(tmp_path / "raw.h5"))
    dataset.write_xml_header(xsd.ToXML(header()).encode())
    for readout in written:
        dataset.append_acquisition(readout)
    dataset.close()
    with mrd.open_raw(tmp_path / "raw.h5") as (read_header, acquisitions):
        assert read_header == header()
        assert list(acquisitions) == written


def test_reading_is_lazy(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    mrd.write_raw(tmp_path / "raw.h5", header(), readouts(40, rng))
    monkeypatch.setattr(mrd, "_BLOCK_ROWS", 8)
    sizes: list[int] = []
    unpacked = mrd._unpacked

    def spy(block: np.ndarray, start: int, path: Path) -> Any:
        sizes.append(len(block))
        return unpacked(block, start, path)

    monkeypatch.setattr(mrd, "_unpacked", spy)
    with mrd.open_raw(tmp_path / "raw.h5") as (_, acquisitions):
        for _ in range(5):
            next(acquisitions)
    assert sum(sizes) <= 5 + 8
    assert max(sizes) <= 8


def test_nothing_is_overwritten_without_force(raw: Path, rng: np.random.Generator) -> None:
    before = raw.read_bytes()
    with pytest.raises(UserError, match=r"exists already.*--force"):
        mrd.write_raw(raw, header(), readouts(1, rng))
    assert raw.read_bytes() == before
    mrd.write_raw(raw, header(), readouts(1, rng), force=True)
    with mrd.open_raw(raw) as (_, acquisitions):
        assert len(list(acquisitions)) == 1


def test_failure_leaves_the_old_file_and_nothing_else(raw: Path, rng: np.random.Generator) -> None:
    before = raw.read_bytes()

    def breaking() -> Any:
        yield from readouts(3, rng)
        raise RuntimeError("the scanner burnt down")

    with pytest.raises(RuntimeError, match="burnt down"):
        mrd.write_raw(raw, header(), breaking(), force=True)
    assert raw.read_bytes() == before
    assert [path.name for path in raw.parent.iterdir()] == ["raw.h5"]


def test_full_disk_is_said_in_words(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import resource, ismrmrd, numpy as np, test_mrd\n"
        "from crbsvd_plugin import mrd; from crbsvd_plugin.errors import UserError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))\n"
        "data = np.ones((8, 512), np.complex64)\n"
        "try:\n"
        "    mrd.write_raw(sys.argv[1], test_mrd.header(), [ismrmrd.Acquisition.from_array(data)] * 20)\n"
        "except UserError as error:\n"
        "    sys.stdout.write(str(error)); sys.stdout.flush()\n"
    )
    tests = Path(__file__).parent
    command = [sys.executable, "-c", program, str(tmp_path / "raw.h5"), str(tests), str(tests.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "the file would be larger than allowed" in done.stdout, done.stderr
    assert not done.stderr  # HDF5 likes to complain there while it falls
    assert not list(tmp_path.iterdir())


def _text(path: Path) -> None:
    path.write_text("T1, T2\n")


def _folder(path: Path) -> None:
    path.mkdir()


def _other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["values"] = np.arange(3)


def _flat(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["dataset"] = np.arange(3)


def _only_header(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("dataset")["xml"] = xsd.ToXML(header())


def _no_rows(path: Path) -> None:
    mrd.write_raw(path, header(), [])


def _images(path: Path) -> None:
    _only_header(path)
    with h5py.File(path, "a") as file:
        file["dataset/data"] = np.zeros((2, 1, 1, 4, 4), np.float32)


def _half(path: Path) -> None:
    mrd.write_raw(path, header(), readouts(8, np.random.default_rng(0)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _numbers_for_header(path: Path) -> None:
    mrd.write_raw(path, header(), readouts(1, np.random.default_rng(0)))
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = np.zeros(1)


def _broken_header(path: Path) -> None:
    _numbers_for_header(path)
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = ["<ismrmrdHeader><encoding>"]


def _foreign_header(path: Path) -> None:
    _broken_header(path)
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = ["<configuration/>"]


def _linked(path: Path) -> None:
    other = path.with_name("other.h5")
    mrd.write_raw(other, header(), readouts(1, np.random.default_rng(0)))
    with h5py.File(path, "w") as file:
        file["dataset"] = h5py.ExternalLink(other.name, "dataset")


def _linked_rows(path: Path) -> None:
    other = path.with_name("other.h5")
    mrd.write_raw(other, header(), readouts(1, np.random.default_rng(0)))
    _only_header(path)
    with h5py.File(path, "a") as file:
        file["away"] = h5py.ExternalLink(other.name, "dataset")
        file["dataset/data"] = h5py.SoftLink("/away/data")


def _stored_elsewhere(path: Path) -> None:
    path.with_name("numbers").write_bytes(bytes(8))
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("data", (1,), "f8", external=[(str(path.with_name("numbers")), 0, 8)])
        group["xml"] = ["<ismrmrdHeader/>"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (_folder, "is a folder"),
        (_text, "not an HDF5 file"),
        (_other_hdf5, "not an MRD file"),
        (_flat, "not an MRD file"),
        (_only_header, "no acquisitions"),
        (_no_rows, "no acquisitions"),
        (_images, "no table of MRD acquisitions"),
        (_half, "incomplete"),
        (_numbers_for_header, "'xml' is no text"),
        (_broken_header, "no valid XML"),
        (_foreign_header, "'configuration', expected 'ismrmrdHeader'"),
        (_linked, "'dataset' is a link"),
        (_linked_rows, "'data' is a link"),
        (_stored_elsewhere, "lie in another file"),
    ],
)
def test_what_is_no_raw_file_is_refused_in_one_line(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "raw.h5"
    make(path)
    with pytest.raises(UserError, match=message) as caught, mrd.open_raw(path):
        pytest.fail("it was opened")
    assert "\n" not in str(caught.value)
    assert "raw.h5" in str(caught.value)


def test_readout_that_contradicts_its_header_is_named(raw: Path) -> None:
    with h5py.File(raw, "a") as file:
        row = file["dataset/data"][2]
        row["head"]["number_of_samples"] += 1
        file["dataset/data"][2] = row
    with mrd.open_raw(raw) as (_, acquisitions), pytest.raises(UserError, match=r"acquisition 2 holds .* damaged"):
        list(acquisitions)


def test_errors_of_the_caller_are_not_ours(raw: Path) -> None:
    with pytest.raises(OSError, match="not about the file"), mrd.open_raw(raw):
        raise OSError("not about the file")
