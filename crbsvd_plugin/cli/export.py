"""Verb `export`."""

from __future__ import annotations

import click

from . import common

_TOOLS = ("bart", "mat", "mri-nufft", "numpy", "sigpy", "torch")


@click.command(short_help="Write a basis for another program.")
@click.argument("name", callback=common.file_name)
@click.option("--to", "tool", type=click.Choice(_TOOLS), required=True, help="The program.")
@click.option("-o", "--output", required=True, callback=common.file_name, help="The file; its suffix may be left out.")
@common.force
@common.verb
def command(*, name: str, tool: str, output: str, force: bool) -> None:
    """Write the basis NAME as TOOL takes it, transposed and conjugated where it must be; print how it is used there.

    Arrays (K, T) for sigpy, numpy and torch; conjugated too for mri-nufft; U (T, K) and S for mat; for bart a copy.
    """
    from .. import exchange
    from ..basis import Basis

    click.echo(exchange.export(Basis.load(name), tool, output, force=force))
