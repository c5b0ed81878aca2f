"""BART as a program: its version, how it is run and watched, how it fails and how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bart_case import SLEEPER, is_running, stand_in, wait_until

from crbsvd_plugin import bart
from crbsvd_plugin.errors import UserError


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


NEWER = bart.Feature("--something", (0, 8, 0))


@pytest.mark.parametrize(
    "printed",
    ["v0.8.00", "0.8.00", "v0.8.00-3-gabcdef0-dirty", "v0.9.00-123-g0123456", "v0.10.00", "v1.0.00", "v1.0.0"],
)
def test_versions_that_are_new_enough(monkeypatch, tmp_path, printed):
    stand_in(tmp_path, f"echo {printed}", monkeypatch)
    bart.require([bart.Feature("--other", (0, 7, 0)), NEWER])


@pytest.mark.parametrize("printed", ["v0.7.00", "v0.7.00-99-gabcdef0", "v0.4.04", "0.7.99"])
def test_versions_that_are_too_old(monkeypatch, tmp_path, printed):
    stand_in(tmp_path, f"echo {printed}", monkeypatch)
    number = printed.removeprefix("v").split("-")[0]
    with pytest.raises(
        UserError, match=rf"^--something needs BART 0\.8\.00 or newer, but .*bart is {number}: "
    ) as caught:
        bart.require([NEWER, bart.Feature("--other", (0, 4, 0))])
    assert "\n" not in str(caught.value)


def test_a_version_that_says_nothing_is_taken_for_a_new_one(monkeypatch, tmp_path, caplog):
    stand_in(tmp_path, "echo abcdef0", monkeypatch)
    bart.require([NEWER])
    assert "the version of BART is 'abcdef0', which says nothing" in caplog.text


def test_nobody_asks_for_the_version_without_need(monkeypatch, tmp_path):
    stand_in(tmp_path, "exit 1", monkeypatch)
    bart.require([])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BART_TOOLBOX_PATH", raising=False)
    with pytest.raises(UserError, match="no program 'bart' on PATH"):
        bart.require([])


def test_lines_come_while_it_runs_and_whole(monkeypatch, tmp_path):
    """Each line lets the script go on: if lines came at the end only, it would wait for the first one for ever."""
    script = """printf '#0: 1'; printf '.5\\n#1: 2.5\\nno'; until [ -e 1 ]; do sleep 0.01; done
printf 't yet\\n' ; printf 'ERR \\377\\n' >&2; until [ -e 2 ]; do sleep 0.01; done; printf last"""
    stand_in(tmp_path, script, monkeypatch)
    lines = []

    def on_line(line):
        lines.append(line)
        if line.startswith("#1"):
            (tmp_path / "1").touch()
        if line.startswith("ERR"):
            (tmp_path / "2").touch()

    signal.alarm(30)  # what hangs shall fail
    printed = bart.run(["x"], folder=tmp_path, threads=1, on_line=on_line)
    signal.alarm(0)
    assert printed == "#0: 1.5\n#1: 2.5\nnot yet\nlast"
    assert lines[:2] == ["#0: 1.5", "#1: 2.5"]
    assert sorted(lines[2:]) == ["ERR \ufffd", "not yet"]


@pytest.mark.parametrize("status", [0, 1])
def test_full_pipes_do_not_hang_and_nothing_is_lost(monkeypatch, tmp_path, status):
    """Of each ten times what a pipe holds (64 KiB), and in an order in which one reader alone would wait."""
    script = f"""import sys
for i in range(10):
    for stream in (sys.stderr, sys.stdout):
        stream.write((f"{{i}} " + stream.name[4:6]) * 20000 + "\\n")
        stream.flush()
sys.exit({status})
"""
    stand_in(tmp_path, script, monkeypatch, interpreter=sys.executable)
    signal.alarm(60)
    try:
        out = bart.run(["x"], folder=tmp_path, threads=1)
        err = None
    except UserError as error:
        assert status == 1
        out, err = error.__notes__[0].removeprefix("standard output:\n").split("\nstandard error:\n")
    signal.alarm(0)
    assert out == "".join(f"{i} ou" * 20000 + "\n" for i in range(10))
    if err is not None:
        assert err == "".join(f"{i} er" * 20000 + "\n" for i in range(10))


def test_an_exception_of_the_callback_ends_it(monkeypatch, tmp_path):
    stand_in(tmp_path, f"echo $$; {SLEEPER.format(tmp_path)}", monkeypatch)

    def on_line(line):
        raise ZeroDivisionError(line)

    with pytest.raises(ZeroDivisionError) as caught:
        bart.run(["x"], folder=tmp_path, threads=1, on_line=on_line)
    assert not is_running(int(str(caught.value)))


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
    package = str(Path(bart.__file__).parents[2])
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
