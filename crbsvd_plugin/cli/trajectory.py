"""Verb `trajectory`."""

from __future__ import annotations

from pathlib import Path

import click

from . import common


@click.command(short_help="Write the trajectory of a Pulseq file.")
@click.argument("file")
@click.option("-o", "--output", required=True, callback=common.file_name, help="Name of the BART file.")
@click.option(
    "--frame", default="adc", show_default=True, metavar="LABEL",
    help="What tells the frame of a readout: adc, each is one of its own, or a label such as ECO.",
)  # fmt: skip
@common.force
@common.verb
def command(*, file: str, output: str, frame: str, force: bool) -> None:
    """Write where FILE.seq samples k-space, in cycles per field of view: the --traj-file of recon and maps.

    Dimensions 3 samples readouts 1 1 frames; the readouts of a frame are in the order of acquisition.
    """
    from ..pulseq import kspace

    dims = kspace.write(Path(file), output, frame, force=force)
    click.echo(f"{output}: {dims[1]} samples, {dims[2]} readouts in each of {dims[5]} frames")
