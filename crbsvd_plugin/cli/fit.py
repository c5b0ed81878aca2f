"""Verb `fit`."""

from __future__ import annotations

from typing import Any

import click

from . import common


@click.command(short_help="Fit maps to coefficient images.")
@click.argument("coeff", callback=common.file_name)
@click.argument("name", callback=common.file_name)
@click.option("-o", "--output", required=True, callback=common.folder_name, help="Folder for the maps.")
@click.option("--like", callback=common.file_name, help="Raw data file that says where images without a sidecar lie.")
@common.fitting_options
@common.named_model
@common.spreading_options
@common.bids_options
@common.force
@common.verb
def command(
    *,
    coeff: str,
    name: str,
    output: str,
    like: str | None,
    fitting: dict[str, Any],
    cluster: dict[str, Any],
    tree: dict[str, Any],
    force: bool,
) -> None:
    """Fit maps to the coefficient images COEFF (ours, or of 'bart pics') with the dictionary of NAME.

    Voxels are what --workers and --scheduler spread: a single volume gains too.
    """
    from .. import bids, run

    whose = bids.entities(**tree)
    with common.stages() as report:
        written = run.fit(coeff, name, output, like=like, force=force, report=report, whose=whose, **fitting, **cluster)
    click.echo("\n".join(str(path) for path in written))
