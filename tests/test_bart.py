"""BART as a program: how it is run, how it fails and how it ends, and its temporary folder."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from crbsvd_plugin import bart
from crbsvd_plugin.errors import UserError


def stand_in(folder: Path, script: str, monkeypatch) -> None:
    """Put a shell script named bart first on PATH."""
    program = folder / "bin" / "bart"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.bart
def test_version():
    assert bart.version().startswith("v")


@pytest.mark.bart
def test_failure_of_the_real_program(tmp_path):
    with pytest.raises(UserError, match=r"BART failed .*missing.*the command: bart pics -l2 missing b c") as caught:
        bart.run(["pics", "-l2", "missing", "b", "c"], folder=tmp_path, threads=1)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


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


@pytest.fixture
def full_stdin():
    """Give this process a standard input with six bytes in it, as if it were in a pipe."""
    saved, (out, into) = os.dup(0), os.pipe()
    os.write(into, b"stream")
    os.close(into)
    os.dup2(out, 0)
    yield
    os.dup2(saved, 0)
    os.close(saved)
    os.close(out)


def test_arguments_folder_threads_and_input(monkeypatch, tmp_path, full_stdin):
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
        ("echo 0; echo one >&2; echo '\033[31mERROR:\033[0m 2' >&2; exit 3", r"exit status 3\).*: one / ERROR: 2;"),
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
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
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


SLEEPER = "echo $$ > '{0}/new'; mv '{0}/new' '{0}/pid'; exec sleep 60"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_interrupt_kills_bart_before_it_goes_on(monkeypatch, tmp_path):
    stand_in(tmp_path, SLEEPER.format(tmp_path), monkeypatch)

    def interrupt(*_):
        if (tmp_path / "pid").exists():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            bart.run(["x"], folder=tmp_path, threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not is_running(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_bart_dies_with_its_parent(monkeypatch, tmp_path, number):
    stand_in(tmp_path, SLEEPER.format(tmp_path), monkeypatch)
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


def test_temporary_folder_is_private_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def interrupted():
        with bart.temporary_folder() as folder:
            assert folder.parent == tmp_path
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "a").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_temporary_folders_of_killed_runs_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "crbsvd-bart").mkdir()
    with bart.temporary_folder() as of_another_run:
        left = of_another_run.with_name(f"{of_another_run.name}0")
        left.mkdir()
        (left / "ksp.cfl").write_text("x")
        with bart.temporary_folder():
            assert not left.exists()
            assert of_another_run.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["crbsvd-bart"]


def test_no_place_for_temporary_files_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(UserError, match=r"no place for temporary files.*TMPDIR"), bart.temporary_folder():
        pytest.fail("there is a folder")


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
