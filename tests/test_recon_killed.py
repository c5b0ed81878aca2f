"""`recon` and `maps` killed at 50 moments: whole output or none, the next run goes through, and nothing is left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cli_case
import pytest

from crbsvd_plugin import files
from crbsvd_plugin.cli import main
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.images import CoefficientImages

QUICK = ("--threads", "1", "--iterations", "3")


@dataclass(frozen=True)
class Case:
    """A command, how often it is killed, and when.

    Parameters
    ----------
    arguments : tuple of str
        The command.
    sidecar : str
        The last file of what it makes.
    n_timed : int
        Kills at moments of the second half of the run, when its libraries have been loaded.
    n_writing : int
        Kills a moment after a hidden folder has appeared in `watched`.
    longest : float
        How long that moment may be [s].
    watched : str
        Folder that is watched.
    alone : int
        For so many of the kills the command alone is killed; else all processes that it has started, too.
    """

    arguments: tuple[str, ...]
    sidecar: str
    n_timed: int
    n_writing: int
    longest: float
    watched: str
    alone: int = 0


RECON, MAPS = (
    ("recon", "raw.h5", "b", "-o", "out/c", *QUICK),
    ("maps", "raw.h5", "b", "-o", "out", *QUICK, "--no-misfit"),
)
CASES = {
    # files are written within 2 ms, maps with their pictures within 0.6 s
    "recon": Case(RECON, "c.json", 4, 14, 0.002, "out"),
    "maps": Case(MAPS, "maps.json", 3, 9, 0.6, "out"),
    "kernel cache": Case((*RECON, "--kernel-cache", "cache"), "c.json", 2, 10, 0.003, "cache"),
    "bart": Case((*RECON, "--backend", "bart"), "c.json", 0, 8, 0.3, "temporary", alone=4),
}
assert sum(case.n_timed + case.n_writing for case in CASES.values()) == 50


def hidden(folder: Path) -> list[str]:
    """Return what is to be gone at the end: hidden folders, and BART's."""
    mine = (".", "crbsvd-bart-")
    return [path.name for path in folder.iterdir() if path.name.startswith(mine)] if folder.exists() else []


def wait_for(true: Callable[[], object], seconds: float) -> bool:
    """Wait until something is so, looking 5000 times a second; return whether it came to be."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(2e-4)
    return bool(found)


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose working folder is `folder` or lies below it."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            place = Path(str(link.readlink()).removesuffix(" (deleted)"))
        except OSError:
            continue
        if folder in (place, *place.parents):
            found.append(int(link.parent.name))
    return found


@pytest.fixture
def room(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the scan, and folders for output, kernels and temporary files in it."""
    for name in ("out", "temporary"):
        (tmp_path / name).mkdir()
    for name in ("raw.h5", "b.cfl", "b.hdr", "b.json", "b.h5"):
        shutil.copy(made / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield tmp_path
    monkeypatch.setattr("tempfile.tempdir", None)


def killed(case: Case, moment: float, *, writing: bool, alone: bool) -> None:
    """Run the command, and kill it at a moment: seconds from its start, or from the beginning of its writing."""
    with subprocess.Popen(
        [*cli_case.COMMAND, *case.arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        started = not writing or wait_for(lambda: hidden(Path(case.watched)) or process.poll() is not None, 120)
        end = time.monotonic() + moment
        wait_for(lambda: time.monotonic() > end or process.poll() is not None, 120)
        if process.poll() is None:
            process.kill() if alone else os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate()
    assert started
    assert process.returncode in (0, -signal.SIGKILL), err
    assert err == b""


def state(folder: Path, sidecar: str) -> str:
    """Return what a killed run left: nothing, a whole output, or one whose commit the next run will finish."""
    visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if (folder / sidecar).exists():
        files.verify(folder / sidecar, files.read_json(folder / sidecar, "output"), "output")
        return "whole"
    # killed before the first rename or between two: the sidecar, which lists all of them, waits in the hidden folder
    begun = any((folder / staging / sidecar).is_file() for staging in hidden(folder))
    assert begun or not visible
    return "begun" if begun else "nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recon", "maps", "kernel cache", pytest.param("bart", marks=pytest.mark.bart)])
def test_killed_at_random_moments(room: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    case, moments, out = CASES[name], random.Random(name), room / "out"
    begin = time.monotonic()
    done = cli_case.run(*case.arguments, cwd=room)
    duration = time.monotonic() - begin
    assert done.returncode == 0, done.stderr
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    kernels = {path.name: path.read_bytes() for path in room.glob("cache/*")}
    plan = [(moments.uniform(0.5, 1) * duration, False) for _ in range(case.n_timed)]
    plan += [(moments.uniform(0, case.longest), True) for _ in range(case.n_writing)]
    moments.shuffle(plan)
    seen: dict[str, int] = dict.fromkeys(("nothing", "begun", "whole", "hidden"), 0)
    for number, (moment, writing) in enumerate(plan):
        shutil.rmtree("cache", ignore_errors=True)
        for path in out.iterdir():
            path.unlink()
        killed(case, moment, writing=writing, alone=number < case.alone)
        # what it had started ends with it, whether or not it was told to
        assert wait_for(lambda: not processes_in(room / "temporary"), 10)
        before = state(out, case.sidecar)
        seen[before] += 1
        seen["hidden"] += any(hidden(room / folder) for folder in ("out", "cache", "temporary"))

        # the next run, in this process, which need not load anything
        capsys.readouterr()
        status = main([*case.arguments])
        err = capsys.readouterr().err
        if before == "nothing":
            assert (status, err) == (0, "")
        else:
            assert status == 2
            assert "exists already" in err
        for folder in ("out", "cache"):
            assert not hidden(room / folder)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
        if before == "nothing":
            assert not list((room / "temporary").iterdir())
            assert {path.name: path.read_bytes() for path in room.glob("cache/*")} == kernels
    # the kills did come while files were written
    assert seen["hidden"] > 0, seen
    assert seen["nothing"] > 0, seen


@pytest.mark.slow
def test_an_earlier_output_is_not_mixed_with_a_killed_one(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --force: what loads is the old one or the new one, and a mixture is told apart until it is finished."""
    out, moments = room / "out", random.Random(5)
    arguments = {n: ("recon", "raw.h5", "b", "-o", "out/c", "--threads", "1", "--iterations", n) for n in ("2", "3")}
    images = {}
    for n, command in arguments.items():
        assert main([*command, "--force"]) == 0
        images[n] = (out / "c.cfl").read_bytes()
    new = Case((*arguments["2"], "--force"), "c.json", 0, 0, 0.0, "out")
    for _ in range(5):
        assert main([*arguments["3"], "--force"]) == 0
        killed(new, moments.uniform(0, 0.002), writing=True, alone=False)
        try:
            CoefficientImages.load(out / "c")
        except UserError as error:
            assert "does not match c.json" in str(error)  # noqa: PT017
            assert hidden(out)
        capsys.readouterr()
        assert main(list(arguments["2"])) == 2
        assert "exists already" in capsys.readouterr().err
        n = str(CoefficientImages.load(out / "c").info["iterations"])
        assert (out / "c.cfl").read_bytes() == images[n]
        assert not hidden(out)
