"""`basis.py --only fold-qmt` as a process: SECONDS of folding, then what it is compared with; prints one line of JSON.

Batches like those of a qMT dictionary, made outside of the timed part: 600 cosines of increasing
frequency (DCT-II: real, orthonormal), singular values that fall exponentially from 1 to 1e-8 over
them, complex normal coefficients, seed 0. Each block (the signals and six derivatives) has the
directions in an order of its own, displaced by up to 60 places. Signals have norm^2 50, derivatives 1.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from crbsvd_plugin import BasisAccumulator, Parameter
from crbsvd_plugin.batches import batch_size

N_FRAMES = 6852
_N_DIRECTIONS = 600
_SMALLEST = 1e-8
_DISPLACEMENT = 60
_SIGNAL_ENERGY = 50.0
_PARAMETERS = tuple(Parameter(name, "", 0, 1) for name in ("m0s", "R1f", "R2f", "Rx", "R1s", "T2s"))
_WEIGHTS = (0.5, 0.0, 0.9)
_RANK = 15
_N_EXACT = 200
_N_SYRK = 5


class Fingerprints:
    """A seeded source of batches, [signals, derivatives...], each (B, T) complex."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        t, k = np.arange(N_FRAMES), np.arange(_N_DIRECTIONS)
        directions = np.cos(np.pi * (t[:, None] + 0.5) * k / N_FRAMES) * np.sqrt(2 / N_FRAMES)
        directions[:, 0] /= np.sqrt(2)
        falling = _SMALLEST ** (k / (_N_DIRECTIONS - 1))
        n_blocks = 1 + len(_PARAMETERS)
        orders = np.argsort(k + self._rng.uniform(0, _DISPLACEMENT, (n_blocks, _N_DIRECTIONS)), axis=1)
        self._mixers = [(directions[:, order] * falling).T.copy() for order in orders]

    def draw(self, size: int) -> list[np.ndarray]:
        """Return a batch of fingerprints."""
        blocks = []
        for i, mixer in enumerate(self._mixers):
            rows = np.empty((size, N_FRAMES), np.complex128)
            for half in (rows.real, rows.imag):
                half[:] = self._rng.standard_normal((size, _N_DIRECTIONS)) @ mixer
            rows *= (np.sqrt(_SIGNAL_ENERGY) if i == 0 else 1) / np.linalg.norm(rows, axis=1, keepdims=True)
            blocks.append(rows)
        return blocks


def accumulator() -> BasisAccumulator:
    """Return an empty accumulator with default tolerance."""
    return BasisAccumulator(_PARAMETERS, N_FRAMES, conjugate=True)


def fold(source: Fingerprints, seconds: float) -> dict[str, float]:
    """Fold for so long; after every batch measure the machine's GEMM rate on the same shape."""
    size = batch_size(N_FRAMES, len(_PARAMETERS))
    found = accumulator()
    first, n_first = 0.0, 0
    labels = itertools.cycle(("parenchyma", "csf", "fat"))
    steady: list[float] = []  # batches since the subspace last grew
    gemm: list[float] = []
    while sum(steady) < seconds or len(steady) < 3:
        blocks = source.draw(size)
        before = found.subspace.dimension
        steady.append(_timed(partial(found.add, next(labels), blocks)))
        if found.subspace.dimension > before:
            first, n_first = first + sum(steady), n_first + size * len(steady)
            steady.clear()
        rows, frame = blocks[0].real.copy(), found.subspace.frame
        gemm.append(2 * frame.size * size / _timed(partial(np.matmul, rows, frame)))
    finish = _timed(partial(found.finish, _RANK, 0.5))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # so far: what follows is not ours
    syrk = [N_FRAMES**2 * size / _timed(partial(np.matmul, rows.T, rows)) for _ in range(_N_SYRK)]
    r = found.subspace.dimension
    per_batch = statistics.median(steady)
    n_columns = 2 * (1 + len(_PARAMETERS)) * size
    return {
        "first_s": first,
        "n_frames": N_FRAMES,
        "n_first": n_first,
        "n_folded": n_first + size * len(steady),
        "rate": size / per_batch,
        "finish_s": finish,
        "dimension": r,
        "outside": max(found.outside.values()),
        "fold_flops": n_columns * (2 * N_FRAMES * found.subspace.frame.shape[1] + r**2) / per_batch,
        "gemm_flops": statistics.median(gemm),
        "syrk_flops": statistics.median(syrk),
        "megabytes": megabytes,
    }


def errors(source: Fingerprints) -> tuple[float, float]:
    """Return the largest deviation of a CRB loss, over weights and ranks, from dense SVD of 200 fingerprints.

    Of ours for all weights, and of an eigenproblem of plain Gram matrices, T x T, for the first.
    """
    from scipy.linalg import eigh

    blocks = source.draw(_N_EXACT)
    found = accumulator()
    found.add("tissue", blocks)
    # a conjugate pair, by half each, spans what the real and the imaginary part do, with the same energy
    rows = [np.concatenate([block.real, block.imag]) for block in blocks]
    ours, plain = [], []
    for weight in _WEIGHTS:
        factors = [1 - weight] + [weight] * len(_PARAMETERS)
        stacked = np.concatenate([f * part for f, part in zip(factors, rows, strict=True) if f])
        exact = _losses(rows, np.linalg.svd(stacked, full_matrices=False)[2][:_RANK].T)
        ours.append(np.abs(_losses(rows, found.finish(_RANK, weight).phi) - exact).max())
        if not plain:
            last = (N_FRAMES - _RANK, N_FRAMES - 1)
            vectors = eigh(stacked.T @ stacked, subset_by_index=last, overwrite_a=True)[1][:, ::-1]
            plain.append(np.abs(_losses(rows, vectors) - exact).max())
    return float(max(ours)), float(plain[0])


def _losses(rows: list[np.ndarray], phi: np.ndarray) -> np.ndarray:
    """Return the CRB losses (P, K) in the first 1..K columns."""
    return 1 - np.array([np.cumsum(np.sum((part @ phi) ** 2, axis=0)) / np.sum(part**2) for part in rows[1:]])


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(seconds: float) -> None:
    """Fold, then compare with the dense SVD."""
    source = Fingerprints()
    rates = fold(source, seconds)
    ours, plain = errors(source)
    print(json.dumps({**rates, "error": ours, "error_gram": plain}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
