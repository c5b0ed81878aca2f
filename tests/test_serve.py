"""Sessions that go wrong, with real processes: who notices, how soon, and what the host gets to know."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from cli_case import COMMAND
from ismrmrd import ConfigFile, ConfigText
from wire_case import (
    CLOSE,
    WAIT_S,
    Process,
    environment,
    header_of,
    images_in,
    packed,
    properties,
    readouts_of,
    scan,
    served,
    talk,
    texts_in,
    wait_for,
)

BASIS = properties(basis="b", iterations=1)
SOON_S = 20.0  # it is 2 s where nothing else runs; without being noticed it would be --idle


def half(items: list[Any]) -> list[Any]:
    """Return the first half of a scan: its image does not end, so no map goes out."""
    return items[: len(items) // 2]


@pytest.fixture(scope="module")
def running(made: Path) -> Iterator[Process]:
    """A server that the faulty sessions share: each must leave it able to serve the next."""
    with served(made, "--bases", ".", "--threads", "1", "--sessions", "2") as process:
        yield process
        good = talk(process.address, scan(made, config=BASIS))
        assert set(images_in(good)) >= {"T1map", "T2map"}


@pytest.fixture
def server(running: Process) -> Process:
    """Return that server, with no session of another test left."""
    wait_for(lambda: not children_of(running), running)
    return running


def sessions_of(server: Process) -> int:
    """Return how many sessions have begun."""
    return len(re.findall(r"session \d+: ", server.text))


def next_end(server: Process, before: int, within_s: float = WAIT_S) -> str:
    """Return how the session ended that began after `before` others."""
    ended = re.compile(rf"session {before + 1} ended with status (\S+)")
    return wait_for(lambda: ended.search(server.text), server, within_s)[1]


def refused(server: Process, content: bytes, **options: Any) -> str:
    """Send what must be refused, and return the text that comes before the CLOSE; nothing else may come."""
    before = sessions_of(server)
    (text,) = talk(server.address, content, **options)
    assert isinstance(text, str)
    assert text.startswith("ERROR crbsvd: ")
    assert next_end(server, before) == "2"
    return text


def test_a_host_that_vanishes(made: Path, server: Process) -> None:
    """Mid-scan, without a CLOSE: its session ends soon, and burns no processor meanwhile."""
    before = sessions_of(server)
    with socket.create_connection(server.address) as host:
        host.sendall(scan(made, config=BASIS, close=False, change=half))
        at_rest(server, before)
    assert next_end(server, before, SOON_S) == "2"
    assert "without a CLOSE" in server.text


def test_a_host_that_is_reset(made: Path, server: Process) -> None:
    before = sessions_of(server)
    with socket.create_connection(server.address) as host:
        host.sendall(scan(made, config=BASIS, close=False))
        at_rest(server, before)
        host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a close is a reset
    assert next_end(server, before, SOON_S) == "2"


def at_rest(server: Process, before: int) -> int:
    """Return the process of the session after `before` others, the only one, as soon as it waits for its host.

    It has rehearsed, which may take a compiler a minute, and then its main thread sleeps for half a second, of which
    the process takes a tenth at most: one that is runnable and gets no processor does not wait.
    """
    wait_for(lambda: "crbsvd: readouts" in server.text.partition(f"session {before + 1}: ")[2], server)
    (child,) = children_of(server)

    def rests() -> bool:
        spent = processor_s(child)
        for _ in range(10):
            time.sleep(0.05)
            if stat_of(child)[0] == "R":
                return False
        return processor_s(child) - spent < 0.05

    wait_for(rests, server)
    return child


def children_of(server: Process) -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    ]


def processor_s(pid: int) -> float:
    fields = stat_of(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stat_of(pid: int) -> list[str]:
    """Return what the system says of a process after its name: first the state, R of one that runs or could."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_a_truncated_message(made: Path, server: Process) -> None:
    text = refused(server, scan(made, config=BASIS, close=False)[:-7], half_close=True)
    assert "in the middle of a message" in text


