"""Verb `study`."""

from __future__ import annotations

from typing import Any

import click

from . import common


def _ranks(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Read whole numbers as `common.numbers` does."""
    found = common.numbers(context, parameter, text)
    if any(number != int(number) for number in found):
        raise click.BadParameter(f"{text!r}, expected whole numbers", context, parameter)
    return tuple(int(number) for number in found)


@click.command(short_help="Bias and standard deviation of parameters by simulation, beside their bounds.")
@click.argument("spec")
@click.option("-o", "--output", required=True, callback=common.folder_name, help="Folder of the table and the figure.")
@click.option(
    "--at", multiple=True, metavar="NAME=VALUE,..", help="A fingerprint, e.g. T1=0.81,T2=25ms; may be repeated."
)
@click.option("--table", metavar="FILE", help="Fingerprints from a CSV file: a line of names, then their values.")
@click.option("--random", type=int, metavar="K", help="K fingerprints drawn from the fit_prior of SPEC.")
@click.option("--snr", type=float, default=50.0, show_default=True, help="|M0| over the noise of a coefficient.")
@click.option(
    "--measurements", type=int, default=1000, show_default=True, metavar="N",
    help="Noisy measurements of each fingerprint.",
)  # fmt: skip
@click.option(
    "--ranks", default="3:10:1", show_default=True, callback=_ranks, help="Numbers with commas, low:high:step."
)
@click.option(
    "--crb-weights", default="0,0.5", show_default=True, callback=common.numbers,
    help="Numbers with commas, low:high:step.",
)  # fmt: skip
@common.estimating_options
@click.option(
    "--start", type=click.Choice(["dictionary", "truth"]), default="dictionary", show_default=True,
    help="nlls: where fits start. From the truth no dictionary is needed.",
)  # fmt: skip
@click.option("--atoms", default="grid", show_default=True, help="Atoms of the dictionary: grid (all) or about N.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is random.")
@common.training_options
@click.option("--dry-run", is_flag=True, help="Print memory and time, make nothing.")
@common.force
@common.verb
def command(
    *,
    spec: str,
    output: str,
    at: tuple[str, ...],
    table: str | None,
    random: int | None,
    snr: float,
    measurements: int,
    ranks: tuple[int, ...],
    crb_weights: tuple[float, ...],
    estimating: dict[str, Any],
    start: Any,
    atoms: str,
    seed: int,
    training: dict[str, Any],
    dry_run: bool,
    force: bool,
) -> None:
    """Measure fingerprints of SPEC many times with noise, and fit them in bases of several weights and ranks.

    Writes study.csv, study.json and study.png: bias, standard deviation and root mean square error of each parameter
    with their standard errors, the Cramer-Rao bounds of all frames and of the coefficients, and failed fits.
    """
    from .. import bench, study

    asked = study.Request(
        spec=spec, at=at, table=table, random=random, snr=snr, measurements=measurements, ranks=ranks,
        crb_weights=crb_weights, way=bench.Way(start=start, **estimating), atoms=atoms, seed=seed, **training,
    )  # fmt: skip
    plan = study.plan(asked, output, force=force)
    if dry_run:
        click.echo(plan.estimate())
        return
    with common.stages() as report:
        outcome = plan.make(report=report)
    click.echo(outcome.text)
