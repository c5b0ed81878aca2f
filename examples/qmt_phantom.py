"""Scan a brain with two pools as in the paper's Fig. 5; write down the errors of m0s and Rx against rank and weight.

Locally low-rank FISTA, then nonlinear least squares in voxels of pure white and grey matter. K = 30 with a weight of
0.5 is the reference, and so is the truth, which the paper did not have.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import crbsvd_plugin as crb
from crbsvd_plugin import bundle, mt_phantom, pipeline, simulate
from crbsvd_plugin.encoding import coefficient_noise
from crbsvd_plugin.fit.fitter import prepared
from crbsvd_plugin.phantom import signals_of
from crbsvd_plugin.progress import silent
from crbsvd_plugin.spec import resolve

RANKS, WEIGHT = (10, 15, 18, 30), 0.5
WEIGHTS, REFERENCE = (0.0, WEIGHT), (WEIGHT, 30)
TUNED = (0.0, 15)  # the traditional basis, so that nothing favours the other
LAMBDAS = (2.0, 8.0, 32.0, 128.0)  # in units of the noise of A^H W y
TUNING_ITERATIONS = 60
PARAMETERS, TISSUES = ("m0s", "Rx"), ("WM", "GM")


@dataclass(frozen=True)
class Row:
    """Errors of a parameter in a tissue: medians over voxels, relative to the truth or to the reference."""

    crb_weight: float
    rank: int
    tissue: str
    parameter: str
    n_voxels: int
    bias: float
    error: float
    error_to_reference: float
    coefficient_error: float
    reconstruction_s: float
    fit_s: float


def main() -> None:
    """Run all of it into FOLDER: errors.csv, errors.png and findings.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the results")
    parser.add_argument("--train", help="pulse train (.mat, .npz, .csv); else the built-in one")
    parser.add_argument("--matrix", type=int, default=48, help="voxels along every side")
    parser.add_argument("--shots", type=int, default=20, help="spokes per frame")
    parser.add_argument("--coils", type=int, default=4, help="receive coils")
    parser.add_argument("--snr", type=float, default=50.0, help="M0 / noise of a coefficient")
    parser.add_argument("--fingerprints", default="8192", help="for the bases")
    parser.add_argument("--atoms", default="grid", help="about so many atoms to start from")
    parser.add_argument("--iterations", type=int, default=250, help="of FISTA")
    parser.add_argument("--voxels", type=int, default=500, help="to be fitted, of either tissue, at most")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    say = _clock()
    settings = [f"train={options.train}"] if options.train else []
    model = resolve("qmt-hsfp", settings).model
    with tempfile.TemporaryDirectory() as work:
        bases = make_bases(Path(work), settings, options)
        say("bases")
        scan = simulate.acquire(model, matrix=options.matrix, n_coils=options.coils, n_shots=options.shots)
        say(f"k-space {' x '.join(map(str, scan.ksp.shape))} (coils, spokes, samples)")
        study = Study(scan, model, bases, options)
        say("sensitivities")
        study.tune(say)
        for weight in WEIGHTS:
            for rank in RANKS:
                study.reconstruct(weight, rank)
                say(f"K = {rank}, crb weight {weight:g}")
    rows = study.rows()
    with (options.folder / "errors.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in asdict(row).items()}
            for row in rows
        )
    draw(options.folder / "errors.png", rows)
    text = findings(rows, study, options)
    (options.folder / "findings.md").write_text(text, encoding="utf-8")
    print(text)


def make_bases(folder: Path, settings: list[str], options: argparse.Namespace) -> dict[float, Path]:
    """Fold once; write the basis and the dictionary of every weight, of the largest rank."""
    accumulator, bases = None, {}
    for weight in WEIGHTS:
        name = folder / f"basis_{weight:g}"
        request = bundle.Request(
            spec="qmt-hsfp", settings=settings, rank=max(RANKS), crb_weight=weight, train=options.fingerprints,
            atoms=options.atoms,
        )  # fmt: skip
        plan = bundle.plan(request, str(name), force=False)
        accumulator = plan.fold(report=silent) if accumulator is None else accumulator
        plan.finish(accumulator, report=silent)
        bases[weight] = name
    return bases


