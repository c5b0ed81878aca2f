"""Verb `stream`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from . import common, online


@click.command(short_help="Reconstruct a stream on standard input; the maps go to standard output.")
@click.argument("name", callback=common.file_name)
@common.fitting_options
@common.misfit(default=False)
@common.reading_options
@click.option(
    "--images",
    type=click.Choice(["float32", "uint16"]),
    default="float32",
    show_default=True,
    help="Pixels: SI units, or whole numbers with RescaleSlope.",
)
@click.option("--coefficients", is_flag=True, help="Also send the coefficient images.")
@click.option("--maps/--no-maps", default=True, show_default=True, help="Fit maps.")
@click.option("--mrd2", is_flag=True, help="Version 2 of MRD on both sides (needs mrd-python).")
@online.stream_options
@common.verb
def command(
    *, name: str, fitting: dict[str, Any], misfit: bool, settings: dict[str, Any], images: str, coefficients: bool,
    maps: bool, idle: float | None, max_message: int | None, mrd2: bool,
) -> int:  # fmt: skip
    """Reconstruct the ISMRMRD messages on standard input in the basis NAME, and write images to standard output.

    As `gadgetron --from_stream` does, for pipes and for Tyger: the header comes first, and a CLOSE last, if all went
    well. What is for people to read goes to standard error.
    """
    from .. import mrd2 as version2
    from ..errors import UserError
    from ..server import terminable
    from ..session import PIPE, Limits, Session
    from ..settings import Site
    from ..wire.channel import Channel, waiting

    given = {"basis": name, "misfit": misfit, "fit": maps, "images": images, "coefficients": coefficients}
    site = Site(settings={**given, **settings, **fitting, "std": maps and fitting["std"]})
    site.config()  # refuses what does not go together before anything is read
    if mrd2 and max_message is not None:
        raise UserError("--max-message bounds messages of version 1; leave it or --mrd2 out")
    limits = Limits() if max_message is None else Limits(max_message * 2**20)
    # what prints to standard output would be taken for messages: it goes to standard error from here on
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as output, terminable():
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        if mrd2:
            version2.run(waiting(sys.stdin.fileno(), idle or None), output, site.config())
            return 0
        channel = Channel(sys.stdin.fileno(), output, idle_s=idle or None)
        return Session(channel, PIPE, site.config, limits=limits).run()
