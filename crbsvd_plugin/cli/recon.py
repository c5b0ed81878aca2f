"""Verb `recon`."""

from __future__ import annotations

from typing import Any

import click

from . import common


@click.command(short_help="Reconstruct coefficient images from raw data.")
@click.argument("raw", callback=common.file_name)
@click.argument("name", callback=common.file_name)
@click.option(
    "-o",
    "--output",
    required=True,
    callback=common.file_name,
    help="Coefficient images: COEFF.cfl, COEFF.hdr, COEFF.json.",
)
@common.misfit(default=False)
@common.reading_options
@common.spreading_options
@click.option("--dry-run", is_flag=True, help="Print shapes, memory and the same in BART; make nothing.")
@common.force
@common.verb
def command(
    *,
    raw: str,
    name: str,
    output: str,
    misfit: bool,
    settings: dict[str, Any],
    dry_run: bool,
    cluster: dict[str, Any],
    force: bool,
) -> None:
    """Reconstruct the coefficient images of the raw data RAW (ISMRMRD .h5) in the basis NAME.

    Slices and other separate images are what --workers and --scheduler spread, one thread each: a single image gains
    nothing.
    """
    from .. import run
    from ..recon.misfit import told

    config = run.config(basis=name, fit=False, misfit=misfit, **settings)
    if dry_run:
        from ..forecast import forecast

        click.echo(forecast(raw, config).text())
        return
    with common.stages() as report:
        images = run.recon(raw, config, output, force=force, report=report, **cluster)
    click.echo(f"{output}: {images.rank} coefficients, {' x '.join(map(str, images.geometry.shape))} voxels")
    for figures in images.info["misfit"]:
        click.echo(told(figures))
