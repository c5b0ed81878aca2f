"""The memory of whole reconstructions against what `crbsvd recon --dry-run` says, each in a process of its own.

What Python and the libraries take is measured by a tiny scan, and subtracted.
It prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import ismrmrd
import numpy as np

from crbsvd_plugin import Basis
from crbsvd_plugin.footprint import GIB
from crbsvd_plugin.forecast import forecast
from crbsvd_plugin.geometry import Geometry
from crbsvd_plugin.mrd import write_raw
from crbsvd_plugin.mrd_header import radial_header
from crbsvd_plugin.run import config

_FRAMES = 100
_COMMAND = "from crbsvd_plugin.cli import main; main()"
# image (z, y, x), coils, readouts, samples, coefficients, complex basis, options
_CASES: dict[str, tuple[tuple[int, int, int], int, int, int, int, bool, dict[str, Any]]] = {
    "import": ((1, 16, 16), 1, 100, 32, 2, False, {}),
    "kernels-3d": ((96, 90, 88), 4, 8000, 192, 10, False, {"iterations": 2}),
    "readouts-2d": ((1, 256, 256), 32, 6000, 512, 5, False, {"iterations": 3}),
    "llr-complex-3d": ((80, 80, 80), 6, 6000, 160, 8, True, {"iterations": 2, "regulariser": "llr", "lam": 0.1}),
}


def _acquisitions(shape: tuple[int, int, int], n_coils: int, n_readouts: int, n_samples: int) -> Iterator[Any]:
    """Yield readouts of noise on full spokes in random directions: memory does not depend on what they hold."""
    rng = np.random.default_rng(0)
    n_dims = 3 if shape[0] > 1 else 2
    radius = (np.arange(n_samples) - n_samples // 2) / n_samples
    for number in range(n_readouts):
        direction = rng.standard_normal(n_dims)
        positions = radius[:, None] * (direction / np.linalg.norm(direction)) * shape[: -1 - n_dims : -1]
        data = rng.standard_normal((n_coils, 2 * n_samples), np.float32).view(np.complex64)
        readout = ismrmrd.Acquisition.from_array(data, positions.astype(np.float32))
        readout.idx.contrast = number % _FRAMES
        yield readout


def _write(folder: Path, case: str) -> tuple[str, str, dict[str, Any]]:
    """Write raw data and basis of a case, and return their names and the options."""
    shape, n_coils, n_readouts, n_samples, rank, is_complex, options = _CASES[case]
    rng = np.random.default_rng(1)
    values = rng.standard_normal((_FRAMES, rank)) + (1j * rng.standard_normal((_FRAMES, rank)) if is_complex else 0)
    name, raw = str(folder / "basis"), str(folder / "scan.h5")
    Basis(np.linalg.qr(values)[0], np.ones(rank)).save(name)
    header = radial_header(
        Geometry(shape[::-1], (1.0, 1.0, 1.0)), (n_coils, n_readouts, n_samples), n_frames=_FRAMES, n_shots=1,
        sequence={},
    )  # fmt: skip
    write_raw(raw, header, _acquisitions(shape, n_coils, n_readouts, n_samples))
    return raw, name, options


def measure(case: str) -> tuple[float, float]:
    """Return the bytes that the command took at its peak, and what was said before, imports included in the first."""
    with tempfile.TemporaryDirectory() as folder:
        raw, name, options = _write(Path(folder), case)
        told = forecast(raw, config(basis=name, fit=False, **options)).largest.peak
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        output = str(Path(folder) / "coeff")
        command = [sys.executable, "-c", _COMMAND, "recon", raw, name, "-o", output, *words]
        return harness.run(command).megabytes * 2**20, told


def main() -> None:
    """Measure the cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    cases = [name for name in _CASES if name != "import"]
    parser.add_argument("--only", choices=cases, help="measure this case alone")
    only = parser.parse_args().only
    imports, _ = measure("import")
    print(f"imports {imports / 2**20:.0f} MiB\n{'case':<18}{'told [GiB]':>12}{'taken [GiB]':>13}{'told / taken':>14}")
    results = []
    for case in cases if only is None else [only]:
        taken, told = measure(case)
        taken -= imports
        print(f"{case:<18}{told / GIB:12.3f}{taken / GIB:13.3f}{told / taken:14.3f}", flush=True)
        results.append({"case": case, "told_gib": told / GIB, "taken_gib": taken / GIB})
    print(json.dumps({"benchmark": "memory", "results": results}))


if __name__ == "__main__":
    main()
