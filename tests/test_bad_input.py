"""What the user can mend: exit status 2, one line that says what to do, and nothing on the disk has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_case
import h5py
import numpy as np
import pytest

from crbsvd_plugin.cli import main

RECON, MAPS = ("recon", "raw.h5", "b", "-o", "out"), ("maps", "raw.h5", "b", "-o", "out")
FIT = ("fit", "c", "b", "-o", "out")
BASIS = ("basis", "spec.toml", "-o", "out", *cli_case.SIZES)
SIMULATE = ("simulate", "spec.toml", "-o", "out.h5", *cli_case.SCAN)


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the scan, which is the working folder."""
    folder = tmp_path / "a folder, ümläut"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run the command in this process, and return the one line that it says."""
    yield from cli_case.refuser(here, capsys)


def edit(change: Callable[[h5py.Dataset], None]) -> None:
    with h5py.File("raw.h5", "r+") as file:
        change(file["dataset/data"])


def no_rows() -> None:
    edit(lambda rows: rows.resize((0,)))


def no_table() -> None:
    with h5py.File("raw.h5", "r+") as file:
        del file["dataset/data"]


def without_trajectory(rows: h5py.Dataset) -> None:
    """Leave the positions out, and say that they are not those of spokes, which follow from the header."""
    xml = rows.parent["xml"]
    xml[0] = xml[0].replace(b">goldenangle<", b">spiral<")
    block = rows[:]
    block["head"]["trajectory_dimensions"] = 0
    block["traj"] = [np.zeros(0, np.float32)] * len(block)
    rows[:] = block


def with_nan(rows: h5py.Dataset) -> None:
    """Make three samples of the imaging readouts 5 and 9 NaN; the first is sample 7 of coil 2."""
    block = rows[:]
    first = int(np.flatnonzero(block["head"]["idx"]["kspace_encode_step_1"] == 1)[0]) - 1  # of imaging
    n_samples = 2 * cli_case.MATRIX
    for readout, coil, sample in ((5, 2, 7), (5, 3, 0), (9, 0, 1)):
        block["data"][first + readout][2 * (coil * n_samples + sample) + 1] = np.nan
    rows[:] = block


def larger_frame(rows: h5py.Dataset) -> None:
    block = rows[:]
    block["head"]["idx"]["contrast"][-1] = cli_case.N_FRAMES + 2
    rows[:] = block


def truncate(name: str) -> Callable[[], None]:
    return lambda: os.truncate(name, Path(name).stat().st_size - 8)


def changed_byte(name: str) -> Callable[[], None]:
    def change() -> None:
        content = bytearray(Path(name).read_bytes())
        content[len(content) // 2] ^= 1
        Path(name).write_bytes(content)

    return change


def bare() -> None:
    Path("b.json").unlink()


def bare_and_truncated() -> None:
    bare()
    truncate("b.cfl")()


def raw_is(make: Callable[[Path], object]) -> Callable[[], None]:
    def replace() -> None:
        Path("raw.h5").unlink()
        make(Path("raw.h5"))

    return replace


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)


INPUTS: dict[str, tuple[Callable[[], None], str]] = {
    "missing file": (Path("raw.h5").unlink, "raw.h5 does not exist"),
    "text file": (raw_is(lambda path: path.write_text("hello\n")), "raw.h5 is not an HDF5 file, expected an MRD file"),
    "empty file": (raw_is(Path.touch), "raw.h5 is not an HDF5 file"),
    "another HDF5 file": (raw_is(other_hdf5), "raw.h5 is not an MRD file"),
    "folder": (raw_is(Path.mkdir), "raw.h5 is a folder, expected an MRD file"),
    "pipe": (raw_is(lambda path: os.mkfifo(path)), "raw.h5 is a pipe or a device, expected an MRD file"),
    "truncated": (lambda: os.truncate("raw.h5", 20000), "raw.h5 cannot be read as HDF5"),
    "no acquisitions": (no_rows, "raw.h5 holds no acquisitions"),
    "no table": (no_table, "raw.h5 holds no acquisitions"),
    "no trajectory": (lambda: edit(without_trajectory), "no trajectory"),
    "a frame too many": (lambda: edit(larger_frame), "raw data have 43 frames (counter 'contrast'), the basis has 40"),
    "NaN": (lambda: edit(with_nan), "3 non-finite samples, the first in readout 5, coil 2, sample 7"),
    "missing basis": (Path("b.cfl").unlink, "b.cfl"),
    "truncated basis": (truncate("b.cfl"), "b.cfl"),
    "truncated bare basis": (bare_and_truncated, "b.cfl is truncated: it has 1272 bytes, expected 1280"),
    "changed basis": (changed_byte("b.cfl"), "the hash of b.cfl does not match b.json"),
    "changed dictionary": (changed_byte("b.h5"), "the hash of b.h5 does not match b.json"),
    "sidecar that is no JSON": (lambda: os.truncate("b.json", 100), "b.json is not valid JSON"),
    "coefficients for a basis": (lambda: shutil.copy("c.json", "b.json") and None, "is it a basis?"),
}


@pytest.mark.parametrize("verb", [RECON, MAPS], ids=lambda verb: verb[0])
@pytest.mark.parametrize("case", INPUTS)
def test_input(refused: Callable[..., str], verb: tuple[str, ...], case: str) -> None:
    spoil, message = INPUTS[case]
    spoil()
    assert message in refused(*verb)


@pytest.mark.parametrize("case", ["missing file", "another HDF5 file", "NaN", "changed basis", "no trajectory"])
def test_input_in_a_process_of_its_own(here: Path, case: str) -> None:
    spoil, message = INPUTS[case]
    spoil()
    before = cli_case.listing(here)
    done = cli_case.run(*MAPS, cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert cli_case.listing(here) == before


def test_frames_that_do_not_fit_name_both_numbers(refused: Callable[..., str]) -> None:
    angles = f"flip_angles={np.linspace(0.2, 1, 30).tolist()}"
    assert main([*BASIS[:3], "short", *cli_case.SIZES, "--set", angles]) == 0
    for verb in ("recon", "maps"):
        assert "raw data have 40 frames (counter 'contrast'), the basis has 30" in refused(
            verb, "raw.h5", "short", *RECON[3:]
        )
    assert "raw data have 2 frames (counter 'repetition'), the basis has 40" in refused(*MAPS, "--frame", "repetition")


def test_a_basis_without_a_sidecar_reconstructs_but_does_not_fit(refused: Callable[..., str], here: Path) -> None:
    bare()
    for verb in (MAPS, FIT):
        assert "the basis has no sidecar (.json)" in refused(*verb)
    assert main(["recon", "raw.h5", "b", "-o", "c2", "--threads", "1"]) == 0
    assert (here / "c2.cfl").read_bytes() == (here / "c.cfl").read_bytes()


def test_a_basis_without_a_dictionary_does_not_fit(refused: Callable[..., str]) -> None:
    assert main(["basis", "spec.toml", "-o", "thin", *cli_case.SIZES, "--atoms", "none"]) == 0
    for verb in (("maps", "raw.h5"), ("fit", "c")):
        assert "thin.h5 does not exist: matching needs the dictionary" in refused(*verb, "thin", "-o", "out")


FITS: dict[str, tuple[Callable[[], None], str]] = {
    "missing": (Path("c.hdr").unlink, "c.hdr"),
    "truncated": (truncate("c.cfl"), "c.cfl"),
    "changed": (changed_byte("c.cfl"), "the hash of c.cfl does not match c.json"),
    "a basis": (lambda: shutil.copy("b.json", "c.json") and None, "are these coefficients?"),
    "raw data": (lambda: [Path(f"c.{end}").unlink() for end in ("cfl", "hdr", "json")] and None, "cannot read c.hdr"),
}


@pytest.mark.parametrize("case", FITS)
def test_coefficients(refused: Callable[..., str], case: str) -> None:
    spoil, message = FITS[case]
    spoil()
    assert message in refused(*FIT)


def test_coefficients_of_another_basis(refused: Callable[..., str]) -> None:
    assert main(["basis", "spec.toml", "-o", "other", *cli_case.SIZES, "--crb-weight", "0"]) == 0
    assert "c was reconstructed in another basis than other (hashes differ)" in refused("fit", "c", "other", *FIT[3:])
    assert main(["basis", "spec.toml", "-o", "thin", *cli_case.SIZES, "--rank", "3"]) == 0
    assert "c has 4 coefficients, the basis thin 3" in refused("fit", "c", "thin", *FIT[3:])


OPTIONS: list[tuple[tuple[str, ...], str]] = [
    ((*MAPS, "--shots", "contrast"), "counter 'contrast' has two roles, frame and shots"),
    ((*RECON, "--shots", "set,repetition", "--groups", "repetition"), "'repetition' has two roles, shots and groups"),
    ((*RECON, "--frame", "contrasts"), "MRD has no counter 'contrasts', expected one of"),
    ((*RECON, "--shots", ""), "'kspace_encode_step_1' takes 2 values or more in the raw data but has no role"),
    ((*RECON, "--traj-units", "rad/pixel"), "it looks like cycles/fov"),
    ((*RECON, "--coils", "-1"), "'--coils': -1 is out of range, expected 0 to 65535"),
    ((*RECON, "--coils", "nan"), "'--coils': nan is out of range"),
    ((*RECON, "--coils", "1.5"), "coils is 1.5, expected a whole number from 1 to"),
    ((*RECON, "--gradient-delays", "on"), "'on' is not one of 'off', 'estimate'"),
    ((*SIMULATE, "--gradient-delay", "1,2"), "'1,2', expected SX,SY,SXY: three numbers"),
    ((*SIMULATE, "--gradient-delay", "nan,0,0"), "gradient delays of (nan, 0.0, 0.0) samples, expected at most"),
    ((*MAPS, "--rank", "5"), "rank is 5, but the basis has 4 columns"),
    ((*RECON, "--rank", "0"), "rank is 0, but the basis has 4 columns"),
    ((*BASIS, "--rank", "41"), "--rank is 41, expected 1 to the number of frames, 40"),
    ((*BASIS, "--rank", "-1"), "--rank is -1"),
    ((*BASIS, "--rank", "2.5"), "'2.5' is not a valid integer; see 'crbsvd basis --help'"),
    ((*BASIS, "--crb-weight", "nan"), "--crb-weight is nan, expected 0 to 1"),
    ((*BASIS, "--max-energy-loss", "nan"), "'--max-energy-loss': nan is out of range, expected 0 to 1"),
    ((*BASIS, "--train", "0"), "number of atoms is 0"),
    ((*BASIS, "--set", "trr=4"), "'trr' is unknown, expected one of: flip_angles, phases, tr"),
    ((*SIMULATE, "--set", "recovry=4"), "did you mean 'recovery'?"),
    ((*BASIS, "--set", "te"), "--set 'te' has no '=', expected key=value"),
    ((*BASIS, "--set", "te=25 ms"), "te is 0.025 s, expected between 0 and the shortest tr, 0.02 s"),
    (("basis", "mrf-fips", *BASIS[2:]), "did you mean 'mrf-fisp'?"),
    (("basis", "nothing.toml", *BASIS[2:]), "nothing.toml does not exist"),
    ((*RECON, "--backend", "fast"), "'fast' is not one of 'native', 'sigpy', 'bart'"),
    ((*RECON, "--sens", "sigpy"), "'sigpy' is not one of 'native', 'bart'"),
    ((*RECON, "--bart-term", "W:7:0:1"), "asked for, but the backend is native; take the backend bart"),
    ((*MAPS, "--bart-lowmem"), "asked for, but the backend is native; take the backend bart"),
    ((*MAPS, "--bart-keep", "files"), "asked for, but the backend is native; take the backend bart"),
    ((*RECON, "--backend", "bart", "--bart-term", "TF:{/etc/passwd}:1"), "a term of bart is 'TF:{/etc/passwd}:1'"),
    ((*RECON, "--backend", "bart", "--bart-term", "W:7:0:1", "--lam", "2"), "lam is 2, but terms of bart have weights"),
    ((*SIMULATE, "--matrix", "7"), "expected a matrix of at least 8"),
    ((*SIMULATE, "--matrix", "-192"), "expected a matrix of at least 8"),
    ((*SIMULATE, "--matrix", "99999999999999999999"), "MRD counts up to 65535"),
    ((*SIMULATE, "--coils", "0"), "0 coils"),
    ((*SIMULATE, "--snr", "loud"), "--snr is 'loud', expected a number or none"),
    ((*SIMULATE, "--snr", "nan"), "SNR is nan"),
    ((*SIMULATE, "--seed", "-1"), "-1 is not in the range x>=0"),
    ((*SIMULATE, "--fov", "nan"), "nan is out of range, expected 10 to 1000"),
    (("simulate", "spec.toml", "-o", "out", *cli_case.SCAN), "expected a name that ends in .h5"),
    ((*RECON, "--lam", "-1"), "'--lam': -1 is out of range"),
    ((*RECON, "--lam", "1e300"), "'--lam': 1e+300 is out of range"),
    ((*RECON, "--iterations", "0"), "0 is not in the range x>=1"),
    ((*RECON, "--regulariser", "tv"), "'tv' is not one of 'l2', 'llr', 'wavelet'"),
    ((*RECON, "--scaling", "pics"), "'pics' is not one of 'none', 'bart'"),
    ((*RECON, "--shift", "all"), "'all' is not one of 'none', 'random', 'overlap'"),
    ((*RECON, "--solver", "ist"), "'ist' is not one of 'cg', 'fista', 'admm'"),
    ((*MAPS, "--solver", "cg", "--regulariser", "llr"), "solver is cg, which cannot solve llr; use fista or admm"),
    ((*RECON, "--block", "0"), "0 is not in the range x>=1"),
    ((*RECON, "--tolerance", "nan"), "'--tolerance': nan is out of range, expected 0 to 1"),
    ((*MAPS, "--mask-level", "nan"), "nan is out of range, expected 0 to 1"),
    ((*FIT, "--mask-level", "-0.1"), "-0.1 is out of range, expected 0 to 1"),
    ((*FIT, "--like", "nothing.h5"), "nothing.h5 does not exist"),
    ((*RECON, "--threads", "0"), "--threads is 0, expected at least 1"),
    (("info", "b", "--threads", "-2"), "--threads is -2"),
    (("info", "nothing"), "cannot read nothing.hdr"),
    (("info", "c"), "is it a basis?"),
    (("info", ""), "the name is empty"),
    ((*RECON, "--iteration", "3"), "Did you mean one of: '--iterations', '--tolerance', '--traj-third'?)"),
    ((*RECON[:3], "more", *RECON[3:]), "unexpected extra argument (more)"),
    (RECON[:3], "Missing option '-o' / '--output'; see 'crbsvd recon --help'"),
    (("recon",), "Missing argument 'RAW'"),
    (("reco", *RECON[1:]), "no verb is called 'reco'"),
    (("mapps", *RECON[1:]), "did you mean 'maps'?"),
    (("--nothing",), "No such option '--nothing'"),
    (("demo", "out", "--matrix", "4"), "4 is not in the range 8<=x<=32767"),
    (("demo", "out", "--snr", "0"), "0 is out of range"),
    (("demo", "spec.toml"), "spec.toml is a file, expected a folder"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"), OPTIONS, ids=lambda value: value if isinstance(value, str) else " ".join(value[::3])
)
def test_options(refused: Callable[..., str], arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)


def test_bart_is_missing(refused: Callable[..., str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    monkeypatch.delenv("BART_TOOLBOX_PATH", raising=False)
    for verb in (RECON, MAPS):
        for option in ("--backend", "--sens"):
            assert "there is no program 'bart' on PATH: install it" in refused(*verb, option, "bart")
