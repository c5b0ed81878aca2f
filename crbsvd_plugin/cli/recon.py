"""Verb `recon`."""

from __future__ import annotations

import click

from . import common


@click.command(short_help="Reconstruct coefficient images from raw data.")
@click.argument("raw")
@click.argument("name")
@click.option("-o", "--output", required=True, help="Coefficient images: COEFF.cfl, COEFF.hdr, COEFF.json.")
@common.reading_options
@common.force
@common.verb
def command(
    *,
    raw: str,
    name: str,
    output: str,
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
    """Reconstruct the coefficient images of the raw data RAW (ISMRMRD .h5) in the basis NAME."""
    from .. import run

    config = run.config(
        basis=name, rank=rank, frame=frame, shots=common.counters(shots), groups=common.counters(groups),
        traj_units=traj_units, backend=backend, lam=lam, iterations=iterations, fit=False,
    )  # fmt: skip
    with common.stages() as report:
        images = run.recon(raw, config, output, force=force, report=report)
    click.echo(f"{output}: {images.rank} coefficients, {' x '.join(map(str, images.geometry.shape))} voxels")
