"""Verb `report`."""

from __future__ import annotations

import click

from . import common


@click.command(short_help="Write one page about a basis: curves to hover, what to take, lines to paste.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-o", "--output", required=True, callback=common.file_name, help="The page, FILE.html.")
@common.force
@common.verb
def command(*, paths: tuple[str, ...], output: str, force: bool) -> None:
    """Write one HTML page that needs no network, from the basis NAME and the folders of sweep, study and rank.

    Each PATH is one of them, in any order, and what is not there is left out. Needs the package plotly: pip install
    'crbsvd-plugin[report]'.
    """
    from .. import report

    report.write(paths, output, force=force)
