"""Verb `sweep`."""

from __future__ import annotations

from typing import Any

import click

from . import common


@click.command(short_help="Compare every weight and rank of a basis, and say which to take.")
@click.argument("spec")
@click.option("-o", "--output", required=True, callback=common.folder_name, help="Folder of the table and the figures.")
@click.option(
    "--crb-weights",
    default="0:0.9:0.1",
    show_default=True,
    callback=common.numbers,
    help="Numbers with commas, low:high:step.",
)
@click.option("--rank", type=int, default=10, show_default=True, help="Ranks 1 to this one.")
@click.option(
    "--max-crb-loss",
    type=float,
    default=0.05,
    show_default=True,
    callback=common.within(1e-9, 1),
    help="Budget: mean exact CRB loss of any parameter.",
)
@click.option(
    "--max-energy-loss", type=float, default=0.01, show_default=True, callback=common.within(1e-9, 1),
    help="Budget: mean loss of the signals' energy.",
)  # fmt: skip
@click.option("--converge", is_flag=True, help="Also train on 1/5 and 1/2 of the fingerprints.")
@common.training_options
@click.option("--dry-run", is_flag=True, help="Print memory and time, make nothing.")
@common.force
@common.verb
def command(
    *,
    spec: str,
    output: str,
    crb_weights: tuple[float, ...],
    rank: int,
    max_crb_loss: float,
    max_energy_loss: float,
    converge: bool,
    training: dict[str, Any],
    dry_run: bool,
    force: bool,
) -> None:
    """Make the bases of SPEC with every weight and rank from one pass, and say which to take.

    67 % of the fingerprints train, the others measure. Writes sweep.csv, sweep.json, sweep.png
    (the losses against the weight), scatter.png (approximate against exact bounds) and regressions.csv (the lines
    through such points, of every weight and rank).
    """
    from .. import sweep

    asked = sweep.Request(
        spec=spec, crb_weights=crb_weights, rank=rank, max_crb_loss=max_crb_loss, max_energy_loss=max_energy_loss,
        converge=converge, **training,
    )  # fmt: skip
    plan = sweep.plan(asked, output, force=force)
    if dry_run:
        click.echo(plan.estimate())
        return
    with common.stages() as report:
        outcome = plan.make(report=report)
    click.echo(outcome.text)
