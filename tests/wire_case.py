"""Streams of the tiny scan of `cli_case`, and peers for what is tested: a client, and the core of Gadgetron."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ismrmrd
import numpy as np
from cli_case import COMMAND
from ismrmrd import ConfigText, ProtocolDeserializer, ProtocolSerializer

from crbsvd_plugin.mrd import open_raw

T = TypeVar("T")
CLOSE = struct.pack("<H", 4)
WAIT_S = 120


def header_of(raw: Path) -> Any:
    with open_raw(raw) as (header, _):
        return header


def readouts_of(raw: Path) -> list[Any]:
    with open_raw(raw) as (_, items):
        return list(items)


def packed(*items: Any, close: bool = True) -> bytes:
    """Return items as messages, by ismrmrd's own serialization."""
    stream = io.BytesIO()
    serializer = ProtocolSerializer(stream)
    for item in items:
        serializer.serialize(item)
    return stream.getvalue() + CLOSE * close


def unpacked(content: bytes) -> list[Any]:
    """Return the items of a stream that ends with a CLOSE and nothing after it."""
    stream = io.BytesIO(content)
    items = list(ProtocolDeserializer(stream).deserialize())
    assert not stream.read()
    return items


def images_in(items: list[Any]) -> dict[str, Any]:
    """Return images by the names of their series; coefficients as (K, Z, Y, X)."""
    images = [item for item in items if isinstance(item, ismrmrd.Image)]
    named = {image.meta["SeriesDescription"]: image.data for image in images if image.data.dtype != np.complex64}
    coefficients = [image.data[0] for image in images if image.data.dtype == np.complex64]
    return named | ({"coefficients": np.stack(coefficients)} if coefficients else {})


def texts_in(items: list[Any]) -> str:
    return "\n".join(item for item in items if isinstance(item, str))


def environment(**more: str) -> dict[str, str]:
    """Return this environment, with this path of modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **more}


@dataclass
class Process:
    """A process with its log in a file."""

    process: subprocess.Popen[bytes]
    log: Path
    address: tuple[str, int] = ("", 0)

    def ended(self, within_s: float = WAIT_S) -> int:
        return self.process.wait(within_s)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    @property
    def text(self) -> str:
        return self.log.read_text()


@contextmanager
def served(folder: Path, *arguments: str, command: list[str] | None = None, **variables: str) -> Iterator[Process]:
    """Run a server on a free port, of the bases in `folder`, and end it."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*(command or [*COMMAND, "serve"]), "--port", "0", "-v", *arguments],
            cwd=folder, env=environment(**variables), stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline().decode()
        assert line.startswith("listening on"), log.read_text()
        words = line.split()
        yield Process(process, log, (words[2], int(words[4])))
    finally:
        process.stdout.close()
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()  # nothing, where it has ended
            process.wait()


def wait_for(condition: Callable[[], T], server: Process, within_s: float = WAIT_S) -> T:
    """Return what a condition gives as soon as that is true."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < until, server.text
        time.sleep(0.02)
    return found


def talk(address: tuple[str, int], content: bytes, *, half_close: bool = False) -> list[Any]:
    """Send a stream as a client does, and return what comes back, up to the CLOSE."""
    with socket.create_connection(address, 10) as host, host.makefile("rwb") as stream:
        host.settimeout(WAIT_S)
        with suppress(ConnectionError):
            stream.write(content)
            stream.flush()
        if half_close:
            host.shutdown(socket.SHUT_WR)
        return list(ProtocolDeserializer(stream).deserialize())


@dataclass
class Answer:
    """What an external process sent to the core."""

    images: list[Any] = field(default_factory=list)
    arrays: list[bytes] = field(default_factory=list)
    error: str = ""
    closed: bool = False


class Core:
    """The core of Gadgetron as an external process sees it (GADGETS A1); messages that it refuses are refused."""

    def __init__(self, host: socket.socket, config: str, header: Any):
        host.settimeout(WAIT_S)
        self.host = host
        self.stream = host.makefile("rwb")
        # neither NULs nor an XML declaration; the header may be text that is no header
        text = header if isinstance(header, str) else header.toXML()
        for number, content in ((2, config.encode()), (3, text.encode())):
            self.stream.write(struct.pack("<HI", number, len(content)) + content)
        self.stream.flush()

    def send(self, content: bytes) -> None:
        self.stream.write(content)
        self.stream.flush()

    def answer(self) -> Answer:
        found = Answer()
        while number := self.stream.read(2):
            (kind,) = struct.unpack("<H", number)
            assert not found.closed, "something comes after the CLOSE"
            if kind == 4:
                found.closed = True
            elif kind == 8:
                (length,) = struct.unpack("<Q", self.stream.read(8))
                found.error = self.stream.read(length).decode()
            elif kind == 1022:
                image = ismrmrd.Image.deserialize_from(self.stream.read)
                assert image.getHead().data_type != 2, "the core reads no int16"
                found.images.append(image)
            elif kind == 1024:
                found.arrays.append(self._image_array())
            else:
                raise AssertionError(f"illegal message id {kind}")
        return found

    def _image_array(self) -> bytes:
        """Return a message 1024 as it came, by the layout of hoNDArray and the writers of the core."""
        taken = io.BytesIO()

        def take(n: int) -> bytes:
            content = self.stream.read(n)
            assert len(content) == n
            taken.write(content)
            return content

        def count() -> int:
            return struct.unpack("<Q", take(8))[0]

        shape = [count() for _ in range(count())]
        take(8 * int(np.prod(shape)))
        heads = [count() for _ in range(count())]
        assert heads == shape[4:]
        take(198 * int(np.prod(heads)))
        for _ in range(count()):
            take(count())
        assert take(2) == b"\0\0"
        return struct.pack("<H", 1024) + taken.getvalue()

    def close(self) -> None:
        self.stream.close()
        self.host.close()


@contextmanager
def started(folder: Path, target: str, config: str, header: Any, **variables: str) -> Iterator[tuple[Core, Process]]:
    """Start an external process as the core does: listen on a port, run python -m gadgetron PORT MODULE TARGET."""
    log = folder / f"external-{time.monotonic_ns()}.log"
    with socket.create_server(("localhost", 0)) as listener, log.open("wb") as errors:
        listener.settimeout(WAIT_S)
        arguments = [str(listener.getsockname()[1]), "crbsvd_gadgets.gadgetron_external", target]
        process = subprocess.Popen(
            [sys.executable, "-m", "gadgetron", *arguments],
            cwd=folder, env=environment(CRBSVD_BASES=str(folder), **variables), stdout=errors, stderr=errors,
            # one thread, as where the results are compared: of a process of its own it is the number of its cores
            preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        )  # fmt: skip
        host, _ = listener.accept()
    core = Core(host, config, header)
    try:
        yield core, Process(process, log)
    finally:
        core.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def properties(**settings: Any) -> str:
    """Return the element that the core copies from a chain."""
    lines = "".join(f'<property name="{name}" value="{value}"/>' for name, value in settings.items())
    return f"<configuration>{lines}</configuration>"


def scan(folder: Path, *, config: str = "", close: bool = True, change: Callable[[list[Any]], Any] = list) -> bytes:
    """Return the scan of a folder as a client sends it."""
    raw = folder / "raw.h5"
    opening = [ConfigText(config)] if config else []
    return packed(*opening, header_of(raw), *change(readouts_of(raw)), close=close)
