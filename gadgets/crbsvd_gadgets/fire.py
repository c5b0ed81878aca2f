"""A module for python-ismrmrd-server (FIRE, OpenRecon), which calls `process` for a config of this module's name.

It uses that server's connection as it is. ``crbsvd serve`` is a server of its own, with bounds and time-outs; this is
for containers that have the other one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ismrmrd import Acquisition

logger = logging.getLogger(__name__)

_ERROR = "ERROR  "  # how the server writes the level


def process(connection: Any, config: Any, metadata: Any) -> None:
    """Reconstruct the readouts of a connection and send the maps; an error is sent as a line of the log.

    Parameters
    ----------
    connection : Connection
        Iterated up to None; has `send_image`, `send_logging` and `send_close`.
    config : dict or str
        JSON with ``parameters``, or any text that `settings.Site.config` understands.
    metadata : ismrmrd.xsd.ismrmrdHeader or str
        The header, or its text where the server could not read it.
    """
    from crbsvd_plugin import threads
    from crbsvd_plugin.errors import UserError
    from crbsvd_plugin.mrd_header import parse_header
    from crbsvd_plugin.progress import silent
    from crbsvd_plugin.work import recon

    from . import site_of_environment

    try:
        with threads.alone():
            settings = site_of_environment(__name__).config(config if isinstance(config, str) else json.dumps(config))
            header = parse_header(metadata) if isinstance(metadata, str | bytes) else metadata
            for images in recon(header, _readouts(connection), settings, silent):
                connection.send_image(images)
    except UserError as error:
        logger.error("%s", error)
        connection.send_logging(_ERROR, f"crbsvd: {error}")
    except Exception as error:
        connection.send_logging(_ERROR, f"crbsvd: internal error ({type(error).__name__}: {error})")
        raise
    finally:
        connection.send_close()


def _readouts(connection: Any) -> Iterator[Acquisition]:
    """Yield the readouts; what else comes is left out."""
    from ismrmrd import Acquisition

    for item in connection:
        if item is None:  # the CLOSE
            return
        if isinstance(item, Acquisition):
            yield item
