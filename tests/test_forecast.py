"""`recon --dry-run`: shapes, memory, and BART's command line; and what is refused for want of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from cli_case import MATRIX, N_COILS, N_FRAMES, N_SHOTS, RANK, listing, refuser
from mrd_stream import readout
from test_pipeline import head, scan, write_basis

from crbsvd_plugin import bart, footprint, mrd, run, threads
from crbsvd_plugin.cli import main
from crbsvd_plugin.forecast import forecast
from crbsvd_plugin.recon.scaling import llr_width

Refuse = Callable[..., str]


@pytest.fixture
def refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Refuse]:
    """Run the command in a folder with a tiny scan, and return the one line that it says."""
    yield from refuser(here, capsys)


def said(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, list[str]]:
    """Return the lines of a dry run by their first word."""
    assert main(["recon", "raw.h5", "b", "-o", "out", "--dry-run", *options]) == 0
    lines: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        lines.setdefault(line[:13].strip(), []).append(line[13:].strip())
    return lines


def test_a_dry_run_says_the_shapes_and_makes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(here)
    lines = said(capsys)
    assert listing(here) == before
    assert lines["images"] == [f"1 of {MATRIX} x {MATRIX} voxels"]
    assert lines["basis"] == [f"{RANK} coefficients of {N_FRAMES} frames, real"]
    assert lines["readouts"] == [f"{N_SHOTS * N_FRAMES} of {2 * MATRIX} samples in {N_COILS} coils"]
    kernels = RANK * (RANK + 1) // 2 * 4 * MATRIX**2 * 4
    assert lines["kernels"] == [f"{kernels / 2**20:.1f} MiB"]
    stages = [line.split("  ")[-1] for line in lines["memory"]]
    assert stages == ["readouts", "calibration", "right-hand side", "kernels", "iterations"]
    assert " GiB, there are " in lines["peak memory"][0]
    assert said(capsys, "--coils", "2", "--rank", "3")["readouts"][0].endswith(f"{N_COILS} coils, 2 virtual ones")


def test_the_command_for_bart_is_one_that_bart_takes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lam means the same: divided by the width by which BART multiplies it, unless that is wanted."""
    assert said(capsys)["in BART"] == ["bart pics -l2 -r 0 -i 30 -w 1 -t traj -p pattern -B basis ksp sens coeff"]
    options = ("--regulariser", "llr", "--lam", "0.5", "--shift", "none", "--block", "4", "--iterations", "7")
    width = llr_width((MATRIX, MATRIX), RANK, 4, overlap=False)
    rest = "-b 4 -n -e -i 7 -w 1 -t traj -p pattern -B basis ksp sens coeff"
    assert said(capsys, *options)["in BART"] == [f"bart pics -R L:7:7:{0.5 / width:.9g} {rest}"]
    own = said(capsys, *options, "--scaling", "bart")["in BART"]
    assert own == [f"bart pics -R L:7:7:0.5 {rest.replace(' -w 1', '')}"]
    term = ("--backend", "bart", "--bart-term", "T:7:0:0.01", "--bart-lowmem")
    assert said(capsys, *term)["in BART"][0].startswith("bart pics -R T:7:0:0.01 -i 30 -w 1 -U -t traj")


@pytest.mark.bart
def test_bart_runs_the_command_on_files_of_these_dimensions(
    here: Path, capsys: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    lines = said(capsys, "--iterations", "2")
    (here / "files").mkdir()
    dims = dict(part.split(" ", 1) for part in lines[""][0].split(", "))
    made = {name: [int(n) for n in text.split()] for name, text in dims.items()}
    for name, shape in {**made, "sens": [MATRIX, MATRIX, 1, N_COILS]}.items():
        values = rng.standard_normal(shape) + (0 if name == "traj" else 1j * rng.standard_normal(shape))
        if name == "traj":
            values[2] = 0
        bart.write_cfl(here / "files" / name, np.clip(np.abs(values), 0.1, 2) if name == "pattern" else values)
    bart.run(lines["in BART"][0].split()[1:], folder=here / "files", threads=1)
    assert bart.read_cfl(here / "files" / "coeff").shape[:7] == (MATRIX, MATRIX, 1, 1, 1, 1, RANK)


def test_slices_volumes_and_complex_bases_are_counted(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, name = str(tmp_path / "raw.h5"), write_basis(rng, tmp_path)
    items = [*scan(rng, n_slices=3), readout(np.ones((3, 50)), flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    mrd.write_raw(raw, head(), items)
    with threads.limit(1):
        found = forecast(raw, run.config(basis=name, fit=False))
    assert len(found.problems) == found.largest.n_images == 3
    n_readouts = (len(items) - 1) // 3
    assert {problem.n_readouts for problem in found.problems.values()} == {n_readouts}
    assert not found.largest.real
    assert found.largest.n_threads == 1
    assert math.prod(found.largest.shape) == found.largest.shape[0] ** 2
    assert "3 of " in found.text()


def test_more_memory_than_there_is_ends_in_one_line(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "available", lambda: 2**24)
    for verb, output in (("recon", "out"), ("maps", "folder")):
        line = refuse(verb, "raw.h5", "b", "-o", output)
        assert "more memory" in line
        assert "there are 0.0156 GiB" in line


def test_readouts_that_do_not_fit_are_refused_while_they_come(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crbsvd_plugin.waiting.available", lambda: 2**20)
    line = refuse("recon", "raw.h5", "b", "-o", "out")
    assert "does not fit into memory any more, 1 MiB are left" in line


def test_nothing_to_reconstruct_is_refused(refuse: Refuse) -> None:
    mrd.write_raw("noise.h5", head(), [readout(np.ones((3, 50)), flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT)])
    assert "holds no imaging readouts" in refuse("recon", "noise.h5", "b", "-o", "out", "--dry-run")
