"""Verb `basis`."""

from __future__ import annotations

from typing import Any, Literal

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
@click.option("--rank", type=int, help="Number of coefficients K; else what the model suggests, mostly 5.")
@click.option(
    "--crb-weight", type=float, default=0.3, show_default=True, help="The paper's lambda; 0: traditional SVD."
)
@click.option(
    "--method",
    type=click.Choice(["svd", "exact"]),
    default="svd",
    show_default=True,
    help="CRB-SVD, with approximate bounds; or the basis that loses least with exact ones, found from there on.",
)
@click.option("--worst-decile", is_flag=True, help="exact: of every parameter let the worst tenth lose least.")
@click.option(
    "--energy-loss",
    type=float,
    callback=common.within(1e-9, 1),
    help="exact: the least CRB loss at this loss of energy, in training, whatever --crb-weight.",
)
@click.option("--atoms", default="grid", show_default=True, help="Atoms of the dictionary: grid, about N, or none.")
@click.option("--derivatives", is_flag=True, help="Keep derivatives in the dictionary, for fits with --refine.")
@click.option("--perk", is_flag=True, help="Train a kernel regression on the dictionary, for fits with --method perk.")
@click.option(
    "--max-energy-loss",
    type=float,
    callback=common.within(0, 1),
    default=0.05,
    show_default=True,
    help="Warn above this loss, unless --energy-loss asks for one.",
)
@common.training_options
@click.option("--dry-run", is_flag=True, help="Print memory and time, make nothing.")
@common.force
@common.verb
def command(
    *,
    spec: str,
    output: str,
    rank: int | None,
    crb_weight: float,
    method: Literal["svd", "exact"],
    worst_decile: bool,
    energy_loss: float | None,
    atoms: str,
    derivatives: bool,
    perk: bool,
    max_energy_loss: float,
    training: dict[str, Any],
    dry_run: bool,
    force: bool,
) -> None:
    """Make the CRB-SVD basis of SPEC, a built-in model or a TOML file.

    Models: mrf-fisp, qmt-hsfp, fse, mese, ir-flash, mgre, bssfp-mrf.

    Written for BART as NAME.cfl with dims 1 1 1 1 1 T K, with its provenance in NAME.json and
    the dictionary to match with in NAME.h5, and with --perk a trained regression in NAME.perk.h5.
    """
    from .. import bundle

    request = bundle.Request(
        spec=spec, rank=rank, crb_weight=crb_weight, method=method, worst_decile=worst_decile, energy_loss=energy_loss,
        atoms=atoms, derivatives=derivatives, perk=perk,
        max_energy_loss=max_energy_loss, **training,
    )  # fmt: skip
    plan = bundle.plan(request, output, force=force)
    if dry_run:
        click.echo(plan.estimate())
        return
    with common.stages() as report:
        basis = plan.make(report=report)
    click.echo(bundle.table(basis))
