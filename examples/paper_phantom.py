"""Scan a brain phantom as in the paper's MRF-FISP experiment; write down what the bases do to its T1, T2 and R1.

Ranks 3, 4, 5 and 10, crb weights 0 (the traditional SVD) and 0.3, conjugate gradients and locally low rank; and what
a gradient delay of half a sample costs, before and after its correction.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _paper_report as report
import numpy as np
from _paper_errors import BRAIN, Row, Truth

import crbsvd_plugin as crb
from crbsvd_plugin import bundle, pipeline, simulate
from crbsvd_plugin.delays import corrected, estimate_delays, named
from crbsvd_plugin.encoding import coefficient_noise
from crbsvd_plugin.progress import silent
from crbsvd_plugin.spec import resolve

SNR, DELAY = 50.0, 0.5
# the dictionary is finer than the usual one and ends sooner: its steps are to be smaller than the errors
STEPS = {"T1": (0.4, 5.0, 320), "T2": (0.03, 3.0, 560)}
SPEC = """
name = "mrf-fisp"
[fit_prior]
ordered = [["T2", "T1"]]
[[fit_prior.tissues]]
label = "brain"
""" + "".join(
    f'{name} = {{ kind = "grid", low = {low}, high = {high}, n = {n}, spacing = "log" }}\n'
    for name, (low, high, n) in STEPS.items()
)
RANKS, WEIGHTS = (3, 4, 5, 10), (0.0, 0.3)
TUNED = (0.0, 5)  # weight and rank that settings are chosen for: the traditional basis, so that none favours the other
DELAYED = (0.3, 5)
CG_ITERATIONS = (5, 10, 15, 20, 30)
LAMBDAS = (2.0, 4.0, 8.0, 16.0, 32.0)  # in units of the noise of A^H W y
TUNING_VOXELS = 2000
Bases = dict[float, Path]


@dataclass(frozen=True)
class Measured:
    """Whitened readouts of a phantom, and the sensitivities found in them."""

    scan: simulate.Scan
    ksp: np.ndarray
    traj: np.ndarray
    sens: np.ndarray
    delays: dict[str, float]
    """What was found and corrected [samples]."""

    def operator(self, basis: crb.Basis) -> crb.SubspaceOperator:
        """Return the encoding in a basis."""
        return crb.SubspaceOperator(self.traj, frame=self.scan.frame, phi=basis.phi, sens=self.sens)


def main() -> None:
    """Run all of it into FOLDER: errors.csv, pictures and findings.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the results")
    parser.add_argument("--matrix", type=int, default=256, help="voxels along either side")
    parser.add_argument("--shots", type=int, default=3, help="repetitions of the train: spokes per frame")
    parser.add_argument("--train", default="20000", help="fingerprints for the bases")
    parser.add_argument("--atoms", default="grid", help="about so many atoms in the dictionary")
    parser.add_argument("--iterations", type=int, default=250, help="iterations of FISTA")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    say = _clock()
    # exact signals in the phantom; the dictionary has the model's usual accuracy
    model = resolve("mrf-fisp", ["accuracy=0"]).model
    size = {"matrix": options.matrix, "n_shots": options.shots}
    with tempfile.TemporaryDirectory() as work:
        bases = make_bases(Path(work), options.train, options.atoms)
        say(f"bases of crb weight {WEIGHTS[0]:g} and {WEIGHTS[1]:g}")
        scan = simulate.acquire(model, **size)
        say(f"k-space {' x '.join(map(str, scan.ksp.shape))} (coils, spokes, samples)")
        truth, data = Truth.of(scan, model), measured(scan, bases)
        rows, pictures = exact(truth, bases), {}
        settings = tune(truth, data, bases, options.iterations, say)
        for weight in WEIGHTS:
            for rank in RANKS:
                found, maps = reconstructed(truth, data, bases, weight, rank, settings)
                rows, pictures = rows + found, pictures | maps
                say(f"K = {rank}, crb weight {weight:g}")
        late = simulate.acquire(model, gradient_delay=(DELAY, DELAY, 0.0), **size)
        say(f"k-space with gradient delays of {DELAY} samples")
        found, delays = delayed(truth, late, bases, settings)
        rows += found
        say("gradient delays")
    steps = " and ".join(f"{(high / low) ** (1 / n) - 1:.1%} in {name}" for name, (low, high, n) in STEPS.items())
    settings |= {
        "shots": options.shots,
        "snr": SNR,
        "tuned": TUNED[1],
        "train": options.train,
        "atoms": f"steps of {steps}" if options.atoms == "grid" else f"about {options.atoms} atoms",
        "delay": DELAY,
        "found": delays,
    }
    with (options.folder / "errors.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    report.draw(options.folder, pictures, truth.maps, truth.regions[BRAIN], scan.phantom.geometry.affine)
    text = report.findings(rows, settings, scan)
    (options.folder / "findings.md").write_text(text, encoding="utf-8")
    print(text)


def make_bases(folder: Path, train: str, atoms: str) -> Bases:
    """Fold once; write the basis and the dictionary of every weight, of the largest rank."""
    accumulator, bases, spec = None, {}, folder / "spec.toml"
    spec.write_text(SPEC, encoding="utf-8")
    for weight in WEIGHTS:
        name = folder / f"basis_{weight:g}"
        request = bundle.Request(spec=str(spec), rank=max(RANKS), crb_weight=weight, train=train, atoms=atoms)
        plan = bundle.plan(request, str(name), force=False)
        accumulator = plan.fold(report=silent) if accumulator is None else accumulator
        plan.finish(accumulator, report=silent)
        bases[weight] = name
    return bases


def load(bases: Bases, weight: float, rank: int) -> tuple[crb.Basis, crb.Dictionary]:
    """Return the first columns of a basis, and its dictionary."""
    basis, dictionary = pipeline.load(str(bases[weight]), rank=rank, with_dictionary=True)
    assert dictionary is not None
    return basis, dictionary


def data_noise(scan: simulate.Scan) -> float:
    """Return the noise of A^H W y per real component, once whitened: with unit density, that of the samples."""
    return 1 / coefficient_noise(scan.traj[..., 0].size, scan.phantom.geometry.shape, n_frames=scan.n_frames)


def measured(scan: simulate.Scan, bases: Bases, *, correct: bool = False) -> Measured:
    """Add white noise, whiten, find the sensitivities; with `correct`, the gradient delays before."""
    rng, sigma = np.random.default_rng(0), scan.sigma(SNR)
    noise = rng.standard_normal(scan.ksp.shape, np.float32) + 1j * rng.standard_normal(scan.ksp.shape, np.float32)
    ksp = scan.ksp / np.float32(sigma) + noise
    shape = scan.phantom.geometry.shape[:2]
    basis, _ = load(bases, *TUNED)
    traj, delays = scan.traj, {}
    if correct:
        tensor = estimate_delays(ksp, traj, frame=scan.frame, phi=basis.phi, shape=shape)
        traj, delays = corrected(traj, tensor), named(tensor)
    sens = crb.coils.estimate_sensitivities(ksp, traj, frame=scan.frame, phi=basis.phi, shape=shape)
    return Measured(scan, ksp, traj, sens, delays)


def tune(truth: Truth, data: Measured, bases: Bases, iterations: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Choose iterations of CG and lambda of LLR: smallest median error of T1 with the basis TUNED."""
    basis, dictionary = load(bases, *TUNED)
    operator, brain = data.operator(basis), truth.regions[BRAIN]
    some = np.zeros_like(brain)
    some.flat[np.flatnonzero(brain)[:: max(1, brain.sum() // TUNING_VOXELS)]] = True

    def error(coeff: np.ndarray) -> float:
        fitted, true = truth.fit(coeff, dictionary, some)["T1"], truth.values(some)["T1"]
        return float(np.median(np.abs(fitted / true - 1)))

    cg: dict[int, float] = {}

    def after(iteration: int, coeff: np.ndarray) -> None:
        if iteration in CG_ITERATIONS:
            cg[iteration] = error(coeff)

    crb.reconstruct(operator, data.ksp, iterations=max(CG_ITERATIONS), callback=after)
    say("iterations of CG")
    llr: dict[float, float] = {}
    for factor in LAMBDAS:
        lam = factor * data_noise(data.scan)
        llr[factor] = error(crb.reconstruct(operator, data.ksp, regulariser="llr", lam=lam, iterations=iterations))
        say(f"LLR, lambda {factor:g} times the noise: median error of T1 {100 * llr[factor]:.2f} %")
    best = min(llr, key=llr.__getitem__)
    return {
        "cg": {"iterations": min(cg, key=cg.__getitem__)},
        "llr": {"regulariser": "llr", "lam": best * data_noise(data.scan), "iterations": iterations},
        "tuning": {"cg": cg, "llr": llr},
    }


def reconstructed(
    truth: Truth, data: Measured, bases: Bases, weight: float, rank: int, settings: dict[str, Any]
) -> tuple[list[Row], dict[report.Picture, dict[str, np.ndarray]]]:
    """Reconstruct with both methods and fit; return errors, and values in the brain."""
    basis, dictionary = load(bases, weight, rank)
    operator, brain = data.operator(basis), truth.regions[BRAIN]
    rows: list[Row] = []
    pictures = {}
    for method in report.METHODS:
        coeff = crb.reconstruct(operator, data.ksp, **settings[method])
        pictures[method, weight, rank] = fitted = truth.fit(coeff, dictionary, brain)
        rows += truth.errors(basis, coeff * data.scan.sigma(SNR), fitted, (method, "none", weight, rank))
    return rows, pictures


def exact(truth: Truth, bases: Bases) -> list[Row]:
    """Fit the true coefficients: what the steps of the dictionary, and mixed voxels, cost alone."""
    weight, rank = WEIGHTS[0], max(RANKS)
    basis, dictionary = load(bases, weight, rank)
    coeff = truth.coefficients(basis)
    fitted = truth.fit(coeff, dictionary, truth.regions[BRAIN])
    return truth.errors(basis, coeff, fitted, ("exact", "none", weight, rank))


def delayed(
    truth: Truth, late: simulate.Scan, bases: Bases, settings: dict[str, Any]
) -> tuple[list[Row], dict[str, float]]:
    """Reconstruct data with gradient delays, as they are and corrected; return errors and the delays found."""
    basis, dictionary = load(bases, *DELAYED)
    rows: list[Row] = []
    for name in ("uncorrected", "corrected"):
        data = measured(late, bases, correct=name == "corrected")
        coeff = crb.reconstruct(data.operator(basis), data.ksp, **settings["cg"])
        fitted = truth.fit(coeff, dictionary, truth.regions[BRAIN])
        rows += truth.errors(basis, coeff * late.sigma(SNR), fitted, ("cg", name, *DELAYED))
    return rows, data.delays


def _clock() -> Callable[[str], object]:
    """Return what prints a line with the time gone by."""
    start = time.perf_counter()
    return lambda text: print(f"{time.perf_counter() - start:5.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
