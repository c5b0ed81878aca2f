"""Send a raw data file as a scanner would, and list the images that come back.

With HOST:PORT to a server (crbsvd serve); without, the messages go to standard output, for a pipe (crbsvd stream).
"""

from __future__ import annotations

import argparse
import socket
import sys
from typing import BinaryIO

from ismrmrd import ConfigText, Image, ProtocolDeserializer, ProtocolSerializer

from crbsvd_plugin.mrd import open_raw


def send(raw: str, config: str, stream: BinaryIO) -> None:
    """Write config, header and readouts, and a CLOSE."""
    with open_raw(raw) as (header, readouts), ProtocolSerializer(stream) as messages:
        if config:
            messages.serialize(ConfigText(config))
        messages.serialize(header)
        for readout in readouts:
            messages.serialize(readout)


def main() -> None:
    """Send the file, to a server or to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", help="ISMRMRD file")
    parser.add_argument("server", nargs="?", help="HOST:PORT")
    parser.add_argument("--config", default="", help='such as {"parameters": {"basis": "fisp"}}')
    given = parser.parse_args()
    if given.server is None:
        send(given.raw, given.config, sys.stdout.buffer)
        return
    host, _, port = given.server.rpartition(":")
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rwb") as stream:
        send(given.raw, given.config, stream)
        for item in ProtocolDeserializer(stream).deserialize():
            if isinstance(item, Image):
                print(item.image_series_index, item.meta["SeriesDescription"], item.matrix_size, item.meta["Units"])
            else:
                print(item)


if __name__ == "__main__":
    main()
