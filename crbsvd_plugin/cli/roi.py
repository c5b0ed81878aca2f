"""Verb `roi`."""

from __future__ import annotations

import click

from . import common


@click.command(short_help="Statistics of maps in the regions of a mask.")
@click.argument("maps", nargs=-1, required=True, metavar="MAP...")
@click.argument("mask")
@click.option("-o", "--output", callback=common.file_name, help="CSV file; standard output if not given.")
@common.force
@common.verb
def command(*, maps: tuple[str, ...], mask: str, output: str | None, force: bool) -> None:
    """Print median, quartiles and more of every MAP in every region of the label mask MASK, as CSV.

    Maps and mask are NIfTI files with the same voxels. Voxels where nothing was fitted (0) do not count. Where
    T1std.nii.gz lies beside T1map.nii.gz, its mean is the predicted standard deviation.
    """
    from .. import roi

    text = roi.table(roi.regions(maps, mask))
    if output is None:
        click.echo(text, nl=False)
        return
    roi.save(text, output, force=force)
    click.echo(output)
