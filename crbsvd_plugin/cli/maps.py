"""Verb `maps`."""

from __future__ import annotations

from typing import Any

import click

from . import common


@click.command(short_help="Reconstruct raw data and fit maps: the main job.")
@click.argument("raw", callback=common.file_name)
@click.argument("name", callback=common.file_name)
@click.option("-o", "--output", required=True, callback=common.folder_name, help="Folder for the maps.")
@common.fitting_options
@common.named_model
@click.option(
    "--replicas",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Measure the noise of the images for --std: reconstruct N times more, with noise added.",
)
@common.misfit(default=True)
@common.reading_options
@common.spreading_options
@common.bids_options
@common.force
@common.verb
def command(
    *,
    raw: str,
    name: str,
    output: str,
    fitting: dict[str, Any],
    replicas: int,
    misfit: bool,
    settings: dict[str, Any],
    cluster: dict[str, Any],
    tree: dict[str, Any],
    force: bool,
) -> None:
    """Reconstruct the raw data RAW (ISMRMRD .h5) in the basis NAME, and fit maps with its dictionary.

    Slices and other separate images are what --workers and --scheduler spread, one thread each: a single image gains
    nothing.
    """
    from .. import bids, run

    whose = bids.entities(**tree)
    config = run.config(basis=name, replicas=replicas, misfit=misfit, **fitting, **settings)
    with common.stages() as report:
        written = run.maps(raw, config, output, force=force, report=report, whose=whose, **cluster)
    click.echo("\n".join(str(path) for path in written))
