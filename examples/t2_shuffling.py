"""T2 shuffling from k-space to T2: a fast spin echo whose lines change from echo to echo, by all three backends.

Needs BART, for the mask (`bart poisson`) and as one of the backends.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from _tissue_report import PURE, TISSUES, Row, errors_of, explained, montage, options_of, rows_of, table, write

from crbsvd_plugin import bart, bundle, forecast, run, simulate
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.images import CoefficientImages
from crbsvd_plugin.maps import load_map
from crbsvd_plugin.progress import silent
from crbsvd_plugin.spec import resolve

BACKENDS = ("native", "sigpy", "bart")
MODEL = "fse"
SCANNED, FITTED = ["b1=false"], ["b1=false", "t1=1.0 s"]
MASK_LEVEL = 0.05
CENTRE = 8  # lines in the middle that every echo has


def main() -> None:
    """Run all of it into FOLDER: findings.md and maps.png."""
    parser = options_of(__doc__, matrix=96, snr=50.0)
    parser.add_argument("--echoes", type=int, default=80, help="echoes of the train")
    parser.add_argument("--acceleration", type=float, default=3.0, help="of every echo, at the edge of k-space")
    write(shuffle, parser.parse_args())


def shuffle(work: Path, options: argparse.Namespace) -> str:
    """Scan, reconstruct and fit; draw the maps, and return the findings."""
    angles = f"flip_angles={train(options.echoes)}"
    basis = str(work / "basis")
    request = bundle.Request(
        spec=MODEL,
        settings=[*FITTED, angles],
        rank=options.rank,
        train=options.train,
        atoms=options.atoms,
        derivatives=True,
    )
    bundle.plan(request, basis, force=False).make(report=silent)
    mask = draw_mask(work, options)
    model = resolve(MODEL, [*SCANNED, angles]).model
    scan, whole = (
        simulate.acquire(model, matrix=options.matrix, n_coils=options.coils, mask=lines)
        for lines in (mask, np.ones_like(mask))
    )
    raw = simulate.write(scan, work / "scan.h5", snr=options.snr)
    quiet, full = work / "maps-quiet", work / "maps-full"
    config = run.config(basis=basis, iterations=options.iterations, mask_level=MASK_LEVEL, std=False, refine=True)
    for one, folder in ((scan, quiet), (whole, full)):
        written = simulate.write(one, work / f"{folder.name}.h5", snr=None)["raw"]
        run.maps(str(written), config, str(folder), force=False, report=silent)
    rows, images = [], {}
    for backend in BACKENDS:
        config = run.config(
            basis=basis, fit=False, backend=backend, iterations=options.iterations,
            bart_keep=str(work / "files") if backend == "bart" else None,
        )  # fmt: skip
        found = run.recon(str(raw["raw"]), config, str(work / backend), force=False, report=silent)
        images[backend] = found.volume(0)
        folder = work / f"maps-{backend}"
        run.fit(
            str(work / backend), basis, str(folder), like=None, mask_level=MASK_LEVEL, std=True, refine=True,
            force=False, report=silent,
        )  # fmt: skip
        rows += rows_of(backend, folder, quiet, "T2", raw)
    errors = errors_of(full, "T2", raw)
    alone = of_t1(angles, raw, basis)
    printed = forecast.forecast(str(raw["raw"]), config).text().splitlines()[-2].removeprefix("in BART").strip()
    pasted = paste(printed, work / "files" / "0", work / "bart")
    montage(
        options.folder / "maps.png", {name: work / f"maps-{name}" / "T2map.nii.gz" for name in BACKENDS}, raw["T2map"],
        top=0.2, unit="T2 [s]",
    )  # fmt: skip
    return findings(rows, errors, alone, images, mask, (printed, pasted), options)


def of_t1(angles: str, truth: Mapping[str, Path], basis: str) -> list[str]:
    """Return what T1 = 1 s does without images, basis and dictionary, as lines of a page.

    Of the median T1 and T2 of a tissue: the T2 of 10 ms to 20 s, in steps of 0.1 %, that its fingerprint fits best to.
    """
    t1, t2 = (load_map(truth[f"{name}map"])[0] for name in ("T1", "T2"))
    grid = np.geomspace(0.01, 20, 7600)
    whole = resolve(MODEL, [*SCANNED, angles]).model
    lines = ["| tissue | true T2 [ms] | with T1 = 1 s [ms] | bias [%] | with its own T1 [ms] |", "| --- " * 5 + "|"]
    for tissue in TISSUES:
        pure = load_map(truth[tissue])[0] > PURE
        true, of_tissue = float(np.median(t2[pure])), float(np.median(t1[pure]))
        signal = whole.signal(np.array([[true, of_tissue]]))[0]
        found = []
        for known in (1.0, of_tissue):
            atoms = resolve(MODEL, ["b1=false", f"t1={known}", angles]).model.signal(grid[:, None])
            found.append(float(grid[np.abs(atoms.conj() @ signal / np.linalg.norm(atoms, axis=1)).argmax()]))
        one, own = found
        bias = f"{100 * (one / true - 1):+.1f}"
        lines.append(f"| {tissue} | {1e3 * true:.4g} | {1e3 * one:.4g} | {bias} | {1e3 * own:.4g} |")
    last = Dictionary.load(basis, Basis.load(basis)).theta[:, 0].max()
    return [
        *lines,
        "",
        f"The last T2 of the dictionary is {1e3 * last:.4g} ms. A tissue that T1 = 1 s makes longer than that, as CSF,",
        "is found there whatever the noise: its bias above tells where the dictionary ends. With T1 known it is right.",
    ]


def train(n_echoes: int) -> list[float]:
    """Return refocusing angles [rad], those of the default for another number of echoes."""
    from crbsvd_plugin.models.fse import falling_and_rising

    return [round(float(angle), 6) for angle in falling_and_rising(n_echoes)]


def draw_mask(work: Path, options: argparse.Namespace) -> np.ndarray:
    """Return which lines (T, matrix) every echo has: a row of a variable-density pattern, another one for each.

    The pattern has two axes, because with one alone the neighbours of the line in the middle are in no pattern at all.
    """
    frames = []
    for echo in range(options.echoes):
        size = ["-Y", str(options.matrix), "-Z", str(CENTRE), "-C", str(CENTRE)]
        density = ["-y", f"{options.acceleration:g}", "-z", "1", "-v", "-s", str(echo + 1)]
        bart.run(["poisson", *size, *density, "pattern"], folder=work, threads=1)
        frames.append(np.abs(bart.read_cfl(work / "pattern").squeeze()[:, CENTRE // 2]) > 0)
    return np.array(frames)


def paste(command: str, folder: Path, coeff: Path) -> float:
    """Run a printed command in a folder; return how far its images are from those in a file, relative to these."""
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    ours = CoefficientImages.load(coeff).volume(0)
    theirs = bart.read_cfl(folder / "coeff").squeeze().T.reshape(ours.shape)
    return float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))


def findings(
    rows: list[Row],
    errors: dict[str, float],
    alone: list[str],
    images: dict[str, np.ndarray],
    mask: np.ndarray,
    pasted: tuple[str, float],
    options: argparse.Namespace,
) -> str:
    """Return the findings as a page."""
    per_echo = mask.sum(axis=1)
    native = images["native"]
    apart = [
        f"{name} {np.linalg.norm(images[name] - native) / np.linalg.norm(native):.1g}"
        for name in BACKENDS
        if name != "native"
    ]
    lines = [
        "# T2 shuffling",
        "",
        "Made by `python examples/t2_shuffling.py FOLDER`: a scan with the model `fse` (refocusing angles that fall",
        f"to 60 degrees and rise to 120, {options.echoes} echoes), {options.matrix} x {options.matrix} voxels,",
        f"{options.coils} coils, SNR {options.snr:g}, K = {options.rank}, no penalty, {options.iterations} iterations.",
        f"Every echo has {per_echo.min()} to {per_echo.max()} lines of {options.matrix}, other ones each",
        f"(`bart poisson -v`, the {CENTRE} in the middle always), {mask.sum()} in all; they are written as MRD raw",
        "data with counters and no trajectories (`crbsvd simulate --mask`). Sensitivities come from the data.",
        "Basis and fit know B1 = 1 and take T1 = 1 s for all tissues, as is usual; the scan has those of the tissues.",
        "Matching is followed by a step off the grid (`--refine`).",
        "",
        *explained("T2"),
        "",
        *table(rows, "T2"),
        "",
        "With all lines of all echoes, and without noise, the errors are",
        f"{', '.join(f'{100 * error:.2f} % ({tissue})' for tissue, error in errors.items())}: what they have",
        "in common with those of the mask without noise is resolution, and T1 where it is not 1 s. What T1 does alone,",
        "without images, basis and dictionary: the T2 that the fingerprint of a tissue fits best to",
        "",
        *alone,
        "",
        f"Coefficient images against the native ones, relative: {', '.join(apart)}. `bart pics` loses a part of its",
        "gridding kernel at the edge of k-space, where lines have samples and spokes few.",
        "",
        "The command that `crbsvd recon --dry-run` prints, pasted where `--bart-keep` has its files,",
        "",
        f"    {pasted[0]}",
        "",
        f"gives the images of `--backend bart` to {pasted[1]:.1g}.",
        "",
        "![truth and T2 above, relative errors below](maps.png)",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
