"""Scan the vials of the NIST system phantom; write down estimate, bias and standard deviation of T1 and T2 in each.

Once with a prior of its own, and once with the paper's Table I, in which most vials do not lie: those must be flagged.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.ndimage import binary_erosion

from crbsvd_plugin import bundle, roi, run, simulate
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.progress import silent
from crbsvd_plugin.spec import resolve
from crbsvd_plugin.vials import NIST

OWN, PAPER = "nist", "mao-mrf-table1"
CRB_WEIGHT = 0.3
MASK_LEVEL = 0.02  # vials of T2 = 6 ms are among the darkest
QUANTITIES = ("T1", "T2")
FLAGGED = 0.5  # share of flagged voxels from which a vial counts as such


@dataclass(frozen=True)
class Row:
    """A quantity in a vial; times in s, bias and deviations as shares of the truth."""

    prior: str
    plate: str
    vial: int
    quantity: str
    inside: bool
    n_voxels: int
    truth: float
    estimate: float
    bias: float
    observed_sd: float
    predicted_sd: float
    flagged: float


def main() -> None:
    """Run all of it into FOLDER: vials.csv, vials.png and findings.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the results")
    parser.add_argument("--matrix", type=int, default=128, help="voxels along either side")
    parser.add_argument("--rank", type=int, default=8, help="coefficients")
    parser.add_argument("--snr", type=float, default=50.0, help="M0 / noise of a coefficient")
    parser.add_argument("--repeats", type=int, default=5, help="scans with noise of their own")
    parser.add_argument("--replicas", type=int, default=30, help="reconstructions that predict the deviations, or 0")
    parser.add_argument("--train", default="20000", help="fingerprints for the bases")
    parser.add_argument("--atoms", default="grid", help="about so many atoms in the dictionaries")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error("--repeats: a standard deviation needs two scans")
    options.folder.mkdir(parents=True, exist_ok=True)
    say, rows = _clock(), []
    with tempfile.TemporaryDirectory() as work:
        bases = {prior: make_basis(Path(work), prior, options) for prior in (OWN, PAPER)}
        say("bases")
        # exact signals in the phantom; the dictionary has the usual accuracy
        model = resolve("mrf-fisp", ["accuracy=0"]).model
        for plate in NIST:
            scan = simulate.acquire(model, scanned=plate, matrix=options.matrix)
            say(f"k-space of {plate}: {' x '.join(map(str, scan.ksp.shape))} (coils, spokes, samples)")
            for prior in (OWN, PAPER):
                rows += measure(Path(work), scan, prior, bases[prior], options)
                say(f"maps of {plate}, prior {prior}")
    with (options.folder / "vials.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in asdict(row).items()} for row in rows)
    draw(options.folder / "vials.png", rows)
    text = findings(rows, options)
    (options.folder / "findings.md").write_text(text, encoding="utf-8")
    print(text)


def make_basis(folder: Path, prior: str, options: argparse.Namespace) -> str:
    """Write a basis and its dictionary, both of one prior; return their name."""
    request = bundle.Request(
        spec="mrf-fisp", settings=[f"prior={prior}", f"fit_prior={prior}"], rank=options.rank, crb_weight=CRB_WEIGHT,
        train=options.train, atoms=options.atoms,
    )  # fmt: skip
    bundle.plan(request, str(folder / prior), force=False).make(report=silent)
    return str(folder / prior)


def measure(work: Path, scan: simulate.Scan, prior: str, basis: str, options: argparse.Namespace) -> list[Row]:
    """Scan with noise, reconstruct and fit, several times; return what is found in every vial."""
    plate, maps, folders = scan.phantom.source, [], []
    for seed in range(options.repeats):
        raw = work / f"{plate}-{prior}-{seed}.h5"
        paths = simulate.write(scan, raw, snr=options.snr, seed=seed)
        folders.append(work / f"{plate}-{prior}-{seed}")
        predicted = prior == OWN and seed == 0
        config = run.config(
            basis=basis, mask_level=MASK_LEVEL, std=predicted, replicas=options.replicas if predicted else 0
        )
        run.maps(str(raw), config, str(folders[-1]), force=False, report=silent)
        raw.unlink()
        maps.append([load_map(folders[-1] / f"{name}map.nii.gz")[0] for name in QUANTITIES])
    spread = np.std(maps, axis=0, ddof=1)
    mask, labels = vials(paths["LABELS"], work / f"{plate}-{prior}-mask.nii.gz")
    found = {(row.map, row.label): row for row in roi.regions(sorted(folders[0].glob("*map.nii.gz")), mask)}
    rows = []
    for vial, times in enumerate(NIST[plate], 1):
        for name, truth, deviation in zip(QUANTITIES, times, spread, strict=True):
            row = found[f"{name}map", vial]
            observed = float(np.sqrt(np.mean(deviation[labels == vial] ** 2)))
            rows.append(
                Row(
                    prior, plate, vial, name, inside(PRESETS[prior], times), row.n_fitted, truth, row.median,
                    row.median / truth - 1, observed / truth, row.predicted_sd / truth,
                    found["EDGEmap", vial].mean,
                )
            )  # fmt: skip
    return rows


def vials(labels: Path, mask: Path) -> tuple[Path, np.ndarray]:
    """Write the vials without their outermost voxels, which blur with what is outside; return file and array."""
    values, affine = load_map(labels)
    eroded = np.where(binary_erosion(values > 0), values, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(eroded.T[..., None], affine), mask)
    return mask, eroded


def inside(prior, times: np.ndarray) -> bool:
    """Return whether T1 and T2 lie within the ranges of one of the tissues."""
    return any(
        all(
            tissue.values[name].low < value < tissue.values[name].high
            for name, value in zip(QUANTITIES, times, strict=True)
        )
        for tissue in prior.tissues
    )


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw estimates against the truth, flagged vials as crosses."""
    figure = Figure(figsize=(9, 8.5), layout="constrained")
    for at, prior in enumerate((OWN, PAPER)):
        for column, quantity in enumerate(QUANTITIES):
            axes = figure.add_subplot(2, 2, 2 * at + column + 1)
            for plate, colour in zip(NIST, ("tab:blue", "tab:orange"), strict=True):
                some = [row for row in rows if (row.prior, row.quantity, row.plate) == (prior, quantity, plate)]
                for flagged, marker in ((False, "o"), (True, "x")):
                    chosen = [row for row in some if (row.flagged >= FLAGGED) is flagged]
                    name = f"plate {_short(plate)}{', flagged' if flagged else ''}"
                    axes.errorbar(
                        [row.truth for row in chosen], [row.estimate for row in chosen],
                        [row.observed_sd * row.truth for row in chosen], fmt=marker, color=colour, capsize=2,
                        markersize=5, label=name if chosen else None,
                    )  # fmt: skip
            times = [row.truth for row in rows if row.quantity == quantity]
            ends = [min(times) * 0.7, max(times) * 1.4]
            axes.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
            axes.set(xscale="log", yscale="log", xlabel=f"true {quantity} [s]", ylabel=f"{quantity} [s]")
            axes.set_title(f"{quantity}, prior {prior}")
            axes.legend()
    FigureCanvasAgg(figure).print_png(path)


def findings(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """Return the findings as a page."""
    own = [row for row in rows if row.prior == OWN]
    lines = [
        "# The vials of the NIST system phantom",
        "",
        "Made by `python examples/nist_phantom.py FOLDER`: relaxation times at 3 T of the T1 and T2 plates",
        "(Stupic et al., [doi 10.1002/mrm.28779](https://doi.org/10.1002/mrm.28779)) in fourteen round vials of 20 mm",
        "with M0 = 1, no water around them; MRF-FISP,",
        f"{options.matrix} x {options.matrix} voxels of {240 / options.matrix:.3g} mm, 8 coils,",
        f"3 x 1040 radial readouts, SNR {options.snr:g}, K = {options.rank}, crb weight {CRB_WEIGHT:g}.",
        "",
        "Estimate: median over the voxels of a vial but its outermost. Observed standard deviation: of a voxel over",
        f"{options.repeats} scans with noise of their own, root mean square over the vial; the dictionary's steps are",
        "part of it. Predicted: mean over the vial, from one scan",
        f"({options.replicas} pseudo-replicas)." if options.replicas else "(no pseudo-replicas).",
        "Flagged: share of the voxels whose best atom lies on the edge of the dictionary (EDGEmap).",
        "",
        f"## Prior `{OWN}`",
        "",
        *worst(own),
        "",
        *table(own),
        "",
        f"## Prior `{PAPER}` (Table I of the paper)",
        "",
        *outside([row for row in rows if row.prior == PAPER]),
        "",
        "![estimates against the truth](vials.png)",
        "",
    ]
    return "\n".join(lines)


def worst(rows: Sequence[Row]) -> list[str]:
    """Say where the bias is largest, as a share of the truth and of the noise."""
    lines = []
    for quantity in QUANTITIES:
        some = [row for row in rows if row.quantity == quantity]
        most = max(some, key=lambda row: abs(row.bias))
        within = sum(abs(row.bias) < row.observed_sd for row in some)
        lines.append(
            f"- {quantity}: the largest bias is {most.bias:+.1%} (plate {_short(most.plate)}, vial {most.vial}, "
            f"{1e3 * most.truth:.4g} ms); in {within} of "
            f"{len(some)} vials it is less than the standard deviation of one voxel."
        )
    flagged = [
        f"plate {_short(r.plate)}, vial {r.vial} ({r.flagged:.0%})" for r in rows if r.flagged and r.quantity == "T2"
    ]
    ratios = [row.predicted_sd / row.observed_sd for row in rows if not row.flagged]
    lines.append(
        f"- Predicted over observed standard deviation, vials without flagged voxels: median {np.median(ratios):.2f}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}."
    )
    return [*lines, f"- Flagged voxels: {'; '.join(flagged) or 'none'}."]


def table(rows: Iterable[Row]) -> list[str]:
    """Return the rows as a table."""
    names = [
        "plate",
        "vial",
        "",
        "truth [ms]",
        "estimate [ms]",
        "bias [%]",
        "observed SD [%]",
        "predicted SD [%]",
        "flagged [%]",
    ]
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    for row in rows:
        cells = [
            _short(row.plate),
            str(row.vial),
            row.quantity,
            f"{1e3 * row.truth:.4g}",
            f"{1e3 * row.estimate:.4g}",
        ]
        shares = (row.observed_sd, row.predicted_sd)
        cells += [f"{100 * row.bias:+.1f}", *(f"{100 * share:.1f}" for share in shares), f"{100 * row.flagged:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def outside(rows: Sequence[Row]) -> list[str]:
    """Say which vials lie outside of the prior, and whether they are flagged."""
    vials = {(row.plate, row.vial): row for row in rows if row.quantity == "T1"}
    out = [row for row in vials.values() if not row.inside]
    missed = [row for row in out if row.flagged < FLAGGED]
    fewest = min(out, key=lambda row: row.flagged)
    lines = [
        f"{len(out)} of {len(vials)} vials lie outside of all its ranges, and are clipped to them;",
        f"{len(out) - len(missed)} of these have at least {FLAGGED:.0%} of their voxels flagged (the fewest",
        f"{fewest.flagged:.0%}: plate {_short(fewest.plate)}, vial {fewest.vial}).",
        *(f"Not flagged: plate {_short(row.plate)}, vial {row.vial}." for row in missed),
        "",
        "| plate | vial | lies | T1 true, found [ms] | T2 true, found [ms] | flagged [%] |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    others = {(row.plate, row.vial): row for row in rows if row.quantity == "T2"}
    for key, row in vials.items():
        pairs = " | ".join(f"{1e3 * one.truth:.4g}, {1e3 * one.estimate:.4g}" for one in (row, others[key]))
        lies = "inside" if row.inside else "outside"
        lines.append(f"| {_short(row.plate)} | {row.vial} | {lies} | {pairs} | {100 * row.flagged:.0f} |")
    return lines


def _short(plate: str) -> str:
    return plate[-2:].upper()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _clock() -> Callable[[str], object]:
    """Return what prints a line with the time gone by."""
    start = time.perf_counter()
    return lambda text: print(f"{time.perf_counter() - start:5.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
