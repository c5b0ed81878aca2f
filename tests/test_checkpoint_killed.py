"""The command with a checkpoint, stopped at random moments: nothing is lost, and every bit is the same."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cli_case
import pytest

BATCHES, SWEPT, RANK = 27, (27, 13), 4
BASIS = ("basis", "spec.toml", "--train", "400", "--atoms", "300", "--rank", str(RANK))
MEASURED = 2 * 2 * 10  # a third more than nine stops leave time for
STUDY = (
    "study", "spec.toml", "--train", "400", "--atoms", "300", "--ranks", "3,4", "--measurements", "160",
    "--at", "T1=0.81,T2=60ms",
)  # fmt: skip
SWEEP = ("sweep", "spec.toml", "--train", "600", "--crb-weights", "0,0.4", "--rank", str(RANK))
# The command with small batches that is saved after each of them. It tells what it begins, and dawdles
# for a moment, so that saving is not all that it is killed at.
RUNNER = """
import os, sys, time
from crbsvd_plugin import batches, bench, bundle, campaign, charts, checkpoint, cli, heldout, training
batches.BATCH = campaign.BLOCK = 16
campaign._BLOCKS = 1
checkpoint.Checkpoint.__init__.__kwdefaults__["every"] = 0.0
def told(where, name, what, pause=0.0):
    function = getattr(where, name)
    def wrapped(*arguments, **options):
        os.write(1, f"{what}\\n".encode())
        time.sleep(pause)
        return function(*arguments, **options)
    setattr(where, name, wrapped)
for module in (training, heldout):
    told(module, "simulate", "simulate", 0.002)
told(bench.Bench, "fit", "fit", 0.002)
told(checkpoint.Checkpoint, "save", "save")
told(bundle, "compress", "compress")
told(bundle, "save", "write")
told(charts, "losses", "write")
sys.exit(cli.main())
"""
COMMAND = [sys.executable, "-c", RUNNER]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start the command in a session of its own; it tells what it does in run.log there, joined to what was told."""
    with (cwd / "run.log").open("a") as log:
        return subprocess.Popen(
            [*COMMAND, *arguments, "-v"], cwd=cwd, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )


def stopped(process: subprocess.Popen[str], how: signal.Signals, after: int, pause: float) -> tuple[int, list[str]]:
    """Send a signal a moment after so many things have begun; return the exit status and all that were begun."""
    assert process.stdout is not None
    with process:
        lines = [line for _, line in zip(range(after), process.stdout, strict=False)]
        time.sleep(pause)
        process.send_signal(how)
        lines += list(process.stdout)
    return process.returncode, [line.strip() for line in lines]


