"""Options that the verbs for online work share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from . import common
from .common import F


def service(function: F) -> Callable[..., Any]:
    """Give a verb whose work is done by other processes the options that all have; it hands --threads on."""

    @common.THREADS
    @common.VERBOSE
    @functools.wraps(function)
    def wrapped(*, verbose: bool, **options: Any) -> Any:
        with common.log_to_stderr(verbose):
            return function(**options)

    return wrapped


def stream_options(function: F) -> F:
    """Give a verb that reads messages the options that bound them."""
    for option in (
        click.option(
            "--max-message", type=click.IntRange(1, 2**20), metavar="MIB",
            help="Largest message [MiB]; 1024 if not given.",
        ),
        click.option(
            "--idle", type=float, callback=common.within(0, 1e6), metavar="SECONDS",
            help="Give up after so long without a byte; 0: never.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function
