"""The command on workers: the same bits for any number of them, the same basis as without, and no work is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cli_case
import numpy as np
import pytest
from test_checkpoint_killed import COMMAND, RANK, contents, folder_of, resumed, start, stopped

from crbsvd_plugin.basis import Basis

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # Dask needs it
# 52 batches, in 7 groups
BASIS = ("basis", "spec.toml", "-o", "b", "--train", "800", "--atoms", "none", "--rank", str(RANK), "--threads", "1")


def made(folder: Path, *arguments: str) -> Path:
    done = cli_case.run(*BASIS, *arguments, cwd=folder, command=COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def workers(pid: int) -> list[psutil.Process]:
    """Return the workers below a process; Dask's helpers are no workers."""
    everyone = psutil.Process(pid).children(recursive=True)
    return [one for one in everyone if "spawn_main" in " ".join(one.cmdline())]


def wait_for_the_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def check_equal(one: Basis, other: Basis) -> None:
    """The tolerances are those that any way of computing must keep; rounding of complex64 is 6e-8."""
    outside = one.phi - other.phi @ (other.phi.conj().T @ one.phi)
    assert np.linalg.norm(outside, 2) < 1e-6
    for tissue, losses in one.info["losses"].items():
        for name, loss in losses.items():
            assert abs(loss - other.info["losses"][tissue][name]) < (1e-10 if name == "signal" else 1e-7)
    for tissue, columns in one.info["held_out"].items():
        for name, figures in columns.items():
            for figure, value in figures.items():
                limit = 1e-10 if figure == "energy" else 1e-7
                assert abs(value - other.info["held_out"][tissue][name][figure]) < limit


def test_killed_with_all_its_workers_it_goes_on_with_fewer_and_is_the_serial_one(tmp_path: Path) -> None:
    serial, folder = made(folder_of(tmp_path, "serial")), folder_of(tmp_path, "killed")
    process = start(*BASIS, "--workers", "2", "--checkpoint", "run.ckpt", cwd=folder)
    # the second saving has begun, so the first has ended
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["save\n"] * 2
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(workers(process.pid)) == 2
    status, _ = stopped(process, signal.SIGKILL, 0, 0)
    assert status == -signal.SIGKILL
    wait_for_the_end(below)
    process = start(*BASIS, "--workers", "1", "--checkpoint", "run.ckpt", cwd=folder)
    status, lines = stopped(process, signal.SIGKILL, 999, 0)
    assert status == 0
    assert resumed(folder) == [8 * (7 - lines.count("save"))]
    assert resumed(folder)[0] > 0
    # that it has the bits of an undisturbed run is seen with more time, below
    check_equal(Basis.load(folder / "b"), Basis.load(serial / "b"))


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_is_made_up_for(tmp_path: Path) -> None:
    whole, folder = made(folder_of(tmp_path, "whole"), "--workers", "1"), folder_of(tmp_path, "killed")
    process = start(*BASIS, "--workers", "2", "--checkpoint", "run.ckpt", cwd=folder)
    assert process.stdout is not None
    process.stdout.readline()
    victim, _ = workers(process.pid)
    victim.kill()
    status, lines = stopped(process, signal.SIGKILL, 999, 0)
    assert status == 0
    # without a word of it, and nothing was saved twice
    assert lines.count("save") == 6
    assert "worker" not in (folder / "run.log").read_text()
    assert contents(folder) == contents(whole)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_the_workers_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "interrupted")
    process = start(*BASIS, "--workers", "2", "--checkpoint", "run.ckpt", cwd=folder)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    status, _ = stopped(process, signal.SIGKILL, 999, 0)
    # besides what -v adds
    said = [line for line in (folder / "run.log").read_text().splitlines() if line and "MiB" not in line]
    assert (status, said) == (130, ["crbsvd: interrupted"])
    wait_for_the_end(below)
    assert sorted(path.name for path in folder.iterdir()) == ["run.ckpt", "run.log", "spec.toml"]


@pytest.mark.slow
def test_a_sweep_on_workers_killed_with_them(tmp_path: Path) -> None:
    arguments = ("sweep", "spec.toml", "-o", "out", "--train", "600", "--crb-weights", "0,0.4", "--rank", str(RANK))
    whole, folder = folder_of(tmp_path, "whole"), folder_of(tmp_path, "killed")
    assert cli_case.run(*arguments, "--workers", "2", "--threads", "1", cwd=whole, command=COMMAND).returncode == 0
    # with the first groups of the fingerprints saved, then with some of those held out, then not
    for n_workers, after in (("2", 2), ("2", 10), ("1", 999)):
        process = start(*arguments, "--workers", n_workers, "--threads", "1", "--checkpoint", "run.ckpt", cwd=folder)
        status, _ = stopped(process, signal.SIGKILL, after, 0.01)
        assert status == (0 if after == 999 else -signal.SIGKILL)
    assert resumed(folder)[-1] == 27
    assert resumed(folder, r"run\.ckpt\.held-out-[0-9a-f]{8}")[-1] > 0
    assert contents(folder) == contents(whole)
