"""Verb `demo`."""

from __future__ import annotations

import click

from . import common


@click.command(short_help="Go the whole way on a phantom, with the errors against the truth.")
@click.argument("folder", callback=common.folder_name, default="crbsvd-demo")
@click.option(
    "--matrix", type=click.IntRange(8, 32767), default=192, show_default=True, help="Voxels along either side."
)
@click.option(
    "--snr",
    type=float,
    callback=common.within(1e-3, 1e9),
    default=50.0,
    show_default=True,
    help="M0 / noise of a coefficient.",
)
@common.force
@common.verb
def command(*, folder: str, matrix: int, snr: float, force: bool) -> None:
    """Make bases, scan a brain phantom, reconstruct it and fit maps into FOLDER; print the errors."""
    from .. import demo

    with common.stages() as report:
        text = demo.run(folder, matrix=matrix, snr=snr, force=force, report=report, say=click.echo)
    click.echo(text)
