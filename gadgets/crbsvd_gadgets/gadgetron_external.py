"""Gadgets of Gadgetron's external language interface.

``python -m gadgetron PORT crbsvd_gadgets.gadgetron_external recon`` is how the core starts one that stands as
``execute`` in a chain; `recon` makes maps of readouts, `coefficients` and `maps` are its two halves. For ``connect`` it
must listen: ``python -m crbsvd_gadgets.gadgetron_external --port 18000 --bases DIR``.

The package gadgetron says hello to the core; then our own reader takes over, because theirs does not notice that the
core has gone.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crbsvd_plugin.settings import Online


def recon(connection: Any) -> None:
    """Reconstruct readouts (acquisitions or ReconData); send maps as images."""
    _run(connection, "recon")


def coefficients(connection: Any) -> None:
    """Reconstruct readouts; send coefficient images as ImageArray."""
    _run(connection, "coefficients")


def maps(connection: Any) -> None:
    """Fit coefficient images (ImageArray); send maps as images."""
    _run(connection, "maps")


class _Closed:
    """What gadgetron closes at the end, where we have done so already."""

    def close(self) -> None:
        """Do nothing."""


def _run(connection: Any, task: str) -> None:
    """Serve the core that a `gadgetron.external.connection.Connection` has said hello to; exit with the status."""
    from crbsvd_plugin.server import terminable
    from crbsvd_plugin.session import GADGETRON, Session
    from crbsvd_plugin.wire.channel import Channel
    from crbsvd_plugin.work import TASKS

    from . import site_of_environment

    for noisy in ("numba", "matplotlib", "h5py"):  # gadgetron logs everything of everybody
        logging.getLogger(noisy).setLevel(logging.WARNING)
    channel, connection.socket = Channel.of_socket(connection.socket.socket), _Closed()
    opening = connection.raw_bytes.config, connection.raw_bytes.header

    def configure(*texts: str) -> Online:
        return site_of_environment().config(*texts)

    with terminable():
        session = Session(channel, GADGETRON, configure, task=TASKS[task], opening=opening)
        if status := session.run():
            raise SystemExit(status)


if __name__ == "__main__":
    from crbsvd_plugin.cli import main

    sys.exit(main(["serve", "--dialect", "gadgetron", *sys.argv[1:]]))
