"""A script that stands in for BART, and what tells whether it still runs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# says its number in a file once it runs, and goes on for longer than any test waits
SLEEPER = "echo $$ > '{0}/new'; mv '{0}/new' '{0}/pid'; exec sleep 60"


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch, *, interpreter: str = "/bin/sh") -> None:
    """Put a script named bart first on PATH."""
    program = folder / "bin" / "bart"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!{interpreter}\n{script}")
    program.chmod(0o755)
    path = os.environ["PATH"].split(os.pathsep)
    if path[0] != str(program.parent):
        monkeypatch.setenv("PATH", os.pathsep.join([str(program.parent), *path]))


def is_running(pid: int) -> bool:
    """Tell whether a process lives; an orphan that nobody reaps counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], *, seconds: float = 10) -> bool:
    """Poll for at most ten seconds: long for a loaded machine, short of the stand-in's minute."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


# writes its arguments to a file and what pics would write, of zeros; {0}: folder of the record, {1}: version
RECORDER = """import json, math, sys
from pathlib import Path
if sys.argv[1:] == ["version"]:
    print("{1}")
    sys.exit()
with open("{0}/record", "a") as record:
    record.write(json.dumps(sys.argv[1:]) + chr(10))
def dims(name):
    return [int(word) for word in Path(name + ".hdr").read_text().splitlines()[1].split()]
def write(name, shape):
    Path(name + ".hdr").write_text("# Dimensions" + chr(10) + " ".join(map(str, shape)) + chr(10))
    Path(name + ".cfl").write_bytes(bytes(8 * math.prod(shape)))
write("coeff", [*dims("sens")[:3], 1, 1, 1, dims("basis")[6]])
if "--psf_export" in sys.argv:
    write("psf", [2] * 17)
"""


def recorder(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """Put a stand-in of that version first on PATH that records its arguments; return what reads the record."""
    stand_in(folder, RECORDER.format(folder, version), monkeypatch, interpreter=sys.executable)

    def calls() -> list[list[str]]:
        record = folder / "record"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    return calls
