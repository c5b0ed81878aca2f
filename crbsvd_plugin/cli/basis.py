"""Verb `basis`."""

from __future__ import annotations

from typing import Literal

import click

from . import common


@click.command(short_help="Make a basis, and the dictionary to match with.")
@click.argument("spec")
@click.option(
    "-o",
    "--output",
    required=True,
    callback=common.file_name,
    help="Name of the basis: NAME.cfl, NAME.hdr, NAME.json, NAME.h5.",
)
@click.option("--rank", type=int, default=5, show_default=True, help="Number of coefficients K.")
@click.option(
    "--crb-weight", type=float, default=0.3, show_default=True, help="The paper's lambda; 0: traditional SVD."
)
@click.option("--weighting", type=click.Choice(["svd", "loss"]), default="svd", show_default=True, help="Eq. 12 or 5.")
@click.option("--fisher", type=click.Choice(["real", "complex"]), default="real", show_default=True)
@click.option("--conjugate", is_flag=True, help="Count the conjugate of every fingerprint too: a real basis.")
@click.option("--train", default="20000", show_default=True, help="Fingerprints of the basis: grid (all) or about N.")
@click.option("--atoms", default="grid", show_default=True, help="Atoms of the dictionary: grid, about N, or none.")
@click.option(
    "--max-energy-loss",
    type=float,
    callback=common.within(0, 1),
    default=0.05,
    show_default=True,
    help="Warn above this loss.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting of SPEC.")
@click.option("--dry-run", is_flag=True, help="Print memory and time, make nothing.")
@common.force
@common.verb
def command(
    *,
    spec: str,
    output: str,
    rank: int,
    crb_weight: float,
    weighting: Literal["svd", "loss"],
    fisher: Literal["real", "complex"],
    conjugate: bool,
    train: str,
    atoms: str,
    max_energy_loss: float,
    settings: tuple[str, ...],
    dry_run: bool,
    force: bool,
) -> None:
    """Make the CRB-SVD basis of SPEC, a built-in model (mrf-fisp) or a TOML file.

    Written for BART as NAME.cfl with dims 1 1 1 1 1 T K, with its provenance in NAME.json and
    the dictionary to match with in NAME.h5.
    """
    from .. import bundle

    request = bundle.Request(
        spec=spec, settings=settings, rank=rank, crb_weight=crb_weight, weighting=weighting, fisher=fisher,
        conjugate=conjugate, train=train, atoms=atoms, max_energy_loss=max_energy_loss,
    )  # fmt: skip
    plan = bundle.plan(request, output, force=force)
    if dry_run:
        click.echo(plan.estimate())
        return
    with common.stages() as report:
        basis = plan.make(report=report)
    click.echo(bundle.table(basis))
