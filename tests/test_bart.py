"""BART as a program: its files in both directions, how it is run, and how it fails."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from crbsvd_plugin import bart
from crbsvd_plugin.errors import UserError

DATA = "# Dimensions\n2 3\n"


def random_complex(shape, seed=0):
    rng = np.random.default_rng(seed)
    array = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    array.flags.writeable = False
    return array


def stand_in(folder: Path, script: str, monkeypatch) -> None:
    """Put a shell script named bart first on PATH."""
    program = folder / "bin" / "bart"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1, 7, 3), (5,), (4, 3, 2), (1, 4, 1, 1), (2,) * 16, (1,)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_round_trip_keeps_values_and_listed_dimensions(tmp_path, shape, order):
    array = np.asarray(random_complex(shape), order=order)
    bart.write_cfl(tmp_path / "a", array)
    for mapped in (False, True):
        back = bart.read_cfl(tmp_path / "a", mapped=mapped)
        assert back.shape == shape and back.dtype == np.complex64
        np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a.cfl", "<c8"), array.ravel(order="F"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128, np.int64])
def test_other_types_are_converted_in_chunks(tmp_path, monkeypatch, dtype):
    array = (10 * random_complex((3, 5, 1, 17)).real).astype(dtype)
    monkeypatch.setattr(bart, "_CHUNK", 40)  # 2 rows of 15: the last chunk is shorter
    bart.write_cfl(tmp_path / "a", array)
    np.testing.assert_array_equal(bart.read_cfl(tmp_path / "a"), array.astype(np.complex64))


def test_c_ordered_images_are_written_without_a_copy(tmp_path):
    coeff = random_complex((4, 256, 384))
    view = coeff.T[:, :, None, None, None, None, :]
    tracemalloc.start()
    try:
        bart.write_cfl(tmp_path / "coeff", view)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # the only buffer is that of the stream (128 KiB at most, depending on Python); a copy takes 3 MiB
    assert peak < 0.2 * coeff.nbytes
    assert bart.read_cfl(tmp_path / "coeff").shape == (384, 256, 1, 1, 1, 1, 4)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "coeff.cfl", np.complex64), coeff.ravel())


def test_suffixes_are_appended(tmp_path):
    for number in (5, 6):
        bart.write_cfl(tmp_path / f"basis_0.{number}", np.full(2, number))
    assert {path.name for path in tmp_path.iterdir()} == {f"basis_0.{n}.{s}" for n in (5, 6) for s in ("cfl", "hdr")}
    assert bart.read_cfl(tmp_path / "basis_0.5")[0] == 5


def test_headers_with_other_sections(tmp_path):
    array = random_complex((2, 3))
    bart.write_cfl(tmp_path / "a", array)
    for text in (
        "# Dimensions\n2 3 \n# Command\nphantom -x 2 # 7 7\n# Files\n >a\n# Creator\nBART v0.8.00\n",
        "# Command\nfoo \N{LATIN SMALL LETTER E WITH ACUTE}\n# Dimensions\r\n2 3\r\n",
        "# Dimensions\n2 3",
    ):
        (tmp_path / "a.hdr").write_bytes(text.encode("latin-1"))
        np.testing.assert_array_equal(bart.read_cfl(tmp_path / "a"), array)


@pytest.mark.parametrize(
    ("header", "n_bytes", "message"),
    [
        (DATA, 47, r"a\.cfl is truncated: it has 47 bytes, expected 48 for the dimensions 2 3"),
        (DATA, 0, r"truncated: it has 0 bytes, expected 48"),
        (DATA, 56, r"a\.cfl is too long: it has 56 bytes, expected 48"),
        (DATA, None, r"cannot read .*a\.cfl \(No such file.*without the suffix: check the name"),
        (None, 48, r"cannot read .*a\.hdr \(No such file"),
        ("", 48, r"a\.hdr is not a BART header: no line '# Dimensions' followed by sizes"),
        ("# Dimensions\n", 48, r"no line '# Dimensions' followed by sizes"),
        ("# Dimensions\n# Command\n2 3\n", 48, r"no line '# Dimensions' followed by sizes"),
        ("\x89HDF\x00\xff", 48, r"no line '# Dimensions'"),
        ("# Dimensions\n2 x 3\n", 48, r"dimensions read '2 x 3', expected positive whole numbers"),
        ("# Dimensions\n2 0 3\n", 0, r"expected positive whole numbers"),
        ("# Dimensions\n-2 -3\n", 48, r"expected positive whole numbers"),
        ("# Dimensions\n" + "1 " * 17, 8, r"lists 17 dimensions, expected at most 16"),
        ("# Dimensions\n999999999999 999999999999\n", 48, r"more than any file can hold"),
        ("# Dimensions\n99999999999 2\n", 48, r"truncated: it has 48 bytes, expected 1599999999984"),
    ],
)
def test_damaged_files(tmp_path, header, n_bytes, message):
    if header is not None:
        (tmp_path / "a.hdr").write_bytes(header.encode("latin-1"))
    if n_bytes is not None:
        (tmp_path / "a.cfl").write_bytes(bytes(n_bytes))
    with pytest.raises(UserError, match=message) as caught:
        bart.read_cfl(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "a.hdr").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*a\.hdr \(Is a directory"):
        bart.read_cfl(tmp_path / "a")


@pytest.mark.parametrize("shape", [(0, 3), (1,) * 17])
def test_arrays_that_bart_cannot_hold(tmp_path, shape):
    with pytest.raises(ValueError, match="positive numbers"):
        bart.write_cfl(tmp_path / "a", np.zeros(shape))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n_blocks", [1, 3])
def test_blocks_must_fill_the_dimensions(tmp_path, n_blocks):
    message = rf"{n_blocks * 6} numbers were given for the dimensions \(3, 2, 2\), expected 12"
    with pytest.raises(ValueError, match=message):
        bart.write_cfl_blocks(tmp_path / "a", (3, 2, 2), [np.ones((2, 3))] * n_blocks)
    assert not (tmp_path / "a.hdr").exists()


@pytest.mark.bart
def test_bart_reads_what_we_write_and_we_what_it_writes(tmp_path):
    array = random_complex((1, 1, 1, 1, 1, 7, 3))
    bart.write_cfl(tmp_path / "basis_0.5", array)
    shown = bart.run(["show", "-m", "basis_0.5"], folder=tmp_path, threads=1)
    dims = next(line for line in shown.splitlines() if line.startswith("AoD:")).split()[1:]
    assert dims[:7] == ["1", "1", "1", "1", "1", "7", "3"] and set(dims[7:]) == {"1"}
    bart.run(["copy", "basis_0.5", "copy"], folder=tmp_path, threads=1)
    back = bart.read_cfl(tmp_path / "copy")
    assert back.shape == array.shape + (1,) * 9
    np.testing.assert_array_equal(back.reshape(array.shape), array)


@pytest.mark.bart
def test_fmac_expands_coefficients_to_the_time_series(tmp_path):
    phi, coeff = random_complex((7, 3)), random_complex((3, 4, 5), seed=1)
    bart.write_cfl(tmp_path / "phi", phi[None, None, None, None, None])
    bart.write_cfl(tmp_path / "coeff", coeff.T[:, :, None, None, None, None, :])
    bart.run(["fmac", "-s", "64", "phi", "coeff", "series"], folder=tmp_path, threads=1)
    series = bart.read_cfl(tmp_path / "series").reshape(5, 4, 7, order="F").T
    expected = np.einsum("tk,kyx->tyx", phi, coeff)
    # K = 3 products and sums in float32
    assert np.abs(series - expected).max() < 6 * np.finfo(np.float32).eps * np.abs(expected).max()
    conjugated = np.einsum("tk,kyx->tyx", phi.conj(), coeff)
    assert np.linalg.norm(series - conjugated) > 0.5 * np.linalg.norm(expected)


# --- the program ----------------------------------------------------------------------------


@pytest.mark.bart
def test_version():
    assert bart.version().startswith("v")


@pytest.mark.bart
def test_failure_of_the_real_program(tmp_path):
    with pytest.raises(UserError, match=r"BART failed .*missing.*the command: bart pics -l2 missing b c") as caught:
        bart.run(["pics", "-l2", "missing", "b", "c"], folder=tmp_path, threads=1)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_missing_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BART_TOOLBOX_PATH", raising=False)
    with pytest.raises(UserError, match=r"no program 'bart' on PATH: install it .*apt-get install bart"):
        bart.run(["version"], folder=tmp_path, threads=1)


def test_toolbox_path_is_used_when_path_has_none(monkeypatch, tmp_path):
    stand_in(tmp_path, "exit 0", monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BART_TOOLBOX_PATH", str(tmp_path / "bin"))
    assert bart.find() == str(tmp_path / "bin" / "bart")


def test_arguments_folder_threads_and_input(monkeypatch, tmp_path):
    stand_in(tmp_path, 'printf "[%s]" "$@"; pwd; echo $OMP_NUM_THREADS $OPENBLAS_NUM_THREADS; wc -c', monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    folder = tmp_path / "a b"
    folder.mkdir()
    printed = bart.run(["x y", "$HOME", "*", "a;b", ""], folder=folder, threads=3)
    assert printed.splitlines() == [f"[x y][$HOME][*][a;b][]{folder.resolve()}", "3 3", "0"]
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo ignored; echo one >&2; echo '\033[31mERROR:\033[0m 2' >&2; exit 3", r"exit status 3\).*: one / ERROR: 2;"),
        ("echo only on stdout; exit 1", r"exit status 1\); its last words: only on stdout;"),
        ("exit 1", r"its last words: nothing;"),
        ("echo 'Assertion `a == b` failed' >&2; kill -ABRT $$", r"killed by SIGABRT\).*Assertion `a == b` failed;"),
        ("kill -SEGV $$", r"killed by SIGSEGV"),
        ("kill -KILL $$", r"killed by SIGKILL.*memory ran out"),
        ("kill -BUS $$", r"killed by SIGBUS.*no space"),
    ],
)
def test_failures_are_one_line_with_the_last_words(monkeypatch, tmp_path, script, message):
    stand_in(tmp_path, script, monkeypatch)
    with pytest.raises(UserError, match=message) as caught:
        bart.run(["pics", "-l2"], folder=tmp_path, threads=1)
    assert str(caught.value).endswith("the command: bart pics -l2")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert "standard output:" in caught.value.__notes__[0]


def is_running(pid: int) -> bool:
    """Tell whether a process lives; an orphan that nobody reaps counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition) -> bool:
    """Poll for at most ten seconds: long for a loaded machine, short of the stand-in's minute."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_bart_dies_with_its_parent(monkeypatch, tmp_path, number):
    stand_in(tmp_path, f"echo $$ > '{tmp_path}/new'; mv '{tmp_path}/new' '{tmp_path}/pid'; exec sleep 60", monkeypatch)
    code = f"from crbsvd_plugin import bart; bart.run(['x'], folder={str(tmp_path)!r}, threads=1)"
    package = str(Path(bart.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as parent:
        try:
            assert wait_until((tmp_path / "pid").exists)
            pid = int((tmp_path / "pid").read_text())
            assert is_running(pid)
            parent.send_signal(number)
            error = parent.communicate(timeout=10)[1]
            assert wait_until(lambda: not is_running(pid))
        finally:
            parent.kill()
    assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)


# --- the temporary folder -------------------------------------------------------------------


def test_temporary_folder_is_private_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), bart.temporary_folder() as folder:
        assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "a").write_text("x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_full_disk_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    message = r"cannot write in .*larger than allowed.*TMPDIR"
    try:
        with pytest.raises(UserError, match=message), bart.temporary_folder() as folder:
            bart.write_cfl(folder / "a", np.zeros(1 << 18, np.complex64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_errors_about_other_places_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), bart.temporary_folder() as folder:
        (folder / "missing").read_text()
    with pytest.raises(OSError, match="elsewhere"), bart.temporary_folder():
        raise OSError(errno.ENOSPC, "no space", str(tmp_path / "elsewhere"))
