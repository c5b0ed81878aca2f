"""Bases with exact bounds against CRB-SVD: what both lose of the Cramer-Rao bound at equal loss of energy, held out.

The fingerprints of a model are divided as for `crbsvd sweep`. For every rank there are two curves of the mean exact CRB
loss against the energy loss: CRB-SVD at many weights, and the bases that `crbsvd basis --method exact` finds at some.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _exact
import numpy as np

from crbsvd_plugin import choose
from crbsvd_plugin.fingerprints import Fingerprints, prepared
from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.frontier import Frontier
from crbsvd_plugin.progress import silent
from crbsvd_plugin.weighting import Weighting

CURVE = (*(i / 20 for i in range(20)), 0.98)


@dataclass(frozen=True)
class Point:
    """A basis: how it was made, and what it loses.

    Parameters
    ----------
    rank, crb_weight, method
        The basis.
    energy, crb_loss : float
        Share of energy and mean exact CRB loss, of held-out fingerprints.
    cost, least : float
        Weighted loss of the training fingerprints, and what no basis of that rank and weight costs less than.
    """

    rank: int
    crb_weight: float
    method: str
    energy: float
    crb_loss: float
    cost: float
    least: float


def main() -> None:
    """Write curves.csv, curves.png and findings.md into FOLDER."""
    parser = _exact.parser(__doc__)
    parser.add_argument("--ranks", default="3,4,5,6,7,8")
    parser.add_argument("--weights", default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9", help="of exact bounds")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    points = measured(options)
    write(options.folder / "curves.csv", points)
    draw(options.folder / "curves.png", points)
    minutes = (time.perf_counter() - start) / 60
    text = findings(points, options, minutes)
    (options.folder / "findings.md").write_text(text, encoding="utf-8")
    print(text)


def measured(options: argparse.Namespace) -> list[Point]:
    """Make all bases."""
    found = _exact.folded(options)
    accumulator = found.accumulator
    report = partial(print, file=sys.stderr) if sys.stderr.isatty() else silent
    even = Weighting(0.5).factors(accumulator.blocks)
    fingerprints = prepared(accumulator, found.training, found.held_out, even, report=report)
    points = []
    for rank in map(int, options.ranks.split(",")):
        points += curve(accumulator, fingerprints, rank)
        for weight in map(float, options.weights.split(",")):
            points.append(exact(accumulator, fingerprints, rank, weight))
            print(points[-1], file=sys.stderr)
    return points


def curve(accumulator: BasisAccumulator, fingerprints: Fingerprints, rank: int) -> list[Point]:
    """Return the bases of CRB-SVD, in the dimensions in which those with exact bounds are looked for."""
    points = []
    for weight in CURVE:
        factors = Weighting(weight).factors(accumulator.blocks)
        frontier = Frontier(accumulator, factors, rank, fingerprints.columns)
        phi = frontier.basis(frontier.shares)
        energy, crb_loss = fingerprints.training.losses(phi)
        cost = frontier.shares[0] * energy + frontier.shares[1] * crb_loss
        losses = fingerprints.held_out.losses(phi)
        points.append(Point(rank, weight, "svd", *losses, cost, frontier.least(frontier.shares)))
    return points


def exact(accumulator: BasisAccumulator, fingerprints: Fingerprints, rank: int, weight: float) -> Point:
    """Return the basis that `crbsvd basis --method exact` finds."""
    factors = Weighting(weight).factors(accumulator.blocks)
    basis = choose.improved(accumulator.finish(rank, weight), accumulator, fingerprints, factors)
    phi = np.linalg.qr(fingerprints.columns.T @ basis.phi)[0]
    facts = basis.info["exact"]
    return Point(rank, weight, "exact", *fingerprints.held_out.losses(phi), facts["cost"], facts["least"])


def equal_energy(points: list[Point], rank: int) -> list[dict[str, float]]:
    """Return, for every exact basis, the CRB loss of CRB-SVD at its energy loss, by the curve's logarithms."""
    svd = sorted((p.energy, p.crb_loss) for p in points if (p.rank, p.method) == (rank, "svd"))
    energy, crb_loss = np.log(np.array(svd).T)
    rows = []
    for p in points:
        if (p.rank, p.method) == (rank, "exact") and svd[0][0] <= p.energy <= svd[-1][0]:
            there = float(np.exp(np.interp(np.log(p.energy), energy, crb_loss)))
            rows.append({
                "crb_weight": p.crb_weight, "energy": p.energy, "exact": p.crb_loss, "svd": there,
                "cost": p.cost, "least": p.least,
            })  # fmt: skip
    return rows


def write(path: Path, points: list[Point]) -> None:
    """Write a table of all bases."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(asdict(points[0])))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(p).items()} for p in points)


def draw(path: Path, points: list[Point]) -> None:
    """Draw both curves of every rank."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axis = figure.subplots()
    for i, rank in enumerate(sorted({p.rank for p in points})):
        for method, looks in (("svd", "-"), ("exact", "o")):
            xy: Any = np.array([(p.energy, p.crb_loss) for p in points if (p.rank, p.method) == (rank, method)]).T
            label = {"svd": f"K = {rank}, CRB-SVD", "exact": f"K = {rank}, exact bounds"}[method]
            axis.loglog(*xy, looks, color=f"C{i}", mfc="none", ms=5, lw=1, label=label)
    axis.set_xlabel("energy loss, held out")
    axis.set_ylabel("mean exact CRB loss, held out")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize="x-small", ncols=2)
    FigureCanvasAgg(figure).print_png(path)


def findings(points: list[Point], options: argparse.Namespace, minutes: float) -> str:
    """Return the tables, and what they say."""
    command = _exact.command("exact_bounds.py", options)
    lines = [
        f"# {options.spec}: exact bounds against CRB-SVD", "", f"`{command}`, {minutes:.0f} minutes.",
        "Losses of the third of the fingerprints that is held out, in per cent; of CRB-SVD at the energy loss of the",
        "basis with exact bounds, on its curve of many weights. Gap: (cost - least) / cost, training; no basis of",
        "that rank and weight costs less than `least`.", "",
        "| K | weight | energy loss | CRB loss, exact | CRB-SVD | gain | gap |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    gains = {}
    for rank in sorted({p.rank for p in points}):
        rows = equal_energy(points, rank)
        gains[rank] = [1 - row["exact"] / row["svd"] for row in rows]
        for row, gain in zip(rows, gains[rank], strict=True):
            gap = 1 - row["least"] / row["cost"]
            lines.append(
                f"| {rank} | {row['crb_weight']:g} | {100 * row['energy']:.3g} | {100 * row['exact']:.3g} "
                f"| {100 * row['svd']:.3g} | {100 * gain:.1f} % | {100 * gap:.0f} % |"
            )
    lines += ["", "![both curves of every rank](curves.png)", ""]
    for rank, found in gains.items():
        if found:
            lines.append(f"- K = {rank}: the CRB loss falls by {100 * min(found):.1f} to {100 * max(found):.1f} %.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
