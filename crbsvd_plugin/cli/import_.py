"""Verb `import`."""

from __future__ import annotations

import click

from . import common
from .export import _TOOLS


@click.command(short_help="Take over a basis of another program.")
@click.argument("file")
@click.option("-o", "--output", required=True, callback=common.file_name, help="Name of the basis.")
@click.option(
    "--from", "tool", type=click.Choice(_TOOLS),
    help="The program that it was made for; else the longer axis is time, and nothing is conjugated.",
)  # fmt: skip
@click.option("--rank", type=int, help="Take the first K columns.")
@click.option("--orthonormalise", is_flag=True, help="Take an orthonormal basis of the same space.")
@click.option("--for", "spec", metavar="SPEC", help="The sequence: makes the dictionary to match with.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting of SPEC.")
@click.option("--atoms", default="grid", show_default=True, help="Atoms of the dictionary: grid, or about N.")
@common.force
@common.verb
def command(
    *,
    file: str,
    output: str,
    tool: str | None,
    rank: int | None,
    orthonormalise: bool,
    spec: str | None,
    settings: tuple[str, ...],
    atoms: str,
    force: bool,
) -> None:
    """Make the basis NAME of FILE: .mat (v5 or v7.3, the array U), .npy, .npz, .h5 or a .cfl of BART.

    FILE:NAME says which array, where several may be meant.
    """
    from .. import exchange

    basis = exchange.read(file, tool, rank=rank, orthonormalise=orthonormalise)
    with common.stages() as report:
        basis = exchange.bring(basis, output, spec=spec, settings=settings, atoms=atoms, force=force, report=report)
    click.echo(f"{output}: {basis.n_frames} frames, {basis.rank} coefficients")
