"""One method of `basis.py --only sweep-mrf` as a process: METHOD FINGERPRINTS OUTPUT [N_BATCHES].

It prints one line of JSON: the seconds from before the first byte of the input is read until the last
basis and loss, imports excluded, and how many bytes of the input were mapped in when memory peaked.
The bases go to OUTPUT, (weights, T, RANK).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _sweep_data import RANK, WEIGHTS, batches

# relative to the energy of each block; `sweep-mrf` reports what it costs in accuracy
TOLERANCE = 1e-10

Found = tuple[list[np.ndarray], int, dict[str, Any]]


def ours(path: Path, n_batches: int) -> Found:
    """Fold once; ten weights, and the losses of every rank."""
    from crbsvd_plugin import BasisAccumulator, Parameter

    parameters = [Parameter(name, "s", 0, 10) for name in ("T1", "T2")]
    accumulator: BasisAccumulator | None = None
    start = time.perf_counter()
    for batch in batches(path, n_batches):
        if accumulator is None:
            accumulator = BasisAccumulator(parameters, batch.shape[2], tolerance=TOLERANCE)
        accumulator.add("tissue", list(batch))
    assert accumulator is not None
    folded = time.perf_counter() - start
    bases = [accumulator.finish(RANK, weight) for weight in WEIGHTS]
    for basis in bases:
        for rank in range(1, RANK + 1):
            accumulator.losses(basis.phi[:, :rank])
    facts = {
        "tolerance": TOLERANCE,
        "dimension": accumulator.subspace.dimension,
        "outside": max(accumulator.outside.values()),
        "fold_s": folded,
    }
    return [basis.phi for basis in bases], 0, facts


def two_grams(path: Path, n_batches: int) -> Found:
    """S S^H and Q Q^H by BLAS (syrk), then a dense eigenproblem for every weight, and the losses."""
    n_frames = next(batches(path)).shape[2]
    signals, derivatives = np.zeros((n_frames, n_frames)), np.zeros((n_frames, n_frames))
    start = time.perf_counter()
    for batch in batches(path, n_batches):
        unit = batch[1:].reshape(-1, batch.shape[2])
        signals += batch[0].T @ batch[0]
        derivatives += unit.T @ unit
    folded = time.perf_counter() - start
    bases = []
    for weight in WEIGHTS:
        vectors = np.linalg.eigh((1 - weight) ** 2 * signals + weight**2 * derivatives)[1]
        bases.append(vectors[:, : -RANK - 1 : -1])
        for gram in (signals, derivatives):
            _ = 1 - np.cumsum(np.sum(bases[-1] * (gram @ bases[-1]), axis=0)) / np.trace(gram)
    return bases, 0, {"fold_s": folded}


def dense(path: Path, n_batches: int) -> Found:
    """LAPACK's dense SVD as numpy calls it, of the tall matrix, for which it is faster than for the wide one."""
    rows = _rows(path, n_batches)
    phi = np.linalg.svd(rows, full_matrices=False)[2][:RANK].T
    return [phi], rows.nbytes, {}


def randomized(path: Path, n_batches: int, n_iter: str = "auto") -> Found:
    """scikit-learn's randomized_svd with its defaults, or more iterations."""
    from sklearn.utils.extmath import randomized_svd

    rows = _rows(path, n_batches)
    wanted = n_iter if n_iter == "auto" else int(n_iter)
    phi = randomized_svd(rows, RANK, n_iter=wanted, random_state=0)[2].T
    return [phi], rows.nbytes, {}


def incremental(path: Path, n_batches: int) -> Found:
    """scikit-learn's IncrementalPCA, batch by batch. It subtracts the mean: that cannot be switched off."""
    from sklearn.decomposition import IncrementalPCA

    model = IncrementalPCA(RANK)
    for batch in batches(path, n_batches):
        model.partial_fit(batch.reshape(-1, batch.shape[2]))
    return [model.components_.T], 0, {}


def _rows(path: Path, n_batches: int) -> np.ndarray:
    whole = np.load(path, mmap_mode="r")[:n_batches]
    return np.asarray(whole.reshape(-1, whole.shape[-1]))


METHODS: dict[str, Callable[..., Found]] = {
    function.__name__: function for function in (ours, two_grams, dense, randomized, incremental)
}


def main(method: str, path: str, output: str, n_batches: str, *more: str) -> None:
    """Run a method and report."""
    if method in ("randomized", "incremental"):
        import sklearn.decomposition
        import sklearn.utils.extmath  # noqa: F401
    elif method == "ours":
        import crbsvd_plugin

        crbsvd_plugin.BasisAccumulator  # noqa: B018
    start = time.perf_counter()
    bases, n_mapped, facts = METHODS[method](Path(path), int(n_batches), *more)
    seconds = time.perf_counter() - start
    np.save(output, np.array(bases))
    print(json.dumps({"seconds": seconds, "mapped_mb": n_mapped / 2**20, **facts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
