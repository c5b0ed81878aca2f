"""The command line with BART: its options, its progress, and its death in every form."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_case
import numpy as np
import pytest
from bart_case import SLEEPER, is_running, recorder, stand_in, wait_until

from crbsvd_plugin import bart, run
from crbsvd_plugin.cli import main
from crbsvd_plugin.images import CoefficientImages

RECON, MAPS = ("recon", "raw.h5", "b", "-o", "out"), ("maps", "raw.h5", "b", "-o", "out")
BART = ("--backend", "bart")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place for temporary files, with nothing in it."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run the command in this process, and return the one line that it says."""
    yield from cli_case.refuser(here, capsys)


@pytest.mark.bart
def test_its_options_are_in_the_sidecar_and_its_kernel_is_kept(here: Path, scratch: Path) -> None:
    terms = ("--bart-term", "W:7:0:0.010", "--bart-term", "T:7:0:0.02")
    options = (*BART, *terms, "--sens", "bart", "--bart-lowmem", "--kernel-cache", "kept", "--iterations", "8")
    assert main([*RECON, *options, "--threads", "1"]) == 0
    info = json.loads((here / "out.json").read_text())["info"]
    kept = ("backend", "sens", "bart_terms", "bart_lowmem", "regulariser", "lam", "solver")
    assert [info[name] for name in kept] == ["bart", "bart", ["W:7:0:0.010", "T:7:0:0.02"], True, None, None, "admm"]
    assert len(list((here / "kept").iterdir())) == 1
    first = CoefficientImages.load(here / "out").coeff
    assert main([*RECON, *options, "--threads", "1", "--force"]) == 0
    assert len(list((here / "kept").iterdir())) == 1
    np.testing.assert_array_equal(CoefficientImages.load(here / "out").coeff, first)
    assert main([*RECON[:-1], "plain", *BART, "--sens", "bart", "--iterations", "8"]) == 0
    assert np.linalg.norm(CoefficientImages.load(here / "plain").coeff - first) > 0.01 * np.linalg.norm(first)
    assert list(scratch.iterdir()) == []


@pytest.mark.bart
def test_the_printed_command_gives_the_same_image_where_the_files_are_kept(
    here: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is pasted; of the dimensions that are printed with it."""
    options = ("--iterations", "8", "--lam", "0.01")
    assert main([*RECON, *options, *BART, "--bart-keep", "files", "--threads", "1"]) == 0
    capsys.readouterr()
    assert main([*RECON, *options, "--dry-run"]) == 0
    *_, command, dims = (line[13:] for line in capsys.readouterr().out.splitlines())
    for part in dims.split(", "):
        name, sizes = part.split(" ", 1)
        found = (here / "files" / "0" / f"{name}.hdr").read_text().splitlines()[1].split()
        assert found[: len(sizes.split())] == sizes.split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command.split(), cwd=here / "files" / "0", env=environment, check=True)
    pasted = bart.read_cfl(here / "files" / "0" / "coeff").squeeze().T
    ours = CoefficientImages.load(here / "out").volume(0)
    assert np.linalg.norm(ours) > 0
    np.testing.assert_array_equal(pasted, ours.reshape(pasted.shape))
    assert sorted(path.name for path in (here / "files").iterdir()) == ["0"]
    line = refused(*RECON, *BART, "--bart-keep", "files", "--force")
    assert "files for the files of bart exists; remove it, or name another folder" in line


@pytest.mark.bart
@pytest.mark.parametrize("regulariser", ["l2", "llr"])
def test_its_iterations_are_reported(here: Path, regulariser: str) -> None:
    config = run.config(
        basis="b", backend="bart", fit=False, iterations=7, regulariser=regulariser, lam=0.01, kernel_cache=None
    )
    steps: list[tuple[str, int, int]] = []
    run.recon("raw.h5", config, "out", force=False, report=lambda *step: steps.append(step))
    assert [step for step in steps if step[0] == "reconstruction"] == [("reconstruction", i, 7) for i in range(8)]


def test_a_bart_that_is_too_old(refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorder(tmp_path, "v0.6.00", monkeypatch)
    for option, needed in ((("--bart-lowmem",), "0.7.00"), (("--kernel-cache", str(tmp_path / "kept")), "0.8.00")):
        line = refused(*RECON, *BART, *option)
        assert f"needs BART {needed} or newer, but " in line
        assert "bart is 0.6.00: install a newer one, or leave this out" in line
    assert calls() == []


DEATHS = [
    ("echo 'bart: ./src/x.c:7: f: Assertion `0 < n` failed.' >&2; kill -ABRT $$", "by SIGABRT", "`0 < n` failed"),
    ("kill -SEGV $$", "by SIGSEGV", "its last words: nothing"),
    ("printf '#0: 1\\n#1: 0.5\\n'; kill -KILL $$", "by SIGKILL", "#0: 1 / #1: 0.5; if nobody killed it, memory ran"),
    ("echo 'ERROR: no basis' >&2; exit 1", "exit status 1", "its last words: ERROR: no basis"),
    ("head -c 999 /dev/zero > coeff.cfl; kill -BUS $$", "by SIGBUS", "no space is left for temporary files"),
    ("exit 0", "left no images", "coeff.hdr (No such file"),
]  # fmt: skip


@pytest.mark.parametrize("verb", [RECON, MAPS], ids=["recon", "maps"])
@pytest.mark.parametrize(("script", "how", "words"), DEATHS, ids=[how for _, how, _ in DEATHS])
def test_its_death_is_one_line_and_leaves_nothing(
    refused: Callable[..., str], scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    verb: tuple[str, ...], script: str, how: str, words: str,
) -> None:  # fmt: skip
    stand_in(tmp_path, script, monkeypatch)
    line = refused(*verb, *BART)
    assert how in line
    assert words in line
    assert list(scratch.iterdir()) == []


def test_the_death_of_its_calibration_is_one_line(
    refused: Callable[..., str], scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "echo 'Calibration region not found!' >&2; exit 1", monkeypatch)
    line = refused(*RECON, "--sens", "bart")
    assert "its last words: Calibration region not found!; the command: bart ecalib -m 1 -c 0 -t 0.0004 " in line
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_end_of_the_command_is_that_of_bart(
    here: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    stand_in(tmp_path, SLEEPER.format(tmp_path), monkeypatch)
    before = cli_case.listing(here)
    environment = {**os.environ, "TMPDIR": str(scratch)}
    command = [*cli_case.COMMAND, *RECON, *BART]
    with subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert wait_until((tmp_path / "pid").exists, seconds=60)
            pid = int((tmp_path / "pid").read_text())
            assert is_running(pid)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert wait_until(lambda: not is_running(pid))
    assert out == ""
    assert cli_case.listing(here) == before
    left = list(scratch.glob("crbsvd-bart-*"))
    if number == signal.SIGINT:
        assert (process.returncode, err.strip(), left) == (130, "crbsvd: interrupted", [])
        return
    assert process.returncode == -signal.SIGKILL
    assert len(left) == 1
    assert (left[0] / "ksp.cfl").exists()
    stand_in(tmp_path, "exit 1", monkeypatch)
    assert main([*RECON, *BART]) == 2
    assert list(scratch.glob("crbsvd-bart-*")) == []