def stopped_at(process: subprocess.Popen[str], how: signal.Signals, what: str, pause: float) -> tuple[int, list[str]]:
    """Send a signal a moment after something has begun, which may be nothing; return as `stopped`."""
    assert process.stdout is not None
    lines = []
    with process:
        for line in process.stdout:
            lines.append(line.strip())
            if line.strip() == what:
                time.sleep(pause)
                process.send_signal(how)
    return process.returncode, lines


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files that a run made: neither its log, nor what keeps it."""
    own = ("run.log", "spec.toml")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in own and not path.name.startswith("run.ckpt")
    }


def resumed(folder: Path, file: str = "run.ckpt") -> list[int]:
    """Return after how many batches each run went on."""
    found = re.findall(rf"{file}: going on after (\d+) of \d+ batches", (folder / "run.log").read_text())
    return [int(number) for number in found]


def folder_of(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    cli_case.write_spec(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, bytes]]:
    """Give the files of a run that nobody disturbs and that keeps nothing."""

    @cache
    def of(*arguments: str) -> dict[str, bytes]:
        folder = folder_of(tmp_path_factory.mktemp("undisturbed"), "whole")
        done = cli_case.run(*arguments, cwd=folder, command=COMMAND)
        assert done.returncode == 0, done.stderr
        return contents(folder)

    return of


def check_resumed(folder: Path, begun: list[str], n_batches: int, n_kills: int) -> None:
    """Each kill costs the batch that was simulated, or the one whose saving was cut: no more."""
    counts = resumed(folder)
    assert counts == sorted(counts)
    assert max(counts) > 0
    assert n_batches <= begun.count("simulate") <= n_batches + n_kills


@pytest.mark.parametrize("n_threads", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_basis_killed_at_random_moments(
    tmp_path: Path, whole: Callable[..., dict[str, bytes]], n_threads: str
) -> None:
    arguments = (*BASIS, "-o", "b_0.3", "--threads", n_threads)
    folder, moments = folder_of(tmp_path, "killed"), random.Random(n_threads)
    # while it loads; eight times while it simulates (2 ms of dawdling, and about as much of work) and saves;
    # then while it does what comes after the fingerprints, and last not at all
    plan = [(0, 0.3), *((moments.randrange(2, 8), 0.01) for _ in range(8))]
    begun: list[str] = []
    for after, longest in plan:
        process = start(*arguments, "--checkpoint", "run.ckpt", cwd=folder)
        status, lines = stopped(process, signal.SIGKILL, after, moments.uniform(0, longest))
        assert status == -signal.SIGKILL
        assert contents(folder) == {} or not (folder / "b_0.3.json").exists()
        begun += lines
    for what in ("compress", ""):
        process = start(*arguments, "--checkpoint", "run.ckpt", cwd=folder)
        status, lines = stopped_at(process, signal.SIGKILL, what, moments.uniform(0, 0.05))
        begun += lines
    assert status == 0
    check_resumed(folder, begun, BATCHES, 10)
    assert contents(folder) == whole(*arguments)


@pytest.mark.parametrize("n_threads", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_basis_interrupted(tmp_path: Path, whole: Callable[..., dict[str, bytes]], n_threads: str) -> None:
    arguments = (*BASIS, "-o", "b_0.3", "--threads", n_threads)
    folder, moments = folder_of(tmp_path, "interrupted"), random.Random(n_threads)
    begun: list[str] = []
    n_interrupts = 0
    for _ in range(1 if n_threads == "1" else 4):
        process = start(*arguments, "--checkpoint", "run.ckpt", cwd=folder)
        status, lines = stopped(process, signal.SIGINT, moments.randrange(3, 8), moments.uniform(0, 0.01))
        begun += lines
        # besides what -v adds, and the end of the line in which a terminal shows ^C, one line; nothing else is left
        said = [
            line
            for line in (folder / "run.log").read_text().split("\n")
            if line and not re.search("going on|MiB", line)
        ]
        n_interrupts += 1
        assert (status, said) == (130, ["crbsvd: interrupted"] * n_interrupts)
        assert sorted(path.name for path in folder.iterdir()) == ["run.ckpt", "run.log", "spec.toml"]
    process = start(*arguments, "--checkpoint", "run.ckpt", cwd=folder)
    status, lines = stopped_at(process, signal.SIGINT, "", 0)
    assert status == 0
    check_resumed(folder, begun + lines, BATCHES, n_interrupts)
    assert contents(folder) == whole(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "n_threads", "n_stops"), [(signal.SIGKILL, "1", 10), (signal.SIGKILL, "2", 10), (signal.SIGINT, "2", 4)]
)
def test_a_sweep_with_its_held_out_part(
    tmp_path: Path, whole: Callable[..., dict[str, bytes]], how: signal.Signals, n_threads: str, n_stops: int
) -> None:
    arguments = (*SWEEP, "-o", "out", "--threads", n_threads)
    folder, moments = folder_of(tmp_path, "stopped"), random.Random(f"{how} {n_threads}")
    begun: list[str] = []
    # two things are begun for each batch, and each stop costs one batch or two
    step = 2 * sum(SWEPT) // n_stops
    for _ in range(n_stops):
        process = start(*arguments, "--checkpoint", "run.ckpt", cwd=folder)
        status, lines = stopped(process, how, moments.randrange(step - 2, step + 2), moments.uniform(0, 0.01))
        begun += lines
        assert status == (130 if how == signal.SIGINT else -how)
    process = start(*arguments, "--checkpoint", "run.ckpt", cwd=folder)
    status, lines = stopped(process, how, 999, 0)
    assert status == 0
    held_out = resumed(folder, r"run\.ckpt\.held-out-[0-9a-f]{8}")
    assert held_out == sorted(held_out)
    assert held_out[-1] > 0
    assert resumed(folder)[-1] == SWEPT[0]
    assert sum(SWEPT) <= [*begun, *lines].count("simulate") <= sum(SWEPT) + n_stops
    assert contents(folder) == whole(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "method"), [(signal.SIGKILL, "matching"), (signal.SIGINT, "nlls")])
def test_a_study_with_its_measurements(
    tmp_path: Path, whole: Callable[..., dict[str, bytes]], how: signal.Signals, method: str
) -> None:
    arguments = (*STUDY, "-o", "out", "--method", method, "--threads", "1")
    folder, moments = folder_of(tmp_path, "stopped"), random.Random(method)
    begun: list[str] = []
    # a saved batch or fit is two things begun; three stops while fingerprints are folded, six while they are fitted
    plan = [*(moments.randrange(14, 20) for _ in range(3)), *(moments.randrange(4, 8) for _ in range(6))]
    for after in plan:
        process = start(*arguments, "--checkpoint", "run.ckpt", cwd=folder)
        status, lines = stopped(process, how, after, moments.uniform(0, 0.01))
        begun += lines
        assert status == (130 if how == signal.SIGINT else -how)
        assert contents(folder) == {}
    process = start(*arguments, "--checkpoint", "run.ckpt", cwd=folder)
    status, lines = stopped(process, how, 999, 0)
    assert status == 0
    counts = resumed(folder, r"run\.ckpt\.measured-[0-9a-f]{8}")
    assert counts == sorted(counts)
    assert counts[-1] > 0
    assert MEASURED <= [*begun, *lines].count("fit") <= MEASURED + len(plan)
    assert contents(folder) == whole(*arguments)
