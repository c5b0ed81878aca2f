"""Measure whole processes side by side and print one table and one line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

# Between us and what is measured: the peak memory of a process counts from before its exec, when it is a copy of the
# process that started it, and we hold the data of the benchmark.
_LAUNCHER = """\
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([done.returncode, seconds, peak / 1024, done.stdout.decode(errors="replace")]))
"""


@dataclass(frozen=True)
class Usage:
    """Wall-clock seconds, peak memory [MB] and what was printed by a finished process."""

    seconds: float
    megabytes: float
    output: str = ""


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
    launcher = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command],
        stdout=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        check=True,
    )
    status, seconds, megabytes, output = json.loads(launcher.stdout)
    if status:
        raise RuntimeError(f"{command[0]} failed with status {status}: {output[-2000:]}")
    return Usage(seconds, megabytes, output)


def interleaved(ours: Callable[[], Usage], peer: Callable[[], Usage], *, pairs: int) -> tuple[Usage, Usage]:
    """Return the medians of `pairs` runs of both, taken in turn so that a noisy machine hits both."""
    rows = [(ours(), peer()) for _ in range(pairs)]
    a, b = zip(*rows, strict=True)
    return _median(a), _median(b)


def _median(rows: Sequence[Usage]) -> Usage:
    return Usage(statistics.median(u.seconds for u in rows), statistics.median(u.megabytes for u in rows))


def main(
    name: str,
    cases: Mapping[str, Callable[[], Result | Sequence[Result]]],
    *,
    options: argparse.ArgumentParser | None = None,
) -> None:
    """Run all cases, or that of --only, and print the results; `options` are more arguments, read by the caller."""
    parser = argparse.ArgumentParser(description=f"benchmark {name}", parents=[] if options is None else [options])
    parser.add_argument("--only", choices=list(cases), help="run this case alone")
    only = parser.parse_args().only
    results: list[Result] = []
    for key, case in cases.items():
        if only in (None, key):
            found = case()
            results += [found] if isinstance(found, Result) else found
    widths = {"ours [s]": 10, "peer [s]": 10, "ratio": 8, "ours [MB]": 11, "peer [MB]": 11, "error": 11, "of peer": 11}
    print(f"{'case':<16}" + "".join(f"{name:>{width}}" for name, width in widths.items()) + "  peer")
    for r in results:
        print(
            f"{r.case:<16}{r.ours_s:10.3g}{r.peer_s:10.3g}{r.ratio:8.1f}{r.ours_mb:11.0f}{r.peer_mb:11.0f}"
            f"{r.error_ours:11.3g}{r.error_peer:11.3g}  {r.peer}"
        )
    print(json.dumps({"benchmark": name, "results": [asdict(r) for r in results]}))
    sys.stdout.flush()
