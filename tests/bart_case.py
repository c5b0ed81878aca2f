"""A script that stands in for BART, and what tells whether it still runs."""

from __future__ import annotations

import os
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


def wait_until(condition: Callable[[], bool]) -> bool:
    """Poll for at most ten seconds: long for a loaded machine, short of the stand-in's minute."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
