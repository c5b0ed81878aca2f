"""Verb `maps`."""

from __future__ import annotations

import click

from . import common


@click.command(short_help="Reconstruct raw data and fit maps: the main job.")
@click.argument("raw")
@click.argument("name")
@click.option("-o", "--output", required=True, help="Folder for the maps.")
@common.mask_level
@common.reading_options
@common.force
@common.verb
def command(
    *,
    raw: str,
    name: str,
    output: str,
    mask_level: float,
    rank: int | None,
    frame: str,
    shots: str | None,
    groups: str | None,
    traj_units: str,
    backend: str,
    lam: float,
    iterations: int,
    force: bool,
) -> None:
    """Reconstruct the raw data RAW (ISMRMRD .h5) in the basis NAME, and fit maps with its dictionary."""
    from .. import run

    config = run.config(
        basis=name, rank=rank, frame=frame, shots=common.counters(shots), groups=common.counters(groups),
        traj_units=traj_units, backend=backend, lam=lam, iterations=iterations, mask_level=mask_level,
    )  # fmt: skip
    with common.stages() as report:
        written = run.maps(raw, config, output, force=force, report=report)
    click.echo("\n".join(str(path) for path in written))
