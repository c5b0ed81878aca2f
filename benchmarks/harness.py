"""Measure whole processes side by side and print one table and one line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Usage:
    """Wall-clock seconds and peak memory [MB] of a finished process."""

    seconds: float
    megabytes: float


@dataclass(frozen=True)
class Result:
    """One case: ours against a named peer on the same work in the same run."""

    case: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    ours_mb: float
    peer_mb: float
    error_ours: float
    error_peer: float


def run(command: Sequence[str], *, environment: dict[str, str] | None = None) -> Usage:
    """Run a command to its end; raise with its output if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(
            f"{command[0]} failed with status {process.returncode}: {output.decode(errors='replace')[-2000:]}"
        )
    return Usage(seconds, usage.ru_maxrss / 1024)


def interleaved(ours: Callable[[], Usage], peer: Callable[[], Usage], *, pairs: int) -> tuple[Usage, Usage]:
    """Return the medians of `pairs` runs of both, taken in turn so that a noisy machine hits both."""
    rows = [(ours(), peer()) for _ in range(pairs)]
    a, b = zip(*rows, strict=True)
    return _median(a), _median(b)


def _median(rows: Sequence[Usage]) -> Usage:
    return Usage(statistics.median(u.seconds for u in rows), statistics.median(u.megabytes for u in rows))


def main(name: str, cases: dict[str, Callable[[], Result]]) -> None:
    """Run all cases, or that of --only, and print the results."""
    parser = argparse.ArgumentParser(description=f"benchmark {name}")
    parser.add_argument("--only", choices=list(cases), help="run this case alone")
    only = parser.parse_args().only
    results = [case() for key, case in cases.items() if only in (None, key)]
    widths = {"ours [s]": 10, "peer [s]": 10, "ratio": 8, "ours [MB]": 11, "peer [MB]": 11, "error": 10, "of peer": 10}
    print(f"{'case':<16}" + "".join(f"{name:>{width}}" for name, width in widths.items()) + "  peer")
    for r in results:
        print(
            f"{r.case:<16}{r.ours_s:10.2f}{r.peer_s:10.2f}{r.ratio:8.1f}{r.ours_mb:11.0f}{r.peer_mb:11.0f}"
            f"{r.error_ours:10.4f}{r.error_peer:10.4f}  {r.peer}"
        )
    print(json.dumps({"benchmark": name, "results": [asdict(r) for r in results]}))
    sys.stdout.flush()