class Study:
    """Whitened readouts with noise, and what is made of them."""

    def __init__(
        self, scan: simulate.Scan, model: crb.SignalModel, bases: dict[float, Path], options: argparse.Namespace
    ):
        self.scan, self.bases, self.options = scan, bases, options
        rng, self.sigma = np.random.default_rng(0), scan.sigma(options.snr)
        noise = rng.standard_normal(scan.ksp.shape, np.float32) + 1j * rng.standard_normal(scan.ksp.shape, np.float32)
        self.ksp = scan.ksp / np.float32(self.sigma) + noise
        self.maps = scan.phantom.maps()
        self.signals = signals_of(model, scan.phantom.theta, mt_phantom.PARAMETERS)
        brain = sum(self.maps[name] for name in ("GM", "WM", "CSF"))
        self.inside = brain > 0.5
        self.voxels = {}
        for name in TISSUES:
            pure = np.flatnonzero(self.maps[name] > 0.9)
            if not len(pure):
                raise SystemExit(f"no voxel holds {name} alone; take a larger --matrix")
            self.voxels[name] = pure[:: max(1, -(-len(pure) // options.voxels))]
        basis, _ = self._load(*TUNED)
        self.sens = crb.coils.estimate_sensitivities(
            self.ksp, scan.traj, frame=scan.frame, phi=basis.phi, shape=self.maps["M0map"].shape
        )
        self.lam, self.tuning = 0.0, {}
        self.found: dict[tuple[float, int], dict[str, dict[str, np.ndarray]]] = {}
        self.seconds: dict[tuple[float, int], tuple[float, float, float]] = {}

    def tune(self, say: Callable[[str], object]) -> None:
        """Choose lambda: smallest error of the coefficient images of the basis TUNED."""
        basis, _ = self._load(*TUNED)
        unit = 1 / coefficient_noise(self.scan.traj[..., 0].size, self.inside.shape, n_frames=self.scan.n_frames)
        operator = self._operator(basis)
        for factor in LAMBDAS:
            coeff = crb.reconstruct(
                operator, self.ksp, regulariser="llr", lam=factor * unit, iterations=TUNING_ITERATIONS
            )
            self.tuning[factor] = self._coefficient_error(basis, coeff)
            say(f"lambda {factor:g} times the noise: error of the coefficients {100 * self.tuning[factor]:.1f} %")
        self.lam = unit * min(self.tuning, key=self.tuning.__getitem__)

    def reconstruct(self, weight: float, rank: int) -> None:
        """Reconstruct in a basis, and fit the pure voxels."""
        basis, dictionary = self._load(weight, rank)
        start = time.perf_counter()
        coeff = crb.reconstruct(
            self._operator(basis), self.ksp, regulariser="llr", lam=self.lam, iterations=self.options.iterations
        )
        middle = time.perf_counter()
        fitter = prepared(basis, dictionary, method="nlls", signals="exact", mask_level=0)
        self.found[weight, rank] = {}
        for name, where in self.voxels.items():
            maps = fitter.fit(coeff.reshape(rank, -1)[:, where])
            values = dict(zip((p.name for p in maps.parameters), maps.theta.astype(np.float64), strict=True))
            self.found[weight, rank][name] = values
        end = time.perf_counter()
        self.seconds[weight, rank] = (middle - start, end - middle, self._coefficient_error(basis, coeff))

    def rows(self) -> list[Row]:
        """Return the errors of all bases."""
        rows = []
        for (weight, rank), tissues in self.found.items():
            reconstruction, fit, error = self.seconds[weight, rank]
            for tissue, values in tissues.items():
                where = self.voxels[tissue]
                for name in PARAMETERS:
                    true, best = self.maps[f"{name}map"].ravel()[where], self.found[REFERENCE][tissue][name]
                    to_truth, to_best = values[name] / true - 1, values[name] / best - 1
                    figures = (np.median(to_truth), np.median(np.abs(to_truth)), np.median(np.abs(to_best)))
                    rows.append(
                        Row(weight, rank, tissue, name, len(where), *map(float, figures), error, reconstruction, fit)
                    )
        return rows

    def _load(self, weight: float, rank: int) -> tuple[crb.Basis, crb.Dictionary]:
        basis, dictionary = pipeline.load(str(self.bases[weight]), rank=rank, with_dictionary=True)
        assert dictionary is not None
        return basis, dictionary

    def _operator(self, basis: crb.Basis) -> crb.SubspaceOperator:
        return crb.SubspaceOperator(self.scan.traj, frame=self.scan.frame, phi=basis.phi, sens=self.sens)

    def _coefficient_error(self, basis: crb.Basis, coeff: np.ndarray) -> float:
        """Return the error of magnitudes of coefficient images in the brain: sensitivities leave a phase open."""
        fine = self.scan.phantom.mix(basis.project(self.signals))
        true = self.scan.phantom.on_image_grid(fine.real) + 1j * self.scan.phantom.on_image_grid(fine.imag)
        true, found = np.abs(true[:, self.inside]), np.abs(coeff[:, self.inside]) * self.sigma
        return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def draw(path: Path, rows: list[Row]) -> None:
    """Draw the median errors against the rank."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axis, parameter in zip(figure.subplots(1, len(PARAMETERS)), PARAMETERS, strict=True):
        for i, weight in enumerate(WEIGHTS):
            for tissue, line in zip(TISSUES, ("-", "--"), strict=True):
                chosen = [r for r in rows if (r.crb_weight, r.tissue, r.parameter) == (weight, tissue, parameter)]
                errors = [100 * r.error for r in chosen]
                axis.plot([r.rank for r in chosen], errors, f"o{line}", color=f"C{i}", label=f"{tissue}, {weight:g}")
        axis.set(xlabel="K", ylabel="median error [%]", title=parameter)
        axis.grid(alpha=0.3)
        axis.legend(title="tissue, crb weight", fontsize="small")
    figure.savefig(path)


def findings(rows: list[Row], study: Study, options: argparse.Namespace) -> str:
    """Return the findings as a page."""
    scan, n = study.scan, options.matrix
    train = "the file given" if options.train else "our built-in train"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    best = min(study.tuning, key=study.tuning.__getitem__)
    tuned = ", ".join(f"{factor:g}: {100 * error:.1f} %" for factor, error in study.tuning.items())
    lines = [
        "# Errors of m0s and Rx from k-space to maps",
        "",
        "Made by `python examples/qmt_phantom.py FOLDER`, our reading of Fig. 5 of",
        "[Mao et al.](https://arxiv.org/abs/2305.00326), in a digital brain instead of a volunteer:",
        f"{n} x {n} x {n} voxels ({scan.phantom.source}), {train} (T = {scan.n_frames}), {options.shots} spokes",
        f"per frame, {scan.ksp.shape[1]} in all, {options.coils} coils, SNR {options.snr:g}. Bases are those of",
        f"{options.fingerprints} fingerprints; {options.iterations} iterations of FISTA with locally low rank,",
        f"nonlinear least squares of the model itself. Lambda is {best:g} times the noise of A^H W y: of the factors",
        f"tried with weight {TUNED[0]:g} and K = {TUNED[1]} the one with the smallest error of the coefficients",
        f"({tuned}).",
        "",
        "Median relative errors [%] in voxels of one tissue: bias and size against the truth, and size against the",
        f"maps of K = {REFERENCE[1]} with weight {REFERENCE[0]:g}, which is what can be told of a volunteer.",
        "",
        "| weight | K | " + " | ".join(f"{p} of {t}: bias, error, to reference" for p in PARAMETERS for t in TISSUES)
        + " | coefficients | reconstruction, fit [s] |",
        "| --- | --- | " + " --- |" * (len(PARAMETERS) * len(TISSUES)) + " --- | --- |",
    ]  # fmt: skip
    for weight, rank in study.found:
        chosen = {(r.parameter, r.tissue): r for r in rows if (r.crb_weight, r.rank) == (weight, rank)}
        cells = [
            f"{100 * r.bias:+.1f}, {100 * r.error:.1f}, {100 * r.error_to_reference:.1f}"
            for r in (chosen[p, t] for p in PARAMETERS for t in TISSUES)
        ]
        one = next(iter(chosen.values()))
        lines.append(
            f"| {weight:g} | {rank} | {' | '.join(cells)} | {100 * one.coefficient_error:.1f} "
            f"| {one.reconstruction_s:.0f}, {one.fit_s:.0f} |"
        )
    counted = ", ".join(f"{len(where)} of {tissue}" for tissue, where in study.voxels.items())
    lines += ["", f"Voxels: {counted}. Largest memory of the process: {peak:.1f} GiB.", ""]
    lines += shares(rows)
    return "\n".join([*lines, "", "![errors against the rank](errors.png)", ""])


def shares(rows: list[Row]) -> list[str]:
    """Return what the weight makes of the errors, as lines."""
    lines = [f"Errors with weight {WEIGHT:g} as a share of those of weight 0:", ""]
    for rank in RANKS:
        found: dict[str, list[str]] = {"truth": [], "reference": []}
        for parameter in PARAMETERS:
            for tissue in TISSUES:
                old, new = (r for r in rows if (r.rank, r.parameter, r.tissue) == (rank, parameter, tissue))
                found["truth"].append(f"{parameter} of {tissue} {new.error / old.error:.2f}")
                found["reference"].append(f"{new.error_to_reference / old.error_to_reference:.2f}")
        text = f"- K = {rank}, against the truth: {', '.join(found['truth'])}"
        lines.append(
            text + (f"; against the reference: {', '.join(found['reference'])}." if rank < max(RANKS) else ".")
        )
    return [
        *lines,
        "",
        "Errors against the truth hold what all bases have in common, such as the ringing of voxels with their",
        "neighbours, noise, and what locally low rank takes away; those against the reference are what the",
        "compression adds.",
    ]


def _clock() -> Callable[[str], object]:
    """Return what prints a line with the time gone by."""
    start = time.perf_counter()
    return lambda text: print(f"{time.perf_counter() - start:5.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
