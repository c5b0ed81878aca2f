"""Raw files whose numbers are wrong: one line that says what to mend, exit status 2, and nothing is written."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_case
import h5py
import numpy as np
import pytest

from crbsvd_plugin.cli import main
from crbsvd_plugin.images import CoefficientImages

N_SAMPLES, NOISE = 2 * cli_case.MATRIX, 1 << 18
VERBS = {verb: (verb, "raw.h5", "b", "-o", "out") for verb in ("recon", "maps")}
QUICK = ("--threads", "1", "--iterations", "3")


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run the command in this process, and return the one line that it says."""
    yield from cli_case.refuser(here, capsys)


def edit(change: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Change the table of readouts; the change is given the table and which rows are noise."""
    with h5py.File("raw.h5", "r+") as file:
        rows = file["dataset/data"][:]
        change(rows, rows["head"]["flags"] & NOISE > 0)
        file["dataset/data"].resize(rows.shape)
        file["dataset/data"][:] = rows


def scaled(factor: float) -> Callable[[], None]:
    def change(rows: np.ndarray, _: np.ndarray) -> None:
        rows["traj"] = [np.float32(factor) * traj for traj in rows["traj"]]

    return lambda: edit(change)


def value(number: float, *, field: str, noise: bool) -> Callable[[], None]:
    """Write one number into the fourth readout of the noise scan, or of the image."""
    return lambda: edit(lambda rows, of: rows[field][np.flatnonzero(of == noise)[3]].__setitem__(5, number))


def silenced(*coils: int, image: bool = True, noise: bool = True) -> Callable[[], None]:
    def change(rows: np.ndarray, of: np.ndarray) -> None:
        for data in rows["data"][image & ~of | noise & of]:
            data.reshape(cli_case.N_COILS, -1)[list(coils)] = 0

    return lambda: edit(change)


def fewer_coils(readouts: slice, *, noise: bool) -> Callable[[], None]:
    """Leave one coil out of some readouts of the noise scan, or of the image."""

    def change(rows: np.ndarray, of: np.ndarray) -> None:
        for number in np.flatnonzero(of == noise)[readouts]:
            rows["head"]["active_channels"][number] -= 1
            rows["data"][number] = rows["data"][number][: -2 * N_SAMPLES]

    return lambda: edit(change)


def shortened(field: str, by: int) -> Callable[[], None]:
    return lambda: edit(lambda rows, _: rows[field].__setitem__(40, rows[field][40][:-by]))


def scaled_data(factor: float) -> Callable[[], None]:
    """Scale the data of the image, but not the noise scan."""

    def change(rows: np.ndarray, of: np.ndarray) -> None:
        for data in rows["data"][~of]:
            data *= np.float32(factor)

    return lambda: edit(change)


def many_rows() -> None:
    """Say that there are 10^12 readouts; those that were never written read as zeros."""
    with h5py.File("raw.h5", "r+") as file:
        file["dataset/data"].resize((10**12,))


def wrong_length() -> None:
    """Say in the table that the data of a readout are longer than what is stored of them."""
    content = bytearray(Path("raw.h5").read_bytes())
    length = struct.pack("<I", 2 * cli_case.N_COILS * N_SAMPLES)
    # a reference to what is stored elsewhere: length, address and number there
    at = next(
        i for i in range(len(content) - 16)
        if content[i : i + 4] == length and 0 < int.from_bytes(content[i + 4 : i + 12], "little") < len(content)
    )  # fmt: skip
    content[at : at + 4] = struct.pack("<I", 10**6)
    Path("raw.h5").write_bytes(content)


def header(old: bytes, new: bytes) -> Callable[[], None]:
    def change() -> None:
        with h5py.File("raw.h5", "r+") as file:
            xml = file["dataset/xml"][0]
            assert old in xml
            file["dataset/xml"][0] = xml.replace(old, new)

    return change


def units(name: str) -> str:
    return f"it looks like {name}: say --traj-units {name}"


# the field of view is 240 mm
CASES: dict[str, tuple[Callable[[], None], str]] = {
    "cycles/pixel": (scaled(1 / 32), "|k| = 0.5, expected about 16 cycles/fov for an image of 32 x 32; it looks lik"),
    "a part of k-space, in cycles/pixel": (scaled(0.8 / 32), units("cycles/pixel")),
    "rad/pixel": (scaled(2 * np.pi / 32), units("rad/pixel")),
    "1/m": (scaled(1 / 0.24), units("1/m")),
    "rad/m": (scaled(2 * np.pi / 0.24), units("rad/m")),
    "no unit": (scaled(1e5), "no unit fits: check the matrix in the header and the trajectory"),
    "NaN in a trajectory": (value(np.nan, field="traj", noise=False), "trajectory holds 1 values that are NaN or inf"),
    "infinite trajectory": (value(-np.inf, field="traj", noise=False), "trajectory holds 1 values that are NaN or inf"),
    "infinite data": (value(np.inf, field="data", noise=False), "1 non-finite samples, the first in readout 3, coil 0"),
    "NaN in the noise": (value(np.nan, field="data", noise=True), "noise scan holds 1 non-finite values; remove it"),
    "infinite noise": (value(np.inf, field="data", noise=True), "noise scan holds 1 non-finite values; remove it"),
    "a huge sample": (value(1e30, field="data", noise=False), "after prewhitening, expected 1e-12 to 1e+12"),
    "a sample near the largest number": (value(3e38, field="data", noise=False), "as single precision demands"),
    "tiny data": (scaled_data(1e-30), "after prewhitening, expected 1e-12 to 1e+12"),
    "a coil less in one readout": (fewer_coils(slice(3, 4), noise=False), "[3, 4] coils, noise scan included"),
    "a coil less in one noise readout": (fewer_coils(slice(3, 4), noise=True), "[3, 4] coils, noise scan included"),
    "a coil less in the noise": (fewer_coils(slice(None), noise=True), "[3, 4] coils, noise scan included"),
    "a silent coil": (silenced(2, noise=False), "raw data: coil 2 holds only zeros (1 of 4 coils do)"),
    "a silent coil in the noise": (silenced(1, 3, image=False), "noise scan: coil 1 holds only zeros (2 of 4 coils do"),
    "all data zero": (silenced(0, 1, 2, 3, noise=False), "raw data: all samples are zero"),
    "all zero": (silenced(0, 1, 2, 3), "noise scan: all samples are zero"),
    "a trajectory that is too short": (shortened("traj", 2), "acquisition 40 holds 512 numbers and 126 of trajectory"),
    "data that are too short": (shortened("data", 2), "acquisition 40 holds 510 numbers and 128 of trajectory"),
    "rows that are not there": (many_rows, "readout 0 holds no samples; the file is damaged"),
    "a wrong length": (wrong_length, "cannot be read (Can't synchronously read data"),
    "a negative matrix": (header(b"<x>32</x>", b"<x>-32</x>"), "matrix or field of view of [-32, 32, 1,"),
    "a matrix in words": (header(b"<x>32</x>", b"<x>many</x>"), "matrix or field of view of ['many', 32, 1,"),
    "a field of view of NaN": (header(b"<x>240.0</x>", b"<x>nan</x>"), "matrix or field of view of [32, 32, 1, nan,"),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", CASES)
def test_raw_data(refused: Callable[..., str], verb: str, case: str) -> None:
    spoil, message = CASES[case]
    spoil()
    assert message in refused(*VERBS[verb])


@pytest.mark.parametrize("options", [("--coils", "2"), ("--gradient-delays", "estimate"), ("--backend", "sigpy")])
def test_zeros_with_other_steps(refused: Callable[..., str], options: tuple[str, ...]) -> None:
    silenced(0, 1, 2, 3, noise=False)()
    assert "raw data: all samples are zero" in refused(*VERBS["recon"], *options)


# in a process of its own, which a crash in HDF5 itself would end
DAMAGED = """
import sys
from pathlib import Path
import numpy as np
from crbsvd_plugin.cli import main
whole, places, said = Path("raw.h5").read_bytes(), np.random.default_rng(1), 0
for number in range(40):
    content = bytearray(whole)
    content[int(places.integers(96, 3000))] ^= 1 << int(places.integers(8))
    Path("raw.h5").write_bytes(content)
    status = main(["recon", "raw.h5", "b", "-o", f"out{number}", *sys.argv[1:]])
    assert status == 2 or (status == 0 and Path(f"out{number}.json").exists())
    said += status == 2
print(said)
"""


def test_a_damaged_file_is_told_or_read_as_before(here: Path) -> None:
    """Bits of the structure of the file are changed: what HDF5 says about it ends in one line."""
    done = cli_case.run(*QUICK, cwd=here, command=[sys.executable, "-c", DAMAGED])
    assert done.returncode == 0, done.stderr
    said = int(done.stdout.splitlines()[-1])
    assert said > 5
    assert sum(line.startswith("crbsvd: ") for line in done.stderr.splitlines()) == done.stderr.count("\n")
    assert done.stderr.count("\n") >= said
    assert not [path for path in here.iterdir() if path.name.startswith(".")]


def test_the_unit_that_the_message_names_gives_the_same_image(here: Path) -> None:
    assert main([*VERBS["recon"][:-1], "before", *QUICK]) == 0
    scaled(1 / 32)()
    assert main([*VERBS["recon"], *QUICK, "--traj-units", "cycles/pixel"]) == 0
    # a division by 32 loses no bit
    assert (here / "before.cfl").read_bytes() == (here / "out.cfl").read_bytes()


@pytest.mark.parametrize("backend", ["native", "sigpy", pytest.param("bart", marks=pytest.mark.bart)])
def test_samples_beyond_the_edge_change_nothing(here: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Spokes of 1.5 times the length: what lies outside may hold anything."""
    arguments = ("--threads", "1", "--iterations", "10", "--backend", backend)
    scaled(1.5)()
    assert main([*VERBS["recon"], *arguments]) == 0
    assert "samples beyond that are left out" in capsys.readouterr().err

    kept = []

    def spoil(rows: np.ndarray, of: np.ndarray) -> None:
        for data, traj in zip(rows["data"][~of], rows["traj"][~of], strict=True):
            beyond = (np.abs(traj.reshape(-1, 2)) > 1.02 * 16).any(axis=1)
            kept.append(np.count_nonzero(~beyond))
            data.reshape(cli_case.N_COILS, -1, 2)[:, beyond] = 1e3

    edit(spoil)
    assert main([*VERBS["recon"][:-1], "again", *arguments]) == 0
    first, second = (CoefficientImages.load(here / one) for one in ("out", "again"))
    np.testing.assert_array_equal(first.coeff, second.coeff)
    # and they do not lower the noise
    assert 0 < sum(kept) < len(kept) * N_SAMPLES
    assert first.info["sigma"] == pytest.approx(np.sqrt(cli_case.N_FRAMES * cli_case.MATRIX**2 / sum(kept)), rel=1e-12)


def test_a_scan_of_one_readout(here: Path) -> None:
    def change(rows: np.ndarray, of: np.ndarray) -> None:
        rows["head"]["idx"]["contrast"][~of] = cli_case.N_FRAMES - 1

    edit(change)
    with h5py.File("raw.h5", "r+") as file:
        rows = file["dataset/data"]
        last = rows[-1:]
        rows.resize((33,))  # the noise scan has 32
        rows[-1:] = last
    assert main([*VERBS["maps"], *QUICK]) == 0
    assert (here / "out" / "maps.json").exists()