def test_an_unknown_message(made: Path, server: Process) -> None:
    content = scan(made, config=BASIS, close=False) + struct.pack("<H", 1234)
    assert "message 1234 is unknown" in refused(server, content + bytes(100))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ConfigText(properties(basis="b", lamm=1)), "nothing is called 'lamm' (did you mean 'lam'?)"),
        (ConfigText(properties(basis="b", lam="much")), "Expected `float`, got `str` - at `$.lam`"),
        (ConfigText('{"parameters": {"basis": "x"}}'), "there is no basis 'x', expected one of: b"),
        (ConfigText('{"parameters": '), "no valid JSON"),
        (ConfigText("<configuration><property>"), "no valid XML"),
        (ConfigText("<gadgetronStreamConfiguration/>"), "expected 'configuration'"),
        (ConfigText('<!DOCTYPE a [<!ENTITY b "c">]><configuration/>'), "a document type 'a' is declared"),
        (ConfigFile("os.system"), "no preset is called 'os.system', expected one of: crbsvd"),
        (ConfigFile("crbsvd"), "no basis is named"),
        (ConfigText(properties(basis="../made0/b")), "no name of a basis"),
        (ConfigText(properties(basis="/etc/passwd")), "no name of a basis"),
        (ConfigText(properties(basis="b", kernel_cache="/tmp")), "kernel_cache is for whoever starts"),
    ],
)  # fmt: skip
def test_a_wrong_config(made: Path, server: Process, config: Any, said: str) -> None:
    raw = made / "raw.h5"
    assert said in refused(server, packed(config, header_of(raw), *readouts_of(raw)))


def test_a_stream_without_header(made: Path, server: Process) -> None:
    assert "expected the header first" in refused(server, packed(*readouts_of(made / "raw.h5")))
    assert "has no header" in refused(server, CLOSE)


def headed(header: bytes, *items: Any) -> bytes:
    config = packed(ConfigText(BASIS), close=False)
    return config + struct.pack("<HI", 3, len(header)) + header + packed(*items)


def test_a_header_with_nothing_optional(made: Path, server: Process) -> None:
    """Matrix and field of view must be there; and one element that nobody knows is."""
    size = "<matrixSize><x>32</x><y>32</y><z>1</z></matrixSize>"
    fov = "<fieldOfView_mm><x>220</x><y>220</y><z>5</z></fieldOfView_mm>"
    encoding = f"<encoding><reconSpace>{size}{fov}</reconSpace><news>1</news></encoding>"
    header = f"<ismrmrdHeader>{encoding}</ismrmrdHeader>\0".encode()
    found = talk(server.address, headed(header, *readouts_of(made / "raw.h5")))
    assert "T1map" in images_in(found)


def test_a_header_that_is_none(made: Path, server: Process) -> None:
    assert "no valid XML" in refused(server, headed(b"<ismrmrdHeader>"))
    bomb = b'<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><ismrmrdHeader>&d;</ismrmrdHeader>'
    assert "document type" in refused(server, headed(bomb))
    assert "expected 'ismrmrdHeader'" in refused(server, headed(b"<html/>"))
    deep = b"<a>" * 100_000
    assert "64 levels" in refused(server, headed(deep))
    assert "neither matrixSize" in refused(server, headed(b"<ismrmrdHeader><encoding/></ismrmrdHeader>", *some(made)))


def some(made: Path) -> list[Any]:
    return readouts_of(made / "raw.h5")


def test_a_header_that_is_too_long(server: Process) -> None:
    content = packed(ConfigText(BASIS), close=False) + struct.pack("<HI", 3, 2**24 + 1) + bytes(1000)
    assert "expected at most 16777216" in refused(server, content)


def test_an_acquisition_that_is_too_large(made: Path, server: Process) -> None:
    head = ismrmrd.AcquisitionHeader(number_of_samples=65535, active_channels=65535)
    content = packed(ConfigText(BASIS), header_of(made / "raw.h5"), close=False) + struct.pack("<H", 1008) + bytes(head)
    assert "the header says 4" in refused(server, content)


def test_text_in_the_dialect_of_the_host(made: Path, server: Process) -> None:
    """A peer that ends its texts with NULs gets such texts; text that is for people changes nothing."""
    xml = header_of(made / "raw.h5").toXML().encode() + b"\0"
    config = b"{}\0"
    content = struct.pack("<HI", 2, len(config)) + config + struct.pack("<HI", 3, len(xml)) + xml + CLOSE
    assert refused(server, content).endswith("\0")
    raw = made / "raw.h5"
    good = packed(
        ConfigText(BASIS),
        header_of(raw),
        "the patient\x1b[31m sneezed",
        *readouts_of(raw)[:-1],
        "bless you",
        *some(made)[-1:],
    )
    assert "T1map" in images_in(talk(server.address, good))
    assert "the host says: the patient?[31m sneezed\n" in server.text  # a terminal shall show it, not obey


def test_two_sessions_at_once(made: Path, server: Process) -> None:
    """The second is served while the first is in the middle of its scan; and a third waits for its turn."""
    content, before = scan(made, config=BASIS), sessions_of(server)
    connect = partial(socket.create_connection, server.address)
    with connect() as slow, connect() as waits, connect() as third:
        slow.sendall(content[:5000])
        third.sendall(content)
        wait_for(lambda: len(children_of(server)) == 2, server)  # both are served, the second has said nothing
        time.sleep(0.5)
        assert len(children_of(server)) == 2
        assert sessions_of(server) == before + 2
        waits.close()
        with third.makefile("rb") as stream:
            assert "T1map" in images_in(list(ismrmrd.ProtocolDeserializer(stream).deserialize()))
        slow.sendall(content[5000:])
        with slow.makefile("rb") as stream:
            assert "T1map" in images_in(list(ismrmrd.ProtocolDeserializer(stream).deserialize()))


