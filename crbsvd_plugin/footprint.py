"""How much memory a native reconstruction takes.

Every term is counted where its array is made; `benchmarks/memory.py` compares the sum with what processes really took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .errors import UserError
from .fine_grid import size, upsampling
from .memory import available
from .recon.choice import Solver
from .stack import BLOCK_BYTES
from .sums import batch_samples, kernel_bytes
from .toeplitz import chunk_bytes, sample_bytes

GIB = 2**30
IMPORTS = 0.24 * GIB
"""What Python and the libraries take before any data."""

READING = "readouts"
"""The stage that is over once all readouts are there."""

_COMPLEX, _REAL, _DOUBLE, _INDEX = 8, 4, 8, 8  # bytes; single precision where the name says nothing
_HEAD, _KNOWN = 1500, 200  # of a readout's object, and what tells it from those that come later
_ARENA = 10 * 2**20  # what glibc keeps for a thread of what it has freed, on average of benchmarks/memory.py
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
    preconditioned : bool
        With the circulant preconditioner.
    n_threads : int
        Threads.
    n_images : int
        Images of such a size in the stream: what all of them hold is in memory at first.
    misfit : bool
        The data are compared with the images.
    replicas : bool
        There are pseudo-replicas.
    keeps : bool
        Something else needs the data again after they were gridded.
    waits : bool
        Something is found in all data before the first of them is gridded.
    cached : bool
        The kernel comes from a cache, or goes there.
    """

    shape: tuple[int, ...]
    n_readouts: int
    n_samples: int
    n_receivers: int
    n_coils: int
    rank: int
    real: bool = True
    solver: Solver = "cg"
    preconditioned: bool = False
    n_threads: int = 1
    n_images: int = 1
    misfit: bool = False
    replicas: bool = False
    keeps: bool = False
    waits: bool = False
    cached: bool = False

    @property
    def kernels(self) -> int:
        """Bytes of the convolution kernels."""
        return kernel_bytes(self.shape, self.rank, real=self.real)

    def stages(self) -> dict[str, int]:
        """Return the bytes that every stage of the work takes at its peak, imports left out."""
        n_dims, n_voxels, n_samples = len(self.shape), math.prod(self.shape), self.n_readouts * self.n_samples
        images = self.rank * n_voxels * _COMPLEX
        sens = self.n_coils * n_voxels * _COMPLEX
        batch = min(self.n_threads, self.rank * self.n_coils)
        received, data = (n * n_samples * _COMPLEX for n in (self.n_receivers, self.n_coils))
        positions, exact = n_dims * n_samples * _REAL, n_dims * n_samples * _DOUBLE
        # readouts that become arrays at a time, and that wait until they are gridded with others
        n_block = min(n_samples, max(self.n_samples, BLOCK_BYTES // (self.n_receivers * _COMPLEX)))
        n_worth = batch_samples(self.shape, self.rank, self.n_coils, real=self.real)
        n_pending = n_samples if self.waits else min(n_samples, n_worth)
        sums = self.n_coils * images + self.kernels if n_pending < n_samples else 0
        keeps = self.keeps or self.misfit or self.replicas
        kept = data + positions if keeps else positions if self.cached else 0
        pending = 0 if keeps else n_pending * (data + positions) // n_samples
        held = received + exact if self.waits else pending + kept + sums
        # what is held of the images whose turn is later; and what the allocator keeps for its threads
        waiting = (self.n_images - 1) * held + (self.n_threads + 1) * _ARENA
        block = n_block * (self.n_receivers * _COMPLEX + n_dims * _DOUBLE)
        reading = held + n_block // self.n_samples * _HEAD + self.n_readouts * _KNOWN
        if not self.waits or n_block < n_samples:
            reading += 2 * block
        compressed = self.n_coils < self.n_receivers
        if self.waits:
            calibrating = received + (data if compressed else 0) + 2 * exact + n_dims * n_samples
        else:
            calibrating = held + block + (n_block * self.n_coils * _COMPLEX if compressed else 0)
        # points of the NUFFT, its order of the samples, weights, one coil, strengths
        nufft = n_dims * _REAL + _INDEX + _REAL + 1 + (1 + batch) * _COMPLEX
        transforms = batch * (n_voxels * _COMPLEX + _fine_grid(self.shape, 1.75))
        adjoint = pending + kept + sums + n_pending * nufft + sens + images + transforms
        doubled = tuple(2 * n for n in self.shape)
        chunk = min(chunk_bytes(self.kernels), n_pending * sample_bytes(n_dims, _COMPLEX))
        making = self.kernels + sens + images + n_pending * _REAL + chunk
        making += math.prod(doubled) * _COMPLEX + _fine_grid(doubled, 1.5)
        making += kept or n_pending * n_dims * _REAL
        if not keeps:
            kept = 0
        inverse = self.kernels // 2**n_dims if self.preconditioned else 0
        solving = self.kernels + sens + (_IMAGES[self.solver] + 2) * images + inverse
        if self.preconditioned:
            # two K x K matrices for every voxel, from which the triangles of the inverse are cut
            matrices = 2 * self.rank**2 * n_voxels * _REAL * (1 if self.real else 2)
            solving = max(solving, self.kernels + sens + images + matrices + 2 * inverse)
        solving += kept
        found = {
            READING: reading, "calibration": calibrating, "right-hand side": adjoint, "kernels": making,
            "iterations": solving,
        }  # fmt: skip
        result = images + self.kernels + inverse
        if self.misfit:
            # k-space of one coil, and of as many coefficients as there are threads; energies of one coil
            coil = n_pending * ((2 + batch) * _COMPLEX + n_dims * _REAL + _INDEX)
            found["misfit"] = kept + result + sens + coil + transforms
        if self.replicas:
            covariance = (self.rank + 1) * images // 2
            noise = n_pending * (self.n_coils * _COMPLEX + nufft) + transforms
            # the noise is over when the iterations begin
            found["replicas"] = covariance + images + max(kept + result + sens + images + noise, solving)
        return {name: size + waiting for name, size in found.items()}

    @property
    def peak(self) -> int:
        """Bytes of the largest stage, imports left out."""
        return max(self.stages().values())


def _fine_grid(modes: tuple[int, ...], least: float) -> int:
    """Return the bytes of the NUFFT's own grid, its transform included, see `toeplitz.parts_of`."""
    factor = upsampling(modes, least)
    return round(1.5 * math.prod(size(n, factor) for n in modes) * _COMPLEX)


def check(problem: Problem, *, held: int) -> None:
    """Refuse a problem, whose readouts have been read, if it needs more memory than there is.

    Parameters
    ----------
    problem : Problem
        What is to be done.
    held : int
        Bytes of the readouts of all images.

    Raises
    ------
    UserError
        The message says what would fit.
    """
    free = available()
    if free is None:
        return

    def needed(problem: Problem) -> tuple[int, str]:
        return max((size - held, stage) for stage, size in problem.stages().items() if stage != READING)

    size, stage = needed(problem)
    if size <= free:
        return
    ranks = [k for k in range(problem.rank - 1, 0, -1) if needed(replace(problem, rank=k))[0] <= free]
    coils = [n for n in range(problem.n_coils - 1, 0, -1) if needed(replace(problem, n_coils=n))[0] <= free]
    found = [f"--{name} {most[0]}" for name, most in (("rank", ranks), ("coils", coils)) if most]
    if needed(replace(problem, misfit=False, replicas=False))[0] <= free:
        found.append("--no-misfit without --replicas")
    advice = f"{' or '.join(found)} would fit" if found else "no rank or number of coils would fit"
    raise UserError(
        f"the reconstruction needs {size / GIB:.3g} GiB more memory ({stage}; kernels alone "
        f"{problem.kernels / GIB:.3g} GiB), there are {free / GIB:.3g} GiB: {advice}"
    )
