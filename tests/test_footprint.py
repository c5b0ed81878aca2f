"""The memory that a reconstruction is said to take: its parts at hand-counted sizes, and whole processes (slow)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crbsvd_plugin import footprint, toeplitz
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.footprint import GIB, IMPORTS, Problem, check
from crbsvd_plugin.sums import batch_samples

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# the paper's qMT scan: 160 x 150 x 120 voxels, 15 coefficients; thirty cycles of six patterns of 1142 readouts
PAPER = Problem(
    shape=(120, 150, 160), n_readouts=30 * 6852, n_samples=320, n_receivers=8, n_coils=8, rank=15, n_threads=2
)
SMALL = Problem(shape=(7, 9), n_readouts=20, n_samples=12, n_receivers=3, n_coils=2, rank=3)


@pytest.mark.parametrize("real", [True, False])
def test_kernels_are_those_of_the_operator(rng: np.random.Generator, real: bool) -> None:
    phi = np.linalg.qr(rng.standard_normal((20, 3)) + (0 if real else 1j * rng.standard_normal((20, 3))))[0]
    sens = np.ones((2, *SMALL.shape), np.complex64)
    traj = rng.uniform(-3, 3, (20, 12, 2))
    operator = SubspaceOperator(traj, frame=np.arange(20), phi=phi, sens=sens)
    assert replace(SMALL, real=real).kernels == operator.toeplitz.parts.nbytes


def test_the_scan_of_the_paper_fits_into_14_gib() -> None:
    """120 kernels of 320 x 300 x 240 numbers of 4 bytes are 10.3 GiB, where the paper took 39."""
    assert PAPER.kernels == 120 * 320 * 300 * 240 * 4
    assert 10.25 * GIB < PAPER.kernels < 10.35 * GIB
    assert PAPER.kernels < PAPER.peak < 14 * GIB - IMPORTS


@pytest.mark.parametrize(
    "more",
    [
        {"shape": (121, 150, 160)}, {"n_readouts": 210_000}, {"n_samples": 321}, {"rank": 16}, {"real": False},
        {"n_threads": 3}, {"n_images": 2}, {"n_receivers": 9}, {"n_coils": 9}, {"solver": "admm"},
        {"preconditioned": True}, {"misfit": True}, {"replicas": True}, {"keeps": True}, {"cached": True},
    ],
)  # fmt: skip
def test_more_of_anything_takes_more(more: dict[str, object]) -> None:
    for base in (PAPER, replace(PAPER, waits=True)):
        stages = replace(base, **more).stages()  # type: ignore[arg-type]
        # blocks of readouts have a size, so that more coils are fewer readouts
        assert all(stages[name] > 0.99 * size for name, size in base.stages().items())
        assert sum(stages.values()) > sum(base.stages().values()) or (more.keys() == {"cached"} and base.waits)


def test_memory_does_not_grow_with_a_scan_of_which_nothing_is_kept() -> None:
    """But for what tells its readouts apart, and where data must wait for their end."""
    long, longer = (replace(PAPER, n_readouts=n * PAPER.n_readouts) for n in (4, 8))
    for name, size in long.stages().items():
        grown = longer.stages()[name] - size
        assert grown == (4 * PAPER.n_readouts * 200 if name == footprint.READING else 0), name
    for more in ("waits", "keeps"):
        grown = replace(longer, **{more: True}).peak - replace(long, **{more: True}).peak
        assert grown >= 4 * PAPER.n_readouts * PAPER.n_samples * 8 * 8
    assert toeplitz.chunk_bytes(PAPER.kernels) == PAPER.kernels // 16


def test_sums_take_no_more_than_the_samples_they_replace() -> None:
    """A scan that just waits for its end, and one that is a little longer."""
    n_worth = batch_samples(PAPER.shape, PAPER.rank, PAPER.n_coils, real=True)
    just, longer = (replace(PAPER, n_readouts=n // PAPER.n_samples) for n in (n_worth, n_worth + PAPER.n_samples))
    sums = 8 * 15 * 160 * 150 * 120 * 8 + PAPER.kernels
    samples = n_worth * (8 * 8 + 3 * 4)
    assert sums <= samples < sums + 8 * 8 + 3 * 4
    assert longer.stages()[footprint.READING] - just.stages()[footprint.READING] == pytest.approx(sums, rel=1e-3)


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "available", lambda: 10 * GIB)
    with pytest.raises(
        UserError, match=r"needs 13\.\d GiB more memory \(.*kernels alone 10\.3 GiB\), there are 10 GiB: "
    ) as e:
        check(PAPER, held=0)
    rank = int(str(e.value).partition("--rank ")[2].split()[0])
    check(replace(PAPER, rank=rank), held=0)
    with pytest.raises(UserError, match="--rank"):
        check(replace(PAPER, rank=rank + 1), held=0)
    assert "--coils" not in str(e.value)  # fewer coils do not make the kernels smaller
    monkeypatch.setattr(footprint, "available", lambda: 2**20)
    with pytest.raises(UserError, match="no rank or number of coils would fit"):
        check(PAPER, held=0)
    monkeypatch.setattr(footprint, "available", lambda: None)
    check(PAPER, held=0)


def test_what_is_kept_after_the_iterations_counts() -> None:
    """Data and positions stay; replicas hold sums, images and noise."""
    told, asked = (replace(PAPER, misfit=True), replace(PAPER, replicas=True))
    n_samples = PAPER.n_readouts * PAPER.n_samples
    data, images = 8 * n_samples * 8, 15 * 160 * 150 * 120 * 8
    for problem in (told, asked):
        stages = problem.stages()
        assert stages["iterations"] - PAPER.stages()["iterations"] == data + n_samples * 3 * 4
        assert stages["kernels"] - PAPER.stages()["kernels"] == data
    assert asked.stages()["replicas"] >= asked.stages()["iterations"] + 8 * images + images
    assert "replicas" not in told.stages()
    assert "misfit" not in asked.stages()


def test_leaving_them_out_is_advised_where_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "available", lambda: PAPER.peak)
    with pytest.raises(UserError, match="--no-misfit without --replicas would fit"):
        check(replace(PAPER, replicas=True), held=0)


def test_what_is_held_already_need_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    later = max(size for stage, size in PAPER.stages().items() if stage != footprint.READING)
    monkeypatch.setattr(footprint, "available", lambda: later - GIB)
    check(PAPER, held=GIB)
    with pytest.raises(UserError):
        check(PAPER, held=GIB - 1)


@pytest.mark.slow
def test_a_process_takes_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 10 %, on one of the cases of `benchmarks/memory.py`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import memory

    imports, _ = memory.measure("import")
    taken, told = memory.measure("llr-complex-3d")
    taken -= imports
    assert taken > GIB
    assert told == pytest.approx(taken, rel=0.1), sys.version
