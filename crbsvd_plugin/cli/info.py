"""Verb `info`."""

from __future__ import annotations

import click

from . import common


@click.command(short_help="Say what a basis is.")
@click.argument("name", callback=common.file_name)
@common.verb
def command(*, name: str) -> None:
    """Print what the basis NAME is, what it was made from and what it loses."""
    from .. import bundle
    from ..basis import Basis

    basis = Basis.load(name)
    info = basis.info
    kind = "complex" if basis.phi.dtype.kind == "c" else "real"
    click.echo(f"{name}: {kind} basis, {basis.n_frames} frames, {basis.rank} coefficients")
    click.echo(f"digest     {basis.digest}")
    if not {"model", "prior", "n_atoms", "crb_weight", "weighting", "fisher"} <= info.keys():
        # a bare BART file, or one that was made from Python
        click.echo("where it comes from is not known: no sidecar tells it")
        return
    click.echo(f"sequence   {info['model']['name']}")
    click.echo(f"prior      {info['prior']['name']}, fingerprints per class: {info['n_atoms']}")
    click.echo(f"crb weight {info['crb_weight']} (weighting {info['weighting']}, {info['fisher']} Fisher matrix)")
    click.echo("singular values " + " ".join(f"{value:.4g}" for value in basis.singular_values[: basis.rank + 1]))
    click.echo(bundle.table(basis))
