"""The whole way on a phantom: bases, raw data, maps, and their errors against the truth."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import bundle, files, simulate
from . import run as pipeline_run
from .maps import load_map
from .progress import Report
from .spec import resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPEC = "mrf-fisp"
_FORMAT = "crbsvd-demo/1"
_BASES = {"svd": 0.0, "crb": 0.3}
_RANKS = (3, 5)
_ATOMS = "40000"  # a third of the grid: the errors are the same to 0.1 %, the demo takes two thirds of the time
_TISSUES = ("WM", "GM", "CSF")
_PURE = 0.99


@dataclass(frozen=True)
class Row:
    """Errors of one tissue in one reconstruction, relative to the truth.

    Parameters
    ----------
    data : str
        ``noisy`` or ``noise-free``.
    basis : str
        ``svd`` or ``crb``.
    rank : int
        Number of coefficients K.
    tissue : str
        WM, GM or CSF.
    n_voxels : int
        Pure voxels, eroded by one.
    t1_bias, t1_error, t2_bias, t2_error : float
        Median of (estimate - truth) / truth, and of its absolute value.
    """

    data: str
    basis: str
    rank: int
    tissue: str
    n_voxels: int
    t1_bias: float
    t1_error: float
    t2_bias: float
    t2_error: float


def run(
    folder: str | Path, *, matrix: int, snr: float, force: bool, report: Report, say: Callable[[str], object]
) -> str:
    """Go the whole way and return the table of errors.

    Parameters
    ----------
    folder : path
        Everything goes there: bases, raw data, true maps, maps, ``errors.csv``.
    matrix : int
        Voxels along either side of the image.
    snr : float
        M0 / noise of a coefficient.
    force : bool
        Replace an earlier demo.
    report, say : callable
        Told of the progress, and of what is being done.

    Raises
    ------
    UserError
        Something exists already, or cannot be written.
    """
    folder = Path(folder)
    start = time.perf_counter()
    sidecar = folder / "demo.json"
    files.check_free(sidecar, ["errors.csv"], kind=_FORMAT, force=force)
    _make_bases(folder, force=force, report=report, say=say)
    say(f"scanning a brain phantom, {matrix} x {matrix}, 8 coils, 3 shots, SNR {snr:g} and without noise")
    # exact signals for the phantom; the dictionary has the model's usual accuracy
    model = resolve(_SPEC, ["accuracy=0"]).model
    scan = simulate.acquire(model, matrix=matrix, progress=lambda done, total: report("k-space", done, total))
    truth = simulate.write(scan, folder / "noisy.h5", snr=snr, force=force)
    simulate.write(scan, folder / "noise-free.h5", snr=None, force=force)
    say(f"phantom: {scan.phantom.source}")
    rows: list[Row] = []
    for data in ("noisy", "noise-free"):
        for name in _BASES:
            for rank in _RANKS:
                output = folder / f"{data}_{name}_k{rank}"
                config = pipeline_run.config(basis=str(folder / name), rank=rank)
                pipeline_run.maps(str(folder / f"{data}.h5"), config, str(output), force=force, report=report)
                say(f"maps in {output}")
                rows += _errors(output, truth, data, name, rank)
    with files.product(sidecar, ["errors.csv"], kind=_FORMAT, force=force) as product:
        with product.path("errors.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(asdict(rows[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        product.commit({"matrix": matrix, "snr": snr, "phantom": scan.phantom.source})
    return table(rows, snr) + f"\ndone in {time.perf_counter() - start:.0f} s"


def _make_bases(folder: Path, *, force: bool, report: Report, say: Callable[[str], object]) -> None:
    accumulator = None
    for name, weight in _BASES.items():
        request = bundle.Request(spec=_SPEC, rank=max(_RANKS), crb_weight=weight, atoms=_ATOMS)
        plan = bundle.plan(request, str(folder / name), force=force)
        if accumulator is None:
            n_atoms = 0 if plan.atoms is None else plan.atoms.size(plan.model.parameters)
            say(
                f"basis of {_SPEC}: {plan.training.size} fingerprints on coarser grids than the "
                f"281,250 of the paper's Table I; dictionary of {n_atoms} atoms"
            )
            accumulator = plan.fold(report=report)
        basis = plan.finish(accumulator, report=report)
        say(f"\nbasis {name} (crb weight {weight:g}), K = {basis.rank}\n{bundle.table(basis)}\n")


def _errors(output: Path, truth: dict[str, Path], data: str, basis: str, rank: int) -> Iterator[Row]:
    from scipy.ndimage import binary_erosion

    maps = {name: load_map(output / f"{name}.nii.gz")[0] for name in ("T1map", "T2map")}
    true = {name: load_map(truth[name])[0] for name in ("T1map", "T2map", *_TISSUES)}
    for tissue in _TISSUES:
        pure = binary_erosion(true[tissue] >= _PURE)
        figures = []
        for name in ("T1map", "T2map"):
            deviation = maps[name][pure] / true[name][pure] - 1
            figures += [_median(deviation), _median(np.abs(deviation))]
        yield Row(data, basis, rank, tissue, int(pure.sum()), *figures)


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if values.size else float("nan")


def table(rows: list[Row], snr: float) -> str:
    """Return the rows as text, with what is favourable and what is not."""
    lines = [
        f"Errors in pure voxels (fraction >= {_PURE}, eroded by one voxel), % of the truth; SNR {snr:g} or noise-free",
        f"{'data':<11}{'basis':<6}{'K':>2}  {'tissue':<7}{'voxels':>6}"
        + "".join(f"{name:>9}" for name in ("T1 bias", "T1 |err|", "T2 bias", "T2 |err|")),
    ]
    for row in rows:
        figures = (row.t1_bias, row.t1_error, row.t2_bias, row.t2_error)
        lines.append(
            f"{row.data:<11}{row.basis:<6}{row.rank:>2}  {row.tissue:<7}{row.n_voxels:>6}"
            + "".join(f"{100 * value:9.2f}" for value in figures)
        )
    noisy = [row for row in rows if row.data == "noisy"]
    return "\n".join(lines + [_compared([row for row in noisy if row.rank == rank], rank) for rank in _RANKS])


def _compared(rows: list[Row], rank: int) -> str:
    """Say where the CRB basis has the smaller median absolute error, and where the larger one."""
    better: list[str] = []
    worse: list[str] = []
    for tissue in _TISSUES:
        for name in ("t1_error", "t2_error"):
            svd, crb = (next(getattr(r, name) for r in rows if r.basis == b and r.tissue == tissue) for b in _BASES)
            (better if crb < svd else worse).append(f"{tissue} {name[:2].upper()}")
    return (
        f"K = {rank}, with noise: the CRB basis is better than the SVD basis for {', '.join(better) or 'nothing'}; "
        f"it is not for {', '.join(worse) or 'nothing'}"
    )
