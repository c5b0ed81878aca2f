"""A scan as a process: readouts from a file of MRD messages, at a pace or as fast as they are taken, and its maps.

The last line is JSON: seconds from the last readout to the last map, and those of the same sensitivities, iterations
and fit alone; the peak memory, and what is said of the readouts.
"""

from __future__ import annotations

import argparse
import json
import queue
import resource
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np

from crbsvd_plugin import group, pipeline
from crbsvd_plugin.config import Config
from crbsvd_plugin.equations import Equations
from crbsvd_plugin.intake import Intake
from crbsvd_plugin.mrd_header import parse_header

_QUEUE = 64  # readouts that a host may be ahead: 2 MB, what the buffers of a connection hold
_REPEATS = 3


def write(path: Path, header: str, items: Iterator[Any]) -> None:
    """Write a header and readouts, one message after the other."""
    with path.open("wb") as file:
        text = header.encode()
        file.write(struct.pack("<I", len(text)) + text)
        for item in items:
            item.serialize_into(file.write)


def _read(path: Path, repeat: int) -> tuple[Any, Iterator[Any]]:
    """Return the header, and the readouts of so many scans that follow each other."""

    def items() -> Iterator[Any]:
        counter = 0
        for scan in range(repeat):
            with path.open("rb") as file:
                file.seek(4 + struct.unpack("<I", file.read(4))[0])
                while file.peek(1):
                    item = ismrmrd.Acquisition.deserialize_from(file.read)
                    item.scan_counter, item.idx.average = counter, scan
                    counter += 1
                    yield item

    with path.open("rb") as file:
        return parse_header(file.read(struct.unpack("<I", file.read(4))[0])), items()


@dataclass
class _Host:
    """Gives readouts away, `pace` seconds apart; waits where the other side is too slow."""

    items: Iterator[Any]
    pace: float
    last: float = 0.0
    taken: queue.Queue[Any] = field(default_factory=lambda: queue.Queue(_QUEUE))

    def __iter__(self) -> Iterator[Any]:
        threading.Thread(target=self._give, daemon=True).start()
        return iter(self.taken.get, None)

    def _give(self) -> None:
        start = time.perf_counter()
        for number, item in enumerate(self.items):
            time.sleep(max(0.0, start + number * self.pace - time.perf_counter()))
            self.taken.put(item)
            self.last = time.perf_counter()
        self.taken.put(None)


def main() -> None:
    """Reconstruct the scan, then time the parts that cannot be done before its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("basis")
    parser.add_argument("output", type=Path)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--patience", type=float)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    header, items = _read(options.scan, options.repeat)
    host = _Host(items, options.pace)
    # what the stream made last, for the time that it takes alone
    made: dict[str, Any] = {}

    class Kept(Equations):
        def __init__(self, *given: Any):
            super().__init__(*given)
            made["equations"] = self

    def finished(intake: Intake, *given: Any, **more: Any) -> Any:
        made["intake"], made["fitter"] = intake, more["fitter"]
        return group.finished(intake, *given, **more)

    pipeline.finished, group.Equations = finished, Kept  # type: ignore[assignment,misc]
    config = Config(basis=options.basis, ends=())
    (result,) = pipeline.reconstruct_stream(header, host, config, patience=options.patience)
    ours = time.perf_counter() - host.last
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.save(options.output, result.coeff)
    steps: tuple[Callable[[], Any], ...] = (
        made["intake"].sensitivities, made["equations"].images, lambda: made["fitter"].fit(result.coeff)
    )  # fmt: skip
    alone = []
    for _ in range(_REPEATS):
        seconds = []
        for step in steps:
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        alone.append(seconds)
    parts = [statistics.median(column) for column in zip(*alone, strict=True)]
    print(json.dumps({"ours_s": ours, "alone_s": parts, "peak_mb": peak, "readouts": result.readouts}))


if __name__ == "__main__":
    main()
