"""How much memory a native reconstruction takes.

Every term is counted where its array is made; `benchmarks/memory.py` compares the sum with what processes really took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .errors import UserError
from .memory import available
from .recon import Solver

GIB = 2**30
IMPORTS = 0.2 * GIB
"""What Python and the libraries take before any data."""

_COMPLEX, _REAL, _DOUBLE, _INDEX = 8, 4, 8, 8  # bytes; single precision where the name says nothing
_HEAD = 1500  # of a readout's object
# K-fold images that a solver holds while it applies the normal operator, its input and output included
_IMAGES: dict[Solver, int] = {"cg": 5, "fista": 5, "admm": 9}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What decides the memory of one image.

    Parameters
    ----------
    shape : tuple of int
        Image size X.
    n_readouts, n_samples : int
        Readouts R of S samples.
    n_receivers, n_coils : int
        Coils of the data, and coils C of the reconstruction.
    rank : int
        Coefficients K.
    real : bool
        Basis and weights are real.
    solver : {"cg", "fista", "admm"}
        How it is solved.
    n_threads : int
        Threads.
    n_images : int
        Images of such a size in the stream: the readouts of all are in memory at first.
    """

    shape: tuple[int, ...]
    n_readouts: int
    n_samples: int
    n_receivers: int
    n_coils: int
    rank: int
    real: bool = True
    solver: Solver = "cg"
    n_threads: int = 1
    n_images: int = 1

    @property
    def kernels(self) -> int:
        """Bytes of the convolution kernels: K (K + 1) / 2 of them on the doubled grid, twice for a complex basis."""
        pairs = self.rank * (self.rank + 1) // 2
        return pairs * 2 ** len(self.shape) * math.prod(self.shape) * _REAL * (1 if self.real else 2)

    def stages(self) -> dict[str, int]:
        """Return the bytes that every stage of the work takes at its peak, imports left out."""
        n_dims, n_voxels, n_samples = len(self.shape), math.prod(self.shape), self.n_readouts * self.n_samples
        images = self.rank * n_voxels * _COMPLEX
        sens = self.n_coils * n_voxels * _COMPLEX
        batch = min(self.n_threads, self.rank * self.n_coils)
        received, data = (n * n_samples * _COMPLEX for n in (self.n_receivers, self.n_coils))
        positions, exact = n_dims * n_samples * _REAL, n_dims * n_samples * _DOUBLE
        waiting = (self.n_images - 1) * (received + exact)
        # the readouts as they came, and stacked
        reading = self.n_images * (received + positions + _HEAD * self.n_readouts) + received + 2 * exact + waiting
        whitening = max(2 * received + exact, received + data + exact) + waiting
        # positions of the operator and of the NUFFT, its order of the samples, weights, one coil, strengths
        points = 2 * positions + (_INDEX + _REAL + 1) * n_samples
        adjoint = data + points + (1 + batch) * n_samples * _COMPLEX + sens + images + batch * n_voxels * _COMPLEX
        adjoint += batch * _fine_grid(self.shape, 2.0) + waiting
        doubled = 2**n_dims * n_voxels
        making = points + 3 * n_samples * _COMPLEX + sens + images + self.kernels + 2 * doubled * _COMPLEX
        making += _fine_grid(tuple(2 * n for n in self.shape), 1.25) + waiting
        solving = self.kernels + sens + (_IMAGES[self.solver] + 2) * images + waiting
        return {
            "readouts": max(reading, whitening), "right-hand side": adjoint, "kernels": making, "iterations": solving,
        }  # fmt: skip

    @property
    def peak(self) -> int:
        """Bytes of the largest stage, imports left out."""
        return max(self.stages().values())


def _fine_grid(modes: tuple[int, ...], upsampling: float) -> int:
    """Return the bytes of the NUFFT's own grid."""
    return math.prod(math.ceil(upsampling * n) for n in modes) * _COMPLEX


def check(problem: Problem, *, held: int = 0) -> None:
    """Refuse a problem that needs more memory than there is.

    Parameters
    ----------
    problem : Problem
        What is to be done.
    held : int
        Bytes of its that are in memory already.

    Raises
    ------
    UserError
        The message says what would fit.
    """
    free = available()
    if free is None or problem.peak - held <= free:
        return
    stage, _ = max(problem.stages().items(), key=lambda pair: pair[1])
    ranks = [k for k in range(problem.rank - 1, 0, -1) if replace(problem, rank=k).peak - held <= free]
    coils = [c for c in range(problem.n_coils - 1, 0, -1) if replace(problem, n_coils=c).peak - held <= free]
    fits = [f"--{name} {found[0]}" for name, found in (("rank", ranks), ("coils", coils)) if found]
    advice = f"{' or '.join(fits)} would fit" if fits else "no rank or number of coils would fit; take a larger machine"
    raise UserError(
        f"the reconstruction needs {(problem.peak - held) / GIB:.3g} GiB of memory ({stage}; kernels "
        f"{problem.kernels / GIB:.3g} GiB), there are {free / GIB:.3g} GiB: {advice}"
    )
