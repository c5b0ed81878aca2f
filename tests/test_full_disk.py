"""Disks of every size from next to nothing to just enough: a message, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli_case
import pytest

QUICK = ("--threads", "1", "--iterations", "3")
OUTPUTS = {
    "recon": ("recon", "raw.h5", "b", "-o", "disk/out", *QUICK),
    "maps": ("maps", "raw.h5", "b", "-o", "disk/out", *QUICK, "--no-misfit"),
    "volumes": ("maps", "raw.h5", "b", "-o", "disk/out", *QUICK, "--groups", "repetition", "--no-misfit"),
    "simulate": ("simulate", "spec.toml", "-o", "disk/out.h5", *cli_case.SCAN),
    "fit": ("fit", "c", "b", "-o", "disk/out"),
    "basis": ("basis", "spec.toml", "-o", "disk/out", *cli_case.SIZES),
}
# Runs in a name space of its own, where everyone may mount: one size [KiB] after the other, until there is enough.
PROGRAM = """
import contextlib, io, json, os, subprocess, sys
from crbsvd_plugin.cli import main
sizes, arguments = json.loads(sys.argv[1]), sys.argv[2:]
for size in sizes:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", "disk"], check=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    left = [name for _, *names in os.walk("disk") for some in names for name in some]
    print(json.dumps({"status": status, "out": out.getvalue(), "err": err.getvalue(), "left": left}), flush=True)
    subprocess.run(["umount", "disk"], check=True)
    if status == 0:
        break
"""


@pytest.fixture(scope="module")
def enter() -> list[str]:
    """The command that enters a name space where a file system can be mounted, if that is allowed here."""
    command = ["unshare", "--map-root-user", "--mount"]
    check = [*command, "sh", "-c", "mount -t tmpfs -o size=4k none /mnt"]
    if not shutil.which("unshare") or subprocess.run(check, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    return command


def filled(enter: list[str], here: Path, sizes: list[int], *arguments: str, **variables: str) -> list[dict[str, Any]]:
    """Run the command on disks of these sizes [KiB], until it goes through; return what it did on each."""
    (here / "disk").mkdir()
    before = cli_case.listing(here)
    command = [*enter, sys.executable, "-c", PROGRAM, json.dumps(sizes)]
    done = cli_case.run(*arguments, cwd=here, command=command, env=variables)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    after = cli_case.listing(here)
    assert {name: one for name, one in after.items() if not name.startswith("out.")} == before
    assert found[-1]["status"] == 0 or after == before
    return found


def check_refused(one: dict[str, Any], message: str) -> None:
    assert (one["status"], one["out"], one["left"]) == (2, "", [])
    assert message in one["err"]
    assert one["err"].count("\n") == 1


@pytest.mark.parametrize("verb", [pytest.param(verb, marks=pytest.mark.slow) for verb in OUTPUTS])
def test_output(enter: list[str], here: Path, verb: str) -> None:
    # a page is 4 KiB; every file takes one or more
    steps = {"recon": 4, "volumes": 24, "basis": 8, "simulate": 48}
    sizes = list(range(4, 1000, steps.get(verb, 12)))
    *refused, last = filled(enter, here, sizes, *OUTPUTS[verb])
    assert len(refused) > 4
    for one in refused:
        check_refused(one, "crbsvd: cannot write disk/out")
        assert "no space is left there; free some or choose another place" in one["err"]
    assert (last["status"], last["err"]) == (0, "")
    assert not [name for name in last["left"] if name.startswith(".") or name.endswith(".part")]


def test_kernels_that_find_no_place_are_only_a_warning(enter: list[str], here: Path) -> None:
    (one,) = filled(enter, here, [16], *OUTPUTS["recon"][:4], "out", *QUICK, "--kernel-cache", "disk/kernels")
    assert one["status"] == 0
    assert one["err"].startswith("crbsvd: kernel cache: cannot write ")
    assert "disk/kernels/" in one["err"]
    assert "no space is left there" in one["err"]
    assert (one["err"].count("\n"), one["left"]) == (1, ["kernels"])
    assert is_whole(here)


def is_whole(here: Path) -> bool:
    return all((here / f"out{suffix}").stat().st_size > 0 for suffix in (".cfl", ".hdr", ".json"))


@pytest.mark.bart
def test_temporary_files_of_bart(enter: list[str], here: Path) -> None:
    """What we write for BART does not fit, then what BART writes does not, then all does."""
    arguments = (*OUTPUTS["recon"][:4], "out", *QUICK, "--backend", "bart")
    found = filled(enter, here, list(range(20, 1000, 20)), *arguments, TMPDIR=str(here / "disk"))
    *refused, last = found
    for one in refused:
        check_refused(one, "TMPDIR")
    theirs = [one for one in refused if "BART failed" in one["err"]]
    assert theirs
    assert len(theirs) < len(refused)
    assert (last["status"], last["err"], last["left"]) == (0, "", [])
    assert is_whole(here)
