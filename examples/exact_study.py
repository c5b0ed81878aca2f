"""Is a gain in the bound one in the estimate? Bias and standard deviation in two bases, by simulation.

One is that of CRB-SVD at a weight, the other has the least mean CRB loss with exact bounds at the same energy loss, and
both come from the same fingerprints. The noise of every measurement is the same in both; fits are least squares with
exact signals, from the truth.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from dataclasses import dataclass

import _exact
import numpy as np

from crbsvd_plugin import Basis, bench, choose, crb, truths
from crbsvd_plugin.campaign import Campaign
from crbsvd_plugin.estimates import Statistics
from crbsvd_plugin.fingerprints import prepared
from crbsvd_plugin.fit.bounds import bounded
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.progress import silent
from crbsvd_plugin.weighting import Weighting

NAMES = ("CRB-SVD", "exact bounds")


@dataclass(frozen=True)
class Result:
    """One parameter of one fingerprint.

    Parameters
    ----------
    fingerprint, parameter
        Which.
    bounds : two floats
        Standard deviations that the exact bounds allow, in both bases.
    found : two Statistics
        Of the estimates.
    """

    fingerprint: int
    parameter: str
    bounds: tuple[float, float]
    found: tuple[Statistics, Statistics]


def main() -> None:
    """Write study.csv and findings.md into FOLDER."""
    parser = _exact.parser(__doc__)
    parser.add_argument("--rank", type=int, default=3)
    parser.add_argument("--crb-weight", type=float, default=0.8, help="of CRB-SVD")
    parser.add_argument("--at", action="append", default=[], metavar="NAME=VALUE,..")
    parser.add_argument("--random", type=int, help="fingerprints from the fit prior")
    parser.add_argument("--bounds", action="append", default=[], metavar="NAME=LOW:HIGH")
    parser.add_argument("--measurements", type=int, default=1000)
    parser.add_argument("--snr", type=float, default=50.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    bases, results = measured(options)
    minutes = (time.perf_counter() - start) / 60
    with (options.folder / "study.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["fingerprint", "parameter", "basis", "bound", *Statistics._fields])
        for r in results:
            for name, bound, found in zip(NAMES, r.bounds, r.found, strict=True):
                figures = (f"{value:.5g}" for value in (bound, *found))
                writer.writerow([r.fingerprint, r.parameter, name, *figures])
    text = findings(options, bases, results, minutes)
    (options.folder / "findings.md").write_text(text, encoding="utf-8")
    print(text)


def measured(options: argparse.Namespace) -> tuple[tuple[Basis, Basis], list[Result]]:
    """Make both bases, and fit all measurements in both."""
    folded = _exact.folded(options)
    spec, accumulator = folded.spec, folded.accumulator
    model = spec.model
    factors = Weighting(options.crb_weight).factors(accumulator.blocks)
    info = {"model": model.spec}
    svd = accumulator.finish(options.rank, options.crb_weight, info=info)
    fingerprints = prepared(accumulator, folded.training, folded.held_out, factors)
    energy = fingerprints.training.losses(np.linalg.qr(fingerprints.columns.T @ svd.phi)[0])[0]
    exact = choose.improved(svd, accumulator, fingerprints, factors, energy_loss=energy)

    theta = np.concatenate([part.theta for part in spec.fit_prior.atoms(model.parameters)])
    box = bounded(Box.around(model.parameters, theta), tuple(options.bounds))
    truth = truths.chosen(box, spec.fit_prior, at=tuple(options.at), table=None, random=options.random, seed=0)
    way = bench.Way(method="nlls", start="truth", signals="exact", bounds=tuple(options.bounds))
    campaign = Campaign(
        model=model, truth=truth, fit_prior=spec.fit_prior, box=box, way=way, ranks=[options.rank],
        snr=options.snr, n_measurements=options.measurements, seed=0,
    )  # fmt: skip
    bases = svd, exact
    estimates = campaign.run(bases, checkpoint=None, key={}, pool=None, report=silent)
    batch, free = campaign.simulated(slice(None)), np.flatnonzero(box.free).tolist()
    targets = [i for i in crb.interesting(model.parameters) if box.free[i]]
    problem = batch.signal, np.asarray(batch.jac)[:, free]
    wanted = [free.index(i) for i in targets]
    exacts = [crb.bounds(*problem, b.phi, targets=wanted, fisher=folded.training.fisher).exact for b in bases]
    results = []
    for f in range(len(truth)):
        for p, i in enumerate(targets):
            bounds = tuple(math.sqrt(found[f, p]) / options.snr for found in exacts)
            found = tuple(estimates.statistics(b, 0, f, i, float(truth[f, i])) for b in range(2))
            results.append(Result(f, model.parameters[i].name, bounds, found))
    return bases, results


def findings(options: argparse.Namespace, bases: tuple[Basis, Basis], results: list[Result], minutes: float) -> str:
    """Return the tables, and what they say."""
    facts = bases[1].info["exact"]
    command = f"{_exact.command('exact_study.py', options)} --rank {options.rank} --crb-weight {options.crb_weight:g}"
    n = len({r.fingerprint for r in results})
    loss = f"Energy loss {100 * facts['energy_loss']:.3g} %; mean exact CRB loss, held out: "
    loss += f"CRB-SVD {100 * facts['start_held_out']:.4g} %, exact bounds {100 * facts['cost_held_out']:.4g} %."
    asked = [f"`--at {at}`" for at in options.at]
    if options.bounds:
        asked.append("`" + " ".join(f"--bounds {bound}" for bound in options.bounds) + "`")
    lines = [
        f"# {options.spec}, K = {options.rank}: a gain in the bound, and in the estimate", "",
        f"`{command}`, {n} x {options.measurements} measurements at an SNR of {options.snr:g}, {minutes:.0f} minutes.",
        loss, *asked, "", "Exact bounds over CRB-SVD, geometric means over the fingerprints. Bias in units of the",
        "standard deviation, root mean square.", "",
        "| parameter | bound | standard deviation | RMSE | bias, CRB-SVD | bias, exact |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name in dict.fromkeys(r.parameter for r in results):
        mine = [r for r in results if r.parameter == name]
        sds, rmses = (
            np.array([[r.found[b].sd for b in (0, 1)] for r in mine]),
            np.array([[r.found[b].rmse for b in (0, 1)] for r in mine]),
        )
        errors = np.array([[r.found[b].sd_se / r.found[b].sd for b in (0, 1)] for r in mine])
        # the noise is the same in both bases, so this is too large
        error = math.sqrt(float(np.sum(errors**2))) / len(mine)
        bound, sd, rmse = (
            float(np.exp(np.mean(np.log(pairs[:, 1] / pairs[:, 0]))))
            for pairs in (np.array([r.bounds for r in mine]), sds, rmses)
        )
        bias = [math.sqrt(float(np.mean([(r.found[b].bias / r.found[b].sd) ** 2 for r in mine]))) for b in (0, 1)]
        lines.append(f"| {name} | {bound:.3f} | {sd:.3f} +- {error:.3f} | {rmse:.3f} | {bias[0]:.3f} | {bias[1]:.3f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
