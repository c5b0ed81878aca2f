"""Verb `rank`."""

from __future__ import annotations

from typing import Any

import click

from . import common


@click.command(short_help="How many coefficients: the errors that a scan makes of noise and of what a basis lacks.")
@click.argument("spec")
@click.argument("scan")
@click.option("-o", "--output", required=True, callback=common.folder_name, help="Folder of the table and the figure.")
@click.option("--rank", type=int, default=10, show_default=True, help="Ranks 1 to this one.")
@click.option("--crb-weight", type=float, default=0.3, show_default=True, help="Of the basis.")
@click.option(
    "--matrix", type=int, default=32, show_default=True, help="Voxels along the longest side of the small image."
)
@click.option("--snr", type=float, default=50.0, show_default=True, help="M0 / noise of a coefficient, where M0 = 1.")
@click.option(
    "--replicas", type=click.IntRange(min=2), default=16, show_default=True, metavar="N",
    help="Reconstructions of noise at every rank.",
)  # fmt: skip
@click.option(
    "--iterations", type=click.IntRange(min=1), default=30, show_default=True,
    help="Of each reconstruction, as for recon and maps.",
)  # fmt: skip
@click.option(
    "--tissues", default="GM,WM,CSF", show_default=True, callback=common.names, metavar="NAMES",
    help="Tissues that the recommendation counts, with commas.",
)  # fmt: skip
@click.option(
    "--coils", "n_coils", type=click.IntRange(min=1), show_default="those of the scan; 8", help="Receive coils."
)
@common.scan_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise.")
@common.training_options
@common.force
@common.verb
def command(
    *,
    spec: str,
    scan: str,
    output: str,
    rank: int,
    crb_weight: float,
    matrix: int,
    snr: float,
    replicas: int,
    iterations: int,
    tissues: tuple[str, ...],
    n_coils: int | None,
    reading: dict[str, Any],
    seed: int,
    training: dict[str, Any],
    force: bool,
) -> None:
    """Say how many coefficients of SPEC a scan should be reconstructed with.

    SCAN is raw data, of which only the sampling counts, or a trajectory as the verb `trajectory` writes it. A small
    image of the digital phantom is sampled likewise: noise grows with the rank, what the coefficients lack falls.
    Writes rank.csv, rank.json and rank.png.

    In a small image of spokes noise is right within 25 %, but leak is overstated, 2 to 3 times at --matrix 32; at one
    shot 64 can be worse. Where leak decides, take a matrix near the scan's.
    """
    from .. import ranking
    from ..scanned import Reading

    asked = ranking.Request(
        spec=spec, scan=scan, reading=Reading(**reading), n_coils=n_coils, rank=rank, crb_weights=(crb_weight,),
        matrix=matrix, snr=snr, replicas=replicas, iterations=iterations, tissues=tissues, seed=seed, **training,
    )  # fmt: skip
    plan = ranking.plan(asked, output, force=force)
    with common.stages() as report:
        outcome = plan.make(report=report)
    click.echo(outcome.text)
