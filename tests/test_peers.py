"""Gadgetron and pipes that go wrong; and places where little is allowed. Real processes, as in test_serve."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from cli_case import COMMAND
from wire_case import (
    environment,
    header_of,
    images_in,
    packed,
    properties,
    readouts_of,
    scan,
    started,
    unpacked,
)

SOON_S = 5.0  # it is 2 s where nothing else runs


def test_gadgetron_hears_of_errors(made: Path) -> None:
    """By ERROR, then CLOSE, and a status that is not 0; never by TEXT, which the core refuses."""
    pytest.importorskip("gadgetron")
    with started(made, "recon", properties(basis="x"), header_of(made / "raw.h5")) as (core, process):
        core.send(packed(*readouts_of(made / "raw.h5")))
        answer = core.answer()
        assert answer.error.startswith("crbsvd: config: there is no basis 'x'")
        assert (answer.closed, process.ended()) == (True, 2)


def test_gadgetron_that_vanishes(made: Path) -> None:
    pytest.importorskip("gadgetron")
    with started(made, "recon", properties(basis="b"), header_of(made / "raw.h5")) as (core, process):
        core.send(packed(*readouts_of(made / "raw.h5")[:20], close=False))
        time.sleep(4)  # it has started to read
        core.close()
        began = time.monotonic()
        assert process.ended() == 2
        assert time.monotonic() - began < SOON_S


def test_images_pass_through_a_chain(made: Path) -> None:
    pytest.importorskip("gadgetron")
    image = ismrmrd.Image.from_array(np.ones((3, 4), np.float32), transpose=False, image_series_index=77)
    config = properties(basis="b", iterations=1)
    with started(made, "recon", config, header_of(made / "raw.h5")) as (core, process):
        core.send(packed(image, *readouts_of(made / "raw.h5")))
        answer = core.answer()
        assert (answer.error, process.ended()) == ("", 0)
    assert answer.images[0] == image
    assert len(answer.images) == 1 + 5


def test_sigterm_while_gadgetron_sends(made: Path) -> None:
    pytest.importorskip("gadgetron")
    with started(made, "recon", properties(basis="b"), header_of(made / "raw.h5")) as (core, process):
        core.send(packed(*readouts_of(made / "raw.h5")[:20], close=False))
        time.sleep(4)
        process.terminate()
        answer = core.answer()
        assert (answer.error, answer.closed) == ("crbsvd: the reconstruction was stopped", True)
        core.close()
        assert process.ended() == 128 + signal.SIGTERM


# --- standard input and output


def streamed(made: Path, content: bytes, *arguments: str, **options: Any) -> Any:
    return subprocess.run(
        [*COMMAND, "stream", "b", "--iterations", "1", "--no-std", *arguments],
        cwd=made, env=environment(), input=content, capture_output=True, timeout=120, check=False, **options,
    )  # fmt: skip


def test_a_pipe_that_ends_early(made: Path) -> None:
    """One line on standard error, status 2, and no CLOSE, so that the next program does not take it for the whole."""
    done = streamed(made, scan(made, close=False))
    assert done.returncode == 2
    assert re.fullmatch(rb"crbsvd: the stream ended without a CLOSE[^\n]*\n", done.stderr)
    with pytest.raises(EOFError):
        unpacked(done.stdout)


def test_a_pipe_with_nothing(made: Path) -> None:
    done = streamed(made, b"")
    assert (done.returncode, done.stdout) == (2, b"")


def test_settings_that_do_not_go_together_are_refused_before_reading(made: Path) -> None:
    done = streamed(made, b"", "--solver", "cg", "--regulariser", "llr")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


def test_a_pipe_whose_reader_has_gone(made: Path) -> None:
    receiver, sender = os.pipe()
    os.close(receiver)
    process = subprocess.Popen(
        [*COMMAND, "stream", "b", "--iterations", "1"], cwd=made, env=environment(), stdin=subprocess.PIPE,
        stdout=sender, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(sender)
    _, errors = process.communicate(scan(made), timeout=120)
    assert process.returncode == 2
    assert errors.startswith(b"crbsvd: the host has gone")


def test_sigterm_in_a_pipe(made: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "stream", "b"], cwd=made, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(scan(made, close=False))
    process.stdin.flush()
    time.sleep(4)
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == b"crbsvd: the reconstruction was stopped\n"


# --- where little is allowed


def test_a_read_only_installation_and_no_home(made: Path) -> None:
    """As a user who may read everything and write nothing: slower, no worse."""
    variables = {"HOME": "/nonexistent", "PATH": os.environ["PATH"], "PYTHONPATH": environment()["PYTHONPATH"]}
    command = [*COMMAND, "stream", "b", "--iterations", "1", "--no-std"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("only setpriv can take root's rights away")
        capability = "+dac_read_search"
        user = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        command = ["setpriv", *user, f"--inh-caps={capability}", f"--ambient-caps={capability}", *command]
    done = subprocess.run(
        command, cwd=made, env=variables, input=scan(made), capture_output=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "T1map" in images_in(unpacked(done.stdout))


THREADS = """
import os, sys, threading
os.environ["CRBSVD_BASES"] = sys.argv[1]
from crbsvd_gadgets.fire import process
from test_online import FireConnection
from wire_case import header_of, readouts_of
from pathlib import Path
raw = Path(sys.argv[1]) / "raw.h5"
inside, go = threading.Event(), threading.Event()
def held(items):
    inside.set()
    go.wait(60)
    return items
class Held(FireConnection):
    def __iter__(self):
        inside.set()
        go.wait(60)
        return super().__iter__()
config = {"parameters": {"basis": "b", "iterations": 1}}
first, second = Held(readouts_of(raw)), FireConnection(readouts_of(raw))
thread = threading.Thread(target=process, args=(first, config, header_of(raw)))
thread.start()
inside.wait(60)
process(second, config, header_of(raw))
go.set()
thread.join()
print(len(first.images), len(second.images), second.said)
"""


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_two_threads_of_one_process(made: Path, layer: str) -> None:
    """Numba's workqueue would end the process: the second thread is refused. Other layers can do both."""
    variables = environment(NUMBA_THREADING_LAYER=layer)
    variables["PYTHONPATH"] += f"{os.pathsep}{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", THREADS, str(made)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if layer == "omp":
        assert done.stdout == "5 5 []\n"
    else:
        assert done.stdout.startswith("5 0 [('ERROR  ', 'crbsvd: another thread of this process reconstructs")
