"""Verb `simulate`."""

from __future__ import annotations

import click

from . import common


def _delays(_context: click.Context, parameter: click.Parameter, text: str) -> tuple[float, float, float]:
    """Read three numbers that are joined by commas."""
    try:
        x, y, xy = map(float, text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}, expected {parameter.metavar}: three numbers", param=parameter) from None
    return x, y, xy


@click.command(short_help="Write raw data of a digital phantom, and its true maps.")
@click.argument("spec")
@click.option(
    "-o",
    "--output",
    required=True,
    callback=common.file_name,
    help="Raw data file, ending in .h5; the true maps go beside it.",
)
@click.option(
    "--phantom",
    "scanned",
    default="brain",
    show_default=True,
    help="Of qmt-hsfp a volume; or vials of the NIST phantom: nist-t1, nist-t2.",
)
@click.option("--matrix", type=int, default=192, show_default=True, help="Voxels along every side.")
@click.option(
    "--fov", type=float, callback=common.within(10, 1000), default=240.0, show_default=True, help="Field of view [mm]."
)
@click.option("--coils", "n_coils", type=int, default=8, show_default=True, help="Receive coils.")
@click.option("--shots", "n_shots", type=int, show_default="3", help="Repetitions of the train.")
@click.option("--mask", help="Cartesian lines instead of spokes: a BART file, 1 x lines x 1 x 1 x 1 x frames.")
@click.option(
    "--gradient-delay", metavar="SX,SY,SXY", default="0,0,0", callback=_delays,
    help="Move the data that far off the trajectory that is written [samples].",
)  # fmt: skip
@click.option(
    "--phase-drift", metavar="ANGLE", default="0 deg", show_default=True,
    help='Turn the phase of the readouts that far by the end of the scan, as "30 deg".',
)  # fmt: skip
@click.option("--snr", default="50", show_default=True, help="M0 / noise of a coefficient, or none.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting of SPEC.")
@common.force
@common.verb
def command(
    *,
    spec: str,
    output: str,
    scanned: str,
    matrix: int,
    fov: float,
    n_coils: int,
    n_shots: int | None,
    mask: str | None,
    gradient_delay: tuple[float, float, float],
    phase_drift: str,
    snr: str,
    seed: int,
    settings: tuple[str, ...],
    force: bool,
) -> None:
    """Scan a digital phantom with the sequence SPEC: golden-angle radial readouts as MRD raw data.

    With --mask Cartesian lines, as for T2 shuffling.

    A slice with T1 and T2 (so not for mgre); for qmt-hsfp a volume with two pools, in a koosh ball.
    """
    from .. import simulate
    from ..quantity import quantity
    from ..spec import resolve

    model = resolve(spec, settings).model
    with common.stages() as report:
        written = simulate.simulate(
            model, output, scanned=scanned, matrix=matrix, fov=fov, n_coils=n_coils, n_shots=n_shots,
            mask=None if mask is None else simulate.read_mask(mask), gradient_delay=gradient_delay,
            phase_drift=quantity(phase_drift, si="rad"),
            snr=common.number_or_none(snr, "--snr"), seed=seed, force=force,
            progress=lambda done, total: report("k-space", done, total),
        )  # fmt: skip
    click.echo("\n".join(str(path) for path in written.values()))
