"""Memory and time of a reconstruction against the rank, for two examples: memory is counted, time is carried over."""

from __future__ import annotations

import math

from .footprint import GIB, IMPORTS, Problem

VOLUME = (
    "a volume of 160 x 150 x 120 voxels, 8 coils, 205,560 readouts of 320 samples, conjugate gradients, two threads"
)
"""What memory is counted for; there its largest part, the kernels, grows with K (K + 1) / 2."""

SLICE = "one slice of 256 x 256 voxels, 8 coils, 3000 spokes of 512 samples, 30 iterations of conjugate gradients"
"""What time is told for: `benchmarks/recon.py --only radial2d-cg`."""

MEASURED = (
    "one run with 5 real coefficients on two cores took 4.1 s; from there the NUFFT is taken to grow with K, "
    "the kernels with K (K + 1) / 2, and the iterations with K^1.2, as was measured for K = 2 to 15"
)
"""Where the times come from; see docs/design.md, Figures."""

_RANK = 5
_TIMES = {"right-hand side (NUFFT)": 1.5, "kernels": 0.5, "iterations": 1.4}  # s at that rank
_REST = 0.7  # start-up and files
_GROWTH = 1.2


def memory(rank: int, *, real: bool) -> dict[str, float]:
    """Return what `footprint` counts for the volume [GiB]: the whole process at its peak, and of it the kernels."""
    problem = Problem(
        shape=(120, 150, 160), n_readouts=30 * 6852, n_samples=320, n_receivers=8, n_coils=8, rank=rank, real=real,
        n_threads=2,
    )  # fmt: skip
    return {"whole process": (IMPORTS + problem.peak) / GIB, "kernels alone": problem.kernels / GIB}


def seconds(rank: int) -> dict[str, float]:
    """Return the times [s] of the slice, as `MEASURED` says; the first is the sum of the others, start-up and files."""
    growth = (
        rank / _RANK,
        math.comb(rank + 1, 2) / math.comb(_RANK + 1, 2),
        (rank / _RANK) ** _GROWTH,
    )
    parts = {name: time * factor for (name, time), factor in zip(_TIMES.items(), growth, strict=True)}
    return {"all": _REST + sum(parts.values()), **parts}