def test_the_example_of_a_client(made: Path, server: Process) -> None:
    """To a server, whose images it lists; and without one the bytes that a pipe wants."""
    script = [sys.executable, str(Path(__file__).parent.parent / "examples" / "online_client.py"), "raw.h5"]
    options: dict[str, Any] = {"cwd": made, "env": environment(), "capture_output": True, "check": True}
    config = '{"parameters": {"basis": "b", "iterations": "1"}}'
    done = subprocess.run([*script, f"{server.address[0]}:{server.address[1]}", "--config", config], **options)
    assert done.stdout.startswith(b"1 T1map (32, 32, 1) s\n2 T2map (32, 32, 1) s\n")
    assert subprocess.run(script, **options).stdout == scan(made)


def test_images_and_waveforms_are_left_out(made: Path, server: Process) -> None:
    image = ismrmrd.Image.from_array(np.ones((3, 4), np.float32), transpose=False)
    waveform = ismrmrd.Waveform.from_array(np.ones((3, 4), np.float32).astype("u4"))
    found = talk(server.address, scan(made, config=BASIS, change=lambda items: [image, waveform, *items]))
    assert len(images_in(found)) == 5
    assert "messages of the kind IMAGE are left out" in server.text


DEFECT = """
import sys
from crbsvd_plugin import group
def broken(*_, **__):
    raise ZeroDivisionError("the fit broke")
group.Fitter.fit = broken
from crbsvd_plugin.cli import main
sys.argv[0:1] = []
sys.exit(main())
"""


def test_an_exception_in_the_fit(made: Path) -> None:
    """Reaches the host as text, then the CLOSE; the traceback is in the log, and the server lives."""
    command = [sys.executable, "-c", DEFECT, "crbsvd", "serve"]
    with served(made, "--bases", ".", "--threads", "1", command=command) as server:
        for _ in range(2):
            before = sessions_of(server)
            said = texts_in(talk(server.address, scan(made, config=BASIS)))
            assert said == "ERROR crbsvd: internal error (ZeroDivisionError: the fit broke); the log has more"
            assert next_end(server, before) == "1"
        assert 'raise ZeroDivisionError("the fit broke")' in server.text or "Traceback" in server.text


def test_sigterm_while_receiving(made: Path) -> None:
    """The host is told, and server and session end, status 143 as of any program that was asked to end."""
    with served(made, "--bases", ".") as server:
        talk(server.address, scan(made, config=BASIS))  # what is compiled now cannot hold the signal back later
        wait_for(lambda: not children_of(server), server)
        before = sessions_of(server)
        with socket.create_connection(server.address) as host:
            host.settimeout(60)
            host.sendall(scan(made, config=BASIS, close=False, change=half))
            child = at_rest(server, before)
            server.terminate()
            with host.makefile("rb") as stream:
                (text,) = ismrmrd.ProtocolDeserializer(stream).deserialize()
            assert text == "ERROR crbsvd: the reconstruction was stopped"
        assert server.ended(20) == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
        assert "Traceback" not in server.text


def test_silence_ends_a_session(made: Path) -> None:
    with served(made, "--bases", ".", "--idle", "1") as server:
        began = time.monotonic()
        (text,) = talk(server.address, scan(made, config=BASIS, close=False, change=half))
        assert "nothing came for 1 s" in text
        assert time.monotonic() - began < 100  # the default is 300 s; the rehearsal may have to compile


def test_a_port_that_is_taken(made: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [*COMMAND, "serve", "--port", port], env=environment(), capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"crbsvd: cannot listen on 127.0.0.1 port \d+ .*\n", done.stderr)


# --- for a long time


@pytest.mark.slow
def test_two_hundred_sessions_one_after_another(made: Path) -> None:
    """Every fourth vanishes; memory and descriptors of the server stay as they are."""
    content = scan(made, config=BASIS)
    with served(made, "--bases", ".", "--threads", "1") as server:
        figures = []
        for number in range(200):
            before = sessions_of(server)
            if number % 4 == 3:
                with socket.create_connection(server.address) as host:
                    host.sendall(content[: 5000 + 100 * number])
                assert next_end(server, before) == "2"
            else:
                assert "T1map" in images_in(talk(server.address, content))
                assert next_end(server, before) == "0"
            figures.append((resident(server.process.pid), len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))))
        assert max(memory for memory, _ in figures[20:]) < figures[20][0] + 2**22
        assert {count for _, count in figures[20:]} == {figures[20][1]}
        assert children_of(server) == []


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
