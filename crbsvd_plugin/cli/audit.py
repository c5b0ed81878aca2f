"""Verb `audit`."""

from __future__ import annotations

from typing import Any

import click

from . import common


@click.command(short_help="What another sequence or other tissues lose in a basis.")
@click.argument("name", callback=common.file_name)
@click.argument("spec")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting of SPEC.")
@click.option("--rank", type=int, help="Use only the first columns of the basis.")
@click.option(
    "--fingerprints", default="3000", show_default=True, metavar="N", help="About N of the prior of SPEC, or grid: all."
)
@click.option(
    "--crb-weight", type=float, callback=common.within(0, 1),
    help="Of the basis that it is compared with; else that of NAME.",
)  # fmt: skip
@click.option("--fisher", type=click.Choice(["real", "complex"]), help="Else that of NAME.")
@click.option(
    "--sd-limit", type=float, callback=common.within(0, 1e6), default=0.05, show_default=True,
    help="How much larger than with a new basis a standard deviation may be.",
)  # fmt: skip
@click.option(
    "--energy-limit", type=float, callback=common.within(0, 1), default=0.05, show_default=True,
    help="Share of the energy that may be lost.",
)  # fmt: skip
@click.option("-o", "--output", callback=common.file_name, help="Write the table as this CSV file, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.force
@common.verb
def command(
    *, name: str, spec: str, rank: int | None, output: str | None, as_json: bool, force: bool, **options: Any
) -> None:
    """Say what SPEC, another sequence or other tissues, loses in the basis NAME, and whether that is much.

    Energy and exact Cramer-Rao bounds by tissue and parameter, on fingerprints of the prior of SPEC, beside what a
    basis of the same rank loses that is made for SPEC.
    """
    from .. import audit
    from ..basis import Basis

    basis = Basis.load(name)
    basis = basis if rank is None else basis.truncate(rank)
    with common.stages() as report:
        found = audit.audit(basis, spec, report=report, **options)
    if output is not None:
        found.save(output, force=force)
    click.echo(found.json() if as_json else found.text)
