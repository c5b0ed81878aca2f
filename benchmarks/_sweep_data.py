"""The fingerprints of `basis.py --only sweep-mrf`: simulated once, read by every method, and judged here.

The file is one array (N, 3, BATCH, T) of float64: batches of fingerprints in random order, each batch
its signals, then its orthogonalised unit-norm derivatives to T1 and to T2. Any number of whole
batches from the start is a fair sample of the tissues, and D for equal weights, as one matrix
without a copy. FISP is imaginary throughout: the imaginary parts are stored, for everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

BATCH = 1875  # 150 of them are all of Table I
RANK = 10
WEIGHTS = tuple(i / 10 for i in range(10))
# what peers are run for: there D is the stored matrix, up to a factor, and needs no copy
PEER_WEIGHT = 0.5


def simulate(path: Path, n_atoms: int | None) -> int:
    """Write the fingerprints of Table I, or of about so many of its atoms; return the number of batches."""
    from crbsvd_plugin import crb, iter_batches, models
    from crbsvd_plugin.presets import PRESETS

    model = models.build({"name": "mrf-fisp", "slice_positions": 1})
    prior = PRESETS["mao-mrf-table1"]
    if n_atoms is not None:
        prior = prior.thinned(n_atoms, model.parameters)
    n_found = prior.size(model.parameters)
    n_batches = n_found // BATCH
    place = np.random.default_rng(0).permutation(n_found)
    out = np.lib.format.open_memmap(path, "w+", np.float64, (n_batches, 3, BATCH, model.n_frames))
    done = 0
    for batch in iter_batches(model, prior):
        unit = crb.orthogonalise(batch.signal, batch.jac).unit
        if batch.signal.real.any() or unit.real.any():
            raise RuntimeError("a FISP signal has a real part: store complex numbers")
        here = place[done : done + len(unit)]
        done += len(unit)
        kept = here < n_batches * BATCH
        for i, rows in enumerate((batch.signal, *np.moveaxis(unit, 1, 0))):
            out[here[kept] // BATCH, i, here[kept] % BATCH] = rows.imag[kept]
    out.flush()  # or the disk would still be busy while the methods run
    return n_batches


def batches(path: Path, n_batches: int | None = None) -> Iterator[np.ndarray]:
    """Map one batch (3, BATCH, T) after the other; only what is mapped counts as memory of the process."""
    whole = np.load(path, mmap_mode="r")
    n_bytes = whole[0].nbytes
    for i in range(len(whole) if n_batches is None else n_batches):
        mapped = np.memmap(path, whole.dtype, "r", offset=whole.offset + i * n_bytes, shape=whole.shape[1:])
        yield np.asarray(mapped)


def warm(path: Path) -> None:
    """Read the file once, so that no method waits for the disk."""
    buffer = bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


class Truth:
    """Upper triangular R with R^T R = D D^T of signals and of each derivative, by QR without squaring.

    The singular vectors of the small stacked matrix are those of the dense SVD, to its accuracy.
    """

    def __init__(self, factors: Sequence[np.ndarray]):
        self._factors = factors
        self._best: dict[float, np.ndarray] = {}  # losses of the reference by weight

    def basis(self, weight: float) -> np.ndarray:
        """Return the reference phi (T, RANK) of a CRB weight."""
        signal, *derivatives = self._factors
        stacked = np.concatenate([(1 - weight) * signal, *(weight * factor for factor in derivatives)])
        return np.linalg.svd(stacked, full_matrices=False)[2][:RANK].T

    def losses(self, phi: np.ndarray) -> np.ndarray:
        """Return the mean CRB losses (2, K) of T1 and T2 in the first 1..K columns of phi."""
        kept = [
            np.cumsum(np.sum(np.abs(factor @ phi) ** 2, axis=0)) / np.sum(factor**2) for factor in self._factors[1:]
        ]
        return 1 - np.array(kept)

    def error(self, found: dict[float, np.ndarray]) -> float:
        """Return the largest deviation of the CRB loss, over weights and ranks, of bases from the reference."""
        for weight in found.keys() - self._best.keys():
            self._best[weight] = self.losses(self.basis(weight))
        return max(float(np.abs(self.losses(phi) - self._best[weight]).max()) for weight, phi in found.items())


def truths(path: Path, counts: Collection[int]) -> dict[int, Truth]:
    """Return the references for the first so many batches, from one pass."""
    found: dict[int, Truth] = {}
    factors: list[np.ndarray] = []
    for i, batch in enumerate(batches(path, max(counts)), start=1):
        stacks = [np.concatenate([r, rows]) for r, rows in zip(factors, batch, strict=True)] if factors else batch
        factors = [np.linalg.qr(stack, mode="r") for stack in stacks]
        if i in counts:
            found[i] = Truth(factors)
    return found
