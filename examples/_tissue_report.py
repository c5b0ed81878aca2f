"""Errors of a map in the tissues of the brain phantom beside those that its standard deviations predict."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crbsvd_plugin.maps import load_map

TISSUES = ("WM", "GM", "CSF")
PURE = 0.99
_MEDIAN = 0.6745  # of |x|, x normal with standard deviation 1


def options_of(description: str | None, *, matrix: int, snr: float) -> argparse.ArgumentParser:
    """Return the options that such examples have, with the defaults of one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="folder of the results")
    parser.add_argument("--matrix", type=int, default=matrix, help="voxels along either side")
    parser.add_argument("--coils", type=int, default=8, help="receive coils")
    parser.add_argument("--snr", type=float, default=snr, help="M0 / noise of a coefficient")
    parser.add_argument("--rank", type=int, default=4, help="coefficients")
    parser.add_argument("--iterations", type=int, default=30, help="of conjugate gradients")
    parser.add_argument("--train", default="20000", help="fingerprints for the basis")
    parser.add_argument("--atoms", default="grid", help="about so many atoms in the dictionary")
    return parser


def write(make: Callable[[Path, argparse.Namespace], str], options: argparse.Namespace) -> None:
    """Write and print the page that `make` returns, given a folder for what it does not keep."""
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        text = make(Path(work), options)
    (options.folder / "findings.md").write_text(text, encoding="utf-8")
    print(text)


@dataclass(frozen=True)
class Row:
    """Errors of a map in a tissue, relative to the truth.

    error, bias: medians over the voxels of |estimate / truth - 1|, and of estimate / truth - 1. quiet: error of the
    same scan without noise. noise: median of |estimate - that without noise| / truth. predicted: what the standard
    deviations make of the latter.
    """

    name: str
    tissue: str
    n_voxels: int
    truth: float
    estimate: float
    bias: float
    error: float
    quiet: float
    noise: float
    predicted: float


def rows_of(name: str, folder: Path, quiet: Path, quantity: str, truth: Mapping[str, Path]) -> list[Row]:
    """Return the errors of a map in all pure voxels of every tissue.

    Parameters
    ----------
    name : str
        What the row is called.
    folder, quiet : path
        Of the maps, and of those of the scan without noise.
    quantity : str
        T1, T2, ...
    truth : mapping
        What `simulate` has written.
    """
    file, spread = f"{quantity}map.nii.gz", f"{quantity}std.nii.gz"
    paths = (folder / file, quiet / file, folder / spread, truth[f"{quantity}map"])
    found, silent, deviation, true = (load_map(path)[0] for path in paths)
    rows = []
    for tissue in TISSUES:
        pure = load_map(truth[tissue])[0] > PURE
        away = found[pure] / true[pure] - 1
        without = silent[pure] / true[pure] - 1
        errors = [float(np.median(np.abs(values))) for values in (away, without, away - without)]
        predicted = _MEDIAN * float(np.median(deviation[pure] / true[pure]))
        medians = [float(np.median(values)) for values in (true[pure], found[pure], away)]
        rows.append(Row(name, tissue, int(pure.sum()), *medians, *errors, predicted))
    return rows


def errors_of(folder: Path, quantity: str, truth: Mapping[str, Path]) -> dict[str, float]:
    """Return the medians of |estimate / truth - 1| of a map in all pure voxels of every tissue."""
    found, true = (load_map(path)[0] for path in (folder / f"{quantity}map.nii.gz", truth[f"{quantity}map"]))
    pure = {tissue: load_map(truth[tissue])[0] > PURE for tissue in TISSUES}
    return {tissue: float(np.median(np.abs(found[there] / true[there] - 1))) for tissue, there in pure.items()}


def table(rows: Sequence[Row], quantity: str) -> list[str]:
    """Return the rows as a table."""
    names = ["", "tissue", "voxels", f"true {quantity} [ms]", "found [ms]", "bias [%]", "error [%]"]
    names += ["without noise [%]", "of noise [%]", "predicted [%]"]
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    for row in rows:
        cells = [row.name, row.tissue, str(row.n_voxels), f"{1e3 * row.truth:.4g}", f"{1e3 * row.estimate:.4g}"]
        shares = (row.error, row.quiet, row.noise, row.predicted)
        cells += [f"{100 * row.bias:+.1f}", *(f"{100 * share:.2f}" for share in shares)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def explained(quantity: str) -> list[str]:
    """Return what the columns of the table mean."""
    return [
        f"Medians over voxels that one tissue fills by 99 %: bias is that of {quantity} / truth - 1, error that of its",
        "magnitude, and without noise the same for a scan without noise: what sampling, resolution (tissue next to",
        "another one), basis, coils and dictionary leave. Of noise: the median of what noise changes; predicted: what",
        f"the standard deviations of the Cramer-Rao bound ({quantity}std) say of that. The bound takes the noise of",
        "the images as white, and does not know the sampling.",
    ]


def montage(path: Path, maps: Mapping[str, Path], truth: Path, *, top: float, unit: str) -> None:
    """Draw the truth and the maps above, and below the errors of the latter, relative to the truth."""
    true = load_map(truth)[0]
    figure = Figure(figsize=(2.6 * (1 + len(maps)), 5.2), layout="constrained")
    grid = figure.subplots(2, 1 + len(maps))
    inside = true > 0
    for axes in grid.flat:
        axes.set_axis_off()
    shown = grid[0, 0].imshow(true, vmin=0, vmax=top, cmap="viridis", origin="lower")
    grid[0, 0].set_title("truth")
    for (above, below), (name, file) in zip(grid[:, 1:].T, maps.items(), strict=True):
        found = np.where(inside, load_map(file)[0], 0)
        above.imshow(found, vmin=0, vmax=top, cmap="viridis", origin="lower")
        above.set_title(name)
        error = np.divide(found, true, out=np.ones_like(true), where=inside) - 1
        away = below.imshow(100 * error, vmin=-30, vmax=30, cmap="RdBu_r", origin="lower")
    figure.colorbar(shown, ax=grid[0], label=unit, shrink=0.8)
    figure.colorbar(away, ax=grid[1], label="error [%]", shrink=0.8)
    FigureCanvasAgg(figure).print_png(path)
