"""Verb `serve`."""

from __future__ import annotations

import socket

import click

from . import common, online


@click.command(short_help="Reconstruct what scanners send, as they scan (FIRE, Gadgetron).")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: everybody may come."
)
@click.option("--port", type=click.IntRange(0, 65535), default=9002, show_default=True, help="0: any that is free.")
@click.option("--bases", metavar="DIR", callback=common.folder_name, help="Folder of the bases to choose from.")
@click.option("--config", metavar="FILE", callback=common.file_name, help="Settings of all scans, and presets (TOML).")
@click.option(
    "--dialect",
    type=click.Choice(["client", "gadgetron"]),
    default="client",
    show_default=True,
    help="Who connects: a scanner or client, or the core of Gadgetron (<connect port=.../>).",
)
@click.option(
    "--task",
    type=click.Choice(["recon", "coefficients", "maps"]),
    default="recon",
    show_default=True,
    help="Readouts to maps; to arrays of coefficient images; or these to maps.",
)
@click.option(
    "--sessions",
    "n_sessions",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    metavar="N",
    help="Hosts that are served at once.",
)
@online.stream_options
@online.service
def command(
    *, host: str, port: int, bases: str | None, config: str | None, dialect: str, task: str, n_sessions: int,
    idle: float | None, max_message: int | None, n_threads: int | None,
) -> None:  # fmt: skip
    """Listen for hosts that send ISMRMRD messages, reconstruct every scan, and send the maps back.

    A host chooses a basis of DIR by its name, and changes settings, by the name of a preset, XML properties or JSON
    parameters. Threads are shared among the sessions.
    """
    from .. import server, threads
    from ..session import DIALECTS, Limits, Session
    from ..settings import Site
    from ..wire.channel import Channel
    from ..work import TASKS

    site = Site.load(config, bases)
    share = n_threads or max(threads.available() // n_sessions, 1)
    limits = Limits() if max_message is None else Limits(max_message * 2**20)
    idle = 300.0 if idle is None else idle or None

    def session(connection: socket.socket) -> int:
        with threads.limit(share):
            channel = Channel.of_socket(connection, idle_s=idle)
            return Session(channel, DIALECTS[dialect], site.config, task=TASKS[task], limits=limits).run()

    listener = server.listen(host, port)
    server.load()
    name, number, *_ = listener.getsockname()
    click.echo(f"listening on {name} port {number}")
    server.serve(listener, session, n_sessions=n_sessions)
