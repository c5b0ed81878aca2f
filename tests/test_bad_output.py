"""Output that is taken or cannot be written: exit status 2, one line, and the folder is as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cli_case
import pytest

from crbsvd_plugin.cli import main

VERBS = {
    "basis": ("basis", "spec.toml", *cli_case.SIZES, "-o"),
    "simulate": ("simulate", "spec.toml", *cli_case.SCAN, "-o"),
    "recon": ("recon", "raw.h5", "b", "-o"),
    "fit": ("fit", "c", "b", "-o"),
    "maps": ("maps", "raw.h5", "b", "-o"),
}


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = cli_case.listing(folder)
    capsys.readouterr()
    status = main(list(arguments))
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert cli_case.listing(folder) == before
    return err


@pytest.mark.parametrize(
    ("verb", "output", "file"),
    [
        ("basis", "b", "b.cfl"),
        ("basis", "c", "c.cfl"),
        ("simulate", "raw.h5", "raw.h5"),
        ("simulate", "b.h5", "b.h5"),
        ("recon", "c", "c.cfl"),
        ("recon", "b", "b.cfl"),
    ],
)
def test_nothing_is_overwritten(
    here: Path, capsys: pytest.CaptureFixture[str], verb: str, output: str, file: str
) -> None:
    assert f"{file} exists already: choose another name, or say --force" in refused(here, capsys, *VERBS[verb], output)
    if verb == "basis":
        assert "exists already" in refused(here, capsys, *VERBS[verb], output, "--dry-run")


def test_maps_are_not_overwritten_but_replaced_by_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*VERBS["fit"], "m"]) == 0
    (here / "m" / "notes.txt").write_text("mine")
    for verb in ("fit", "maps"):
        assert "m/maps.json exists already" in refused(here, capsys, *VERBS[verb], "m")
    names = set(cli_case.listing(here))
    assert main([*VERBS["fit"], "m", "--force", "--mask-level", "0"]) == 0
    assert set(cli_case.listing(here)) == names
    assert (here / "m" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("verb", "output", "foreign"),
    [
        ("basis", "x", "x.h5"),
        ("simulate", "x.h5", "x_GM.nii.gz"),
        ("recon", "x", "x.hdr"),
        ("recon", "x", "x.json"),
        ("fit", "x", "x/T1map.json"),
        ("maps", "x", "x/maps.json"),
    ],
)
def test_force_does_not_replace_what_is_not_ours(
    here: Path, capsys: pytest.CaptureFixture[str], verb: str, output: str, foreign: str
) -> None:
    (here / foreign).parent.mkdir(exist_ok=True)
    (here / foreign).write_text('{"mine": 1}')
    name = foreign.rpartition("/")[2]
    assert f"{name} exists and is not" in refused(here, capsys, *VERBS[verb], output, "--force")


@pytest.mark.parametrize(("verb", "output"), [("basis", "c"), ("recon", "b")])
def test_force_does_not_replace_a_basis_by_coefficients_nor_they_by_a_basis(
    here: Path, capsys: pytest.CaptureFixture[str], verb: str, output: str
) -> None:
    assert "--force does not replace it" in refused(here, capsys, *VERBS[verb], output, "--force")


def test_force_replaces_what_the_verb_made(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, c = set(cli_case.listing(here)), (here / "c.cfl").read_bytes()
    assert main([*VERBS["basis"], "b", "--force"]) == 0
    assert main([*VERBS["simulate"], "raw.h5", "--force"]) == 0
    assert main([*VERBS["recon"], "c", "--force", "--threads", "1"]) == 0
    # and all of it is the same again
    assert (here / "c.cfl").read_bytes() == c
    assert set(cli_case.listing(here)) == names


@pytest.mark.parametrize("verb", VERBS)
def test_an_output_below_a_file(here: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    message = refused(here, capsys, *VERBS[verb], "spec.toml/x.h5")
    assert "spec.toml is a file, expected a folder" in message


@pytest.mark.parametrize("verb", ["fit", "maps"])
def test_a_folder_that_is_a_file(here: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert "spec.toml is a file, expected a folder" in refused(here, capsys, *VERBS[verb], "spec.toml")


@pytest.mark.parametrize("output", ["", "folder/", "."])
@pytest.mark.parametrize("verb", ["basis", "simulate", "recon"])
def test_an_output_that_is_no_name_of_a_file(
    here: Path, capsys: pytest.CaptureFixture[str], verb: str, output: str
) -> None:
    (here / "folder").mkdir()
    assert "name" in refused(here, capsys, *VERBS[verb], output)


@pytest.mark.parametrize("verb", VERBS)
def test_a_name_that_is_too_long(here: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert "too long" in refused(here, capsys, *VERBS[verb], "x" * 260 + ".h5")


def test_maps_of_several_volumes_are_refused_before_the_work(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out" / "volume-1").mkdir(parents=True)
    (here / "out" / "volume-1" / "maps.json").write_text("{}")
    message = refused(here, capsys, *VERBS["maps"], "out", "--groups", "repetition")
    assert "volume-1/maps.json exists already" in message


# smaller than the last file of each, so that some have been written when it happens
LIMITS = {
    "basis": ("new/out", 20000),
    "simulate": ("new/out.h5", 100_000),
    "recon": ("new/out", 20000),
    "maps": ("new/out", 3000),
}


@pytest.mark.parametrize("verb", LIMITS)
def test_no_space_left_for_a_file(here: Path, verb: str) -> None:
    output, limit = LIMITS[verb]
    before = cli_case.listing(here)
    command = [sys.executable, "-c", cli_case.LIMITED, str(limit)]
    done = cli_case.run(*VERBS[verb], output, cwd=here, command=command)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert "the file would be larger than allowed there" in done.stderr
    assert cli_case.listing(here) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 KiB, where root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "fit"])
def test_no_space_left_on_the_disk(here: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    message = refused(small_disk, capsys, *VERBS[verb], f"{small_disk}/out.h5")
    assert f"cannot write {small_disk}" in message
    assert "no space is left there" in message


def test_standard_output_on_a_full_disk(made: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = cli_case.run("info", "b", cwd=made, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert (
        done.stderr
        == "crbsvd: cannot write the output (No space left on device); free some space or choose another place\n"
    )


def test_a_folder_that_is_read_only(here: Path) -> None:
    # without its capability to write anywhere (CAP_DAC_OVERRIDE), root is a user like any other
    drop = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    (here / "closed").mkdir()
    (here / "closed").chmod(0o555)
    before = cli_case.listing(here)
    for verb in ("recon", "maps"):
        done = cli_case.run(
            *VERBS[verb], "closed/out", cwd=here, command=[sys.executable, "-c", drop, *cli_case.COMMAND]
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "writing there is not permitted" in done.stderr
        assert cli_case.listing(here) == before


def test_a_reader_that_has_gone(made: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = cli_case.run("info", "b", cwd=made, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
