"""Verb `check-model`."""

from __future__ import annotations

import click

from . import common


@click.command(short_help="Is a model right? Shapes, derivatives, determinism, units.")
@click.argument("spec")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting of SPEC.")
@click.option(
    "--points", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Fingerprints that are looked at."
)
@common.verb
def command(*, spec: str, settings: tuple[str, ...], points: int) -> None:
    """Check the model SPEC: shapes, finite numbers, determinism, units, and its derivatives against differences.

    The fingerprints are drawn from the prior of its basis, at full accuracy of the model.
    """
    from .. import checkup, models
    from ..errors import UserError
    from ..spec import resolve
    from ..table import Table

    found = resolve(spec, settings)
    if isinstance(found.model, Table):
        raise UserError(
            f"{spec} is a table of fingerprints, whose shapes fit; there are no signals between them to compare its "
            "derivatives with: check the model that made it"
        )
    model = models.smooth(found.model.spec)
    findings = checkup.examine(model, checkup.inside(found.prior, model.parameters, points))
    click.echo(
        f"{model.spec['name']}: {model.n_frames} frames, derivatives: {getattr(model, 'derivatives', 'its own')}"
    )
    for parameter in model.parameters:
        error = findings.errors.get(parameter.name)
        text = "" if error is None else f"  derivative within {error:.1e} of differences"
        click.echo(f"  {parameter.name} [{parameter.unit or '1'}] {parameter.low:g} to {parameter.high:g}{text}")
    if findings.problems:
        raise UserError(f"{model.spec['name']}: {'; and '.join(findings.problems)}")
    click.echo("nothing wrong was found")
