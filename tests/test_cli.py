"""The command: its verbs agree with each other, and what it says goes where it belongs."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import cli_case
import nibabel as nib
import numpy as np
import pytest

from crbsvd_plugin import bart, bundle, cli, run
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.cli import VERBS, main
from crbsvd_plugin.dictionary import Dictionary, compress
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.spec import resolve

HEAVY = {"finufft", "h5py", "ismrmrd", "matplotlib", "nibabel", "scipy", "sigpy"}


def terminal(*arguments: str, cwd: Path, until: str = "") -> tuple[int, str, str]:
    """Run the command with standard error on a terminal, and interrupt it when that shows `until`."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 80))
    with subprocess.Popen(
        [*cli_case.COMMAND, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=its, text=True
    ) as process:
        os.close(its)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
                if until and until.encode() in shown:
                    until = ""
                    process.send_signal(signal.SIGINT)
        except OSError:
            pass  # the other end is closed
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, out, shown.decode()


def same_maps(one: Path, other: Path, *, std: bool = True) -> None:
    names = sorted(path.name for path in one.glob("*.nii.gz"))
    parameters = ["EDGEmap", "M0map", "M0phase", "T1map", "T2map"]
    quality = ["CHI2map", "M0std", "MISFITmap", "T1std", "T2std"] if std else []
    assert names == sorted(f"{name}.nii.gz" for name in parameters + quality)
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_second_scan_finds_its_kernel(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["recon", "raw.h5", "b", "--iterations", "2", "--threads", "1", "--kernel-cache", "kept", "-v"]
    assert main([*command, "-o", "one"]) == 0
    assert "kernel from" not in capsys.readouterr().err
    (kernel,) = (here / "kept").iterdir()
    assert main([*command, "-o", "two"]) == 0
    assert f"kernel from kept/{kernel.name}" in capsys.readouterr().err
    assert (here / "one.cfl").read_bytes() == (here / "two.cfl").read_bytes()
    # a place that cannot be one is refused before the work
    (here / "kept").chmod(0o777)
    assert main([*command, "-o", "three"]) == 2
    assert "kept can be written by others, expected a folder of your own" in capsys.readouterr().err
    assert main([*command[:-2], "raw.h5", "-o", "three"]) == 2
    assert "raw.h5 is a file, expected a folder" in capsys.readouterr().err
    assert not list(here.glob("three*"))


def test_recon_and_fit_are_maps(here: Path) -> None:
    """Bit for bit on one thread; on several, sums are in another order every time."""
    assert main(["fit", "c", "b", "-o", "fitted"]) == 0
    assert main(["maps", "raw.h5", "b", "-o", "maps", "--threads", "1"]) == 0
    same_maps(here / "fitted", here / "maps")
    t1, _ = load_map(here / "maps" / "T1map.nii.gz")
    true, _ = load_map(here / "raw_T1map.nii.gz")
    white, _ = load_map(here / "raw_WM.nii.gz")
    # not an empty agreement: white matter is white matter, on this coarse grid of atoms
    assert abs(np.median(t1[white > 0.99] / true[white > 0.99]) - 1) < 0.2


def test_refined_maps_lie_between_the_atoms(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known, full = Dictionary.load("b", Basis.load("b")), Basis.load("b")
    # the same basis, with derivatives
    dictionary = compress(
        full.model(), resolve("spec.toml").fit_prior.thinned(200, known.parameters), full, jacobian=True
    )
    bundle.save("d", full, dictionary)
    for folder, options in (("plain", ()), ("fitted", ("--refine",))):
        assert main(["fit", "c", "d", "-o", folder, *options]) == 0
    assert main(["maps", "raw.h5", "d", "-o", "maps", "--refine", "--threads", "1"]) == 0
    same_maps(here / "fitted", here / "maps")
    plain, fitted = (load_map(here / folder / "T1map.nii.gz")[0] for folder in ("plain", "fitted"))
    on_grid = np.isin(fitted, dictionary.theta[:, 0].astype(np.float32))
    inside = plain != 0
    assert np.isin(plain[inside], dictionary.theta[:, 0].astype(np.float32)).all()
    assert on_grid[inside].mean() < 0.5
    said = [json.loads((here / f / "T1map.json").read_text())["EstimationAlgorithm"] for f in ("plain", "fitted")]
    assert said[1] == f"{said[0]}, with a Gauss-Newton step from the best atom"
    # 'b' has none; what is missing is said before the data are read
    capsys.readouterr()
    for command in (["fit", "c", "b"], ["maps", "raw.h5", "b"]):
        assert main([*command, "-o", "refused", "--refine"]) == 2
        assert "make it again with 'crbsvd basis --derivatives'" in capsys.readouterr().err
    assert not (here / "refused").exists()


def test_rank_is_that_of_the_first_columns(here: Path) -> None:
    assert main(["recon", "raw.h5", "b", "-o", "c3", "--rank", "3", "--threads", "1"]) == 0
    assert main(["fit", "c3", "b", "-o", "fitted"]) == 0
    assert main(["maps", "raw.h5", "b", "-o", "maps", "--rank", "3", "--threads", "1"]) == 0
    same_maps(here / "fitted", here / "maps")
    assert CoefficientImages.load(here / "c3").digest == Basis.load(here / "b").truncate(3).digest


def test_plain_pics_output_takes_its_place_from_the_raw_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for end in ("cfl", "hdr"):
        shutil.copy(f"c.{end}", f"plain.{end}")
    assert main(["fit", "c", "b", "-o", "ours", "--no-std"]) == 0
    capsys.readouterr()
    assert main(["fit", "plain", "b", "-o", "like", "--like", "raw.h5", "--no-std"]) == 0
    assert capsys.readouterr().err == ""
    same_maps(here / "ours", here / "like", std=False)
    assert main(["fit", "plain", "b", "-o", "nowhere"]) == 0
    assert "plain has no sidecar: its place in the patient is unknown" in capsys.readouterr().err
    ours, nowhere = (load_map(here / folder / "T1map.nii.gz") for folder in ("ours", "nowhere"))
    np.testing.assert_array_equal(ours[0], nowhere[0])
    np.testing.assert_allclose(np.abs(np.diag(ours[1])[:3]), [7.5, 7.5, 5])  # 240 mm, 32 voxels
    np.testing.assert_allclose(np.abs(np.diag(nowhere[1])[:3]), 1)
    assert nib.load(here / "like" / "T1map.nii.gz").shape == (32, 32, 1)
    assert main(["simulate", "spec.toml", "-o", "small.h5", "--matrix", "16", "--coils", "2", "--shots", "1"]) == 0
    capsys.readouterr()
    assert main(["fit", "plain", "b", "-o", "wrong", "--like", "small.h5"]) == 2
    assert "they do not belong together" in capsys.readouterr().err


@pytest.mark.bart
def test_backends_agree_to_one_percent(here: Path) -> None:
    """BART 0.8.00 is a few per cent off within 1.5 cells of the edge of k-space: a share that falls with the matrix."""
    scan = ("--matrix", "128", "--coils", "4", "--shots", "8")
    assert main(["simulate", "spec.toml", "-o", "larger.h5", *scan]) == 0
    for backend in ("native", "bart"):
        assert main(["recon", "larger.h5", "b", "-o", backend, "--backend", backend, "--rank", "3"]) == 0
    native, other = (CoefficientImages.load(here / name).coeff for name in ("native", "bart"))
    error = np.linalg.norm(native - other) / np.linalg.norm(native)
    assert error < 0.01  # measured: 0.0041
    assert json.loads((here / "bart.json").read_text())["info"]["backend"] == "bart"


def test_sigpy_as_backend_gives_the_same_images_and_maps(here: Path) -> None:
    """The same steps in another program; threads add in another order in every run, and iterations amplify that."""
    options = ("--lam", "0.5", "--iterations", "5")
    for backend in ("native", "sigpy"):
        assert main(["recon", "raw.h5", "b", "-o", backend, "--backend", backend, *options]) == 0
        assert main(["maps", "raw.h5", "b", "-o", f"maps_{backend}", "--backend", backend, *options]) == 0
    native, other = (CoefficientImages.load(here / name).coeff for name in ("native", "sigpy"))
    assert np.linalg.norm(native - other) < 1e-3 * np.linalg.norm(native)
    assert json.loads((here / "sigpy.json").read_text())["info"]["backend"] == "sigpy"
    assert (here / "maps_sigpy" / "T1map.nii.gz").exists()


@pytest.mark.bart
def test_bart_reads_the_basis_and_the_coefficients(here: Path) -> None:
    assert bart.run(["show", "-m", "b"], folder=here, threads=1).split("\n")[-2].split()[-11:-9] == ["40", "4"]
    bart.run(["fmac", "-s", "64", "c", "b", "series"], folder=here, threads=1)
    images, basis = CoefficientImages.load(here / "c"), Basis.load(here / "b")
    expected = basis.expand(np.moveaxis(images.coeff[0, 0], 0, -1))
    series = bart.read_cfl(here / "series").squeeze()  # x, y, T
    np.testing.assert_allclose(series.swapaxes(0, 1), expected, atol=1e-5 * np.abs(expected).max())


def test_everywhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders that do not exist, dots, spaces and other letters in names; nothing said on standard error."""
    for name in ("basis_0.5", "new/ümläut ☃ 0.5", "../beside", str(here / "absolute")):
        assert main(["basis", "spec.toml", "-o", name, *cli_case.SIZES]) == 0
        for end in ("cfl", "hdr", "json", "h5"):
            assert Path(f"{name}.{end}").is_file()
        assert main(["recon", "raw.h5", name, "-o", f"{name}.coeff", "--iterations", "2"]) == 0
        assert main(["fit", f"{name}.coeff", name, "-o", f"{name} maps"]) == 0
        assert Path(f"{name} maps", "maps.json").is_file()
    assert capsys.readouterr().err == ""


def test_a_name_that_is_no_text(here: Path) -> None:
    done = cli_case.run("recon", "raw.h5", "b", "-o", os.fsdecode(b"\xff"), "--iterations", "2", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert (here / os.fsdecode(b"\xff.cfl")).is_file()


def test_one_frame_one_coil_and_one_iteration(here: Path) -> None:
    one = ("--set", "flip_angles=[0.5]")
    assert main(["basis", "spec.toml", "-o", "one", "--rank", "1", "--train", "50", "--atoms", "50", *one]) == 0
    scan = ("--matrix", "15", "--coils", "1", "--shots", "20")
    assert main(["simulate", "spec.toml", "-o", "scan.h5", *scan, *one]) == 0
    assert main(["recon", "scan.h5", "one", "-o", "image", "--iterations", "1"]) == 0
    assert CoefficientImages.load(here / "image").coeff.shape == (1, 1, 1, 15, 15)


def test_dry_run_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cli_case.listing(here)
    assert main(["basis", "spec.toml", "-o", "new/b", *cli_case.SIZES, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    spec = resolve("spec.toml")
    n_train = spec.prior.thinned(400, spec.model.parameters).size(spec.model.parameters)
    assert out.startswith(f"{n_train} fingerprints of 40 frames, ")
    assert "MiB" in out
    assert (err, cli_case.listing(here)) == ("", before)


def test_info(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "b"]) == 0
    out, err = capsys.readouterr()
    basis = Basis.load("b")
    assert out.splitlines()[0] == "b: real basis, 40 frames, 4 coefficients"
    assert basis.digest in out
    assert "crb weight 0.3 (weighting svd, real Fisher matrix)" in out
    assert err == ""
    Basis(basis.phi, np.ones(4), {"note": "from Python"}).save("python")
    Path("b.json").unlink()
    for name in ("b", "python"):
        assert main(["info", name]) == 0
        assert "where it comes from is not known" in capsys.readouterr().out


def test_help_of_every_verb_is_light(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith(f"Usage: crbsvd {verb} [OPTIONS]")
        assert "--threads" in out
        assert "--verbose" in out
        assert err == ""
    code = "import sys; from crbsvd_plugin.cli import main; main(['maps', '--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_without_a_verb_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert all(f"  {verb} " in out for verb in VERBS)
    assert err == ""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("crbsvd, version ")


def test_output_and_errors_are_apart(here: Path) -> None:
    """In a pipe there is no progress bar; what is said is on standard output, warnings on standard error."""
    done = cli_case.run("recon", "raw.h5", "b", "-o", "one", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "one: 4 coefficients, 32 x 32 x 1 voxels\n"
    weak = ("--rank", "2", "--crb-weight", "1", "--max-energy-loss", "0.001")
    done = cli_case.run("basis", "spec.toml", "-o", "weak", *cli_case.SIZES, *weak, cwd=here)
    assert done.returncode == 0
    assert done.stdout.startswith("loss [%]")
    assert done.stderr.startswith("crbsvd: a crb weight of 1 at rank 2 loses")
    assert done.stderr.count("\n") == 1


def test_a_terminal_shows_progress(here: Path) -> None:
    status, out, shown = terminal("maps", "raw.h5", "b", "-o", "m", cwd=here)
    assert status == 0
    for stage in ("readouts", "sensitivities", "reconstruction"):
        assert stage in shown
    assert out.splitlines()[-1] == "m/maps.json"
    assert len(out.splitlines()) == 24


def test_an_interrupt(here: Path) -> None:
    before = cli_case.listing(here)
    start = time.monotonic()
    status, out, shown = terminal("basis", "mrf-fisp", "-o", "new/b", "--train", "grid", cwd=here, until="fingerprints")
    assert time.monotonic() - start < 50  # the whole work takes minutes
    assert (status, out) == (130, "")
    assert shown.rstrip().splitlines()[-1].endswith("crbsvd: interrupted")
    assert "Traceback" not in shown
    assert cli_case.listing(here) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_where_writing_was_cut_short(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    def cut(name: object, array: object) -> None:
        Path(f"{name}.cfl").write_bytes(b"half")
        raise error("a defect")

    monkeypatch.setattr(bart, "write_cfl", cut)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(here.parent))
    before = cli_case.listing(here)
    status = main(["recon", "raw.h5", "b", "-o", "new/x", "--iterations", "2"])
    out, err = capsys.readouterr()
    assert cli_case.listing(here) == before
    assert out == ""
    logs = list(here.parent.glob("crbsvd-*.log"))
    if error is KeyboardInterrupt:
        # the first line ends the one that a terminal begins with ^C
        assert (status, err, logs) == (130, "\ncrbsvd: interrupted\n", [])
    else:
        assert status == 1
        assert err == f"crbsvd: internal error (RuntimeError: a defect); please report it with {logs[0]}\n"
        assert "Traceback" in logs[0].read_text()
        assert 'raise error("a defect")' in logs[0].read_text()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (MemoryError("Unable to allocate 9 TiB"), 2, "memory is not enough (Unable to allocate 9 TiB)"),
        (ValueError("two\nlines"), 1, "internal error (ValueError: two lines); please report it with the command line"),
        (FileNotFoundError(2, "No such file"), 1, "internal error (FileNotFoundError: [Errno 2] No such file)"),
    ],
)
def test_errors_are_one_line_even_without_a_place_for_a_log(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
    said: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run, "recon", fail)

    def no_place(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli.tempfile, "NamedTemporaryFile", no_place)
    assert main(["recon", "raw.h5", "b", "-o", "x"]) == status
    out, err = capsys.readouterr()
    assert err.startswith(f"crbsvd: {said}")
    assert (out, err.count("\n")) == ("", 1)
