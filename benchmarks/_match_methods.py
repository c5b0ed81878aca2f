"""One method of `fit.py --only match` as a process: METHOD PROBLEM OUTPUT, with as many threads as cores.

PROBLEM holds atoms (B, K), their theta and norms, and voxels (V, K), all of which are fitted. The numbers of the best
atoms go to OUTPUT; one line of JSON has the seconds, without imports, compilation and reading.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from crbsvd_plugin import threads

# of voxels and atoms in work: the products stay in the cache of a core
_VOXELS, _ATOMS = 128, 2048
_REPEATS = 5
_LARGE = 1024

Found = tuple[np.ndarray, dict[str, Any]]


def ours(voxels: np.ndarray, problem: dict[str, np.ndarray]) -> Found:
    """`match`, from images and dictionary to maps; the median of a few, each of which makes its index anew."""
    from crbsvd_plugin import Parameter
    from crbsvd_plugin.dictionary import Dictionary
    from crbsvd_plugin.fit.index import build
    from crbsvd_plugin.fit.matching import match

    # theta is the number of the atom, which the maps return
    number = np.arange(len(problem["atoms"]), dtype=np.float64)[:, None]
    edge = np.zeros(len(number), bool)
    known = Dictionary((Parameter("number", "", 0, 1e9),), number, problem["atoms"], problem["norm"], edge, "")
    images = np.ascontiguousarray(voxels.T)
    match(images[:, :100], known, mask_level=0)  # compiles, or loads what is compiled
    seconds, index_s = [], []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        maps = match(images, known, mask_level=0)
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        build(known.coeff)
        index_s.append(time.perf_counter() - start)
    facts = {"seconds": statistics.median(seconds), "index_s": statistics.median(index_s)}
    # single precision holds whole numbers to 2^24
    return maps.theta[0].astype(np.int64), facts


def products(voxels: np.ndarray, problem: dict[str, np.ndarray]) -> Found:
    """Two real products: of atoms with real and imaginary parts of voxels, or of both parts of complex atoms."""
    atoms, parts = _real(problem["atoms"], voxels)

    def scores(rows: slice, block: np.ndarray, out: list[np.ndarray]) -> np.ndarray:
        for part, product in zip(parts, out, strict=True):
            np.matmul(part[rows], block, out=product)
            np.multiply(product, product, out=product)
        return np.add(*out, out=out[0])

    return _blocked(len(voxels), np.ascontiguousarray(atoms.T), scores, n_products=2)


def quadratic(voxels: np.ndarray, problem: dict[str, np.ndarray]) -> Found:
    """One real product that is the score: of c c^H with d d^H, K (K + 1) / 2 numbers if atoms are real, else K^2."""
    atoms = problem["atoms"]
    i, j = np.triu_indices(atoms.shape[1])
    start = time.perf_counter()
    both = []
    for lines, factor in ((atoms, 1.0), (voxels, np.where(i == j, 1, 2))):
        pairs = lines[:, i] * lines[:, j].conj() * factor
        off = [] if _is_real(atoms) else [pairs.imag[:, i != j]]
        both.append(np.concatenate([pairs.real, *off], axis=1).astype(np.float32))
    features, strengths = both

    def scores(rows: slice, block: np.ndarray, out: list[np.ndarray]) -> np.ndarray:
        return np.matmul(strengths[rows], block, out=out[0])

    made = time.perf_counter() - start
    best, facts = _blocked(len(voxels), np.ascontiguousarray(features.T), scores, n_products=1)
    return best, facts | {"seconds": facts["seconds"] + made}


def complex64(voxels: np.ndarray, problem: dict[str, np.ndarray]) -> Found:
    """One complex product."""

    def scores(rows: slice, block: np.ndarray, out: list[np.ndarray]) -> np.ndarray:
        np.matmul(voxels[rows], block, out=out[0])
        np.square(out[0].real, out=out[0].real)
        np.square(out[0].imag, out=out[0].imag)
        return out[0].real + out[0].imag

    return _blocked(len(voxels), np.ascontiguousarray(problem["atoms"].conj().T), scores, n_products=1)


def truth(voxels: np.ndarray, problem: dict[str, np.ndarray]) -> Found:
    """Find the best atom in double precision, and the two best scores of every voxel over its squared norm."""
    atoms, parts = (x for x in _real(problem["atoms"].astype(complex), voxels.astype(complex)))
    size = np.sum(np.abs(voxels.astype(complex)) ** 2, axis=1)
    two = np.zeros((len(voxels), 2))

    def scores(rows: slice, block: np.ndarray, out: list[np.ndarray]) -> np.ndarray:
        for part, product in zip(parts, out, strict=True):
            np.matmul(part[rows], block, out=product)
            np.multiply(product, product, out=product)
        total = np.add(*out, out=out[0])
        every, at = np.arange(len(total)), total.argmax(axis=1)
        largest = total[every, at]
        total[every, at] = -1
        second = total.max(axis=1)
        total[every, at] = largest
        two[rows] = np.sort(np.column_stack([two[rows], second, largest]), axis=1)[:, -2:]
        return total

    best, _ = _blocked(len(voxels), np.ascontiguousarray(atoms.T), scores, n_products=2)
    return best, {"two": (two / size[:, None]).tolist()}


def _is_real(atoms: np.ndarray) -> bool:
    return not (atoms.real.any() and atoms.imag.any())


def _real(atoms: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return real atoms (B, n) and two real parts (V, n) of voxels whose products are those of |d^H c|."""
    if _is_real(atoms):
        parts = [voxels.real, voxels.imag]
        lines = atoms.imag if atoms.imag.any() else atoms.real
    else:
        parts = [np.concatenate(p, axis=1) for p in ((voxels.real, voxels.imag), (voxels.imag, -voxels.real))]
        lines = np.concatenate([atoms.real, atoms.imag], axis=1)
    return lines, [np.ascontiguousarray(part) for part in parts]


def _blocked(n_voxels: int, atoms: np.ndarray, scores: Callable[..., np.ndarray], *, n_products: int) -> Found:
    """Return the best atoms from the scores of blocks; a thread for every core, each with a BLAS of one thread."""
    start = time.perf_counter()
    blocks = [np.ascontiguousarray(atoms[:, s : s + _ATOMS]) for s in range(0, atoms.shape[1], _ATOMS)]

    def one(first: int) -> np.ndarray:
        rows = slice(first, min(n_voxels, first + _VOXELS))
        count = rows.stop - rows.start
        buffers = {
            width: [np.empty((count, width), atoms.dtype) for _ in range(n_products)]
            for width in {block.shape[1] for block in blocks}
        }
        every, best, highest = np.arange(count), np.zeros(count, np.int64), np.full(count, -1.0)
        for number, block in enumerate(blocks):
            found = scores(rows, block, buffers[block.shape[1]])
            at = found.argmax(axis=1)
            value = found[every, at]
            better = value > highest
            best[better], highest[better] = at[better] + number * _ATOMS, value[better]
        return best

    with threadpool_limits(1), ThreadPoolExecutor(threads.count()) as pool:
        best = np.concatenate(list(pool.map(one, range(0, n_voxels, _VOXELS))))
    seconds = time.perf_counter() - start
    flops = (8 if np.iscomplexobj(atoms) else 2) * _VOXELS * _ATOMS * len(atoms)
    rng = np.random.default_rng(0)
    few = rng.standard_normal((_VOXELS, len(atoms))).astype(atoms.dtype)
    large = rng.standard_normal((_LARGE, _LARGE)).astype(np.float32)
    rates = [
        _rate(lambda out: np.matmul(few, blocks[0], out=out), np.empty((_VOXELS, blocks[0].shape[1]), atoms.dtype))
    ]
    rates.append(_rate(lambda out: np.matmul(large, large, out=out), np.empty_like(large)))
    return best, {"seconds": seconds, "gemm": rates[0] * flops, "machine": rates[1] * 2 * _LARGE**3}


def _rate(product: Callable[[np.ndarray], object], out: np.ndarray) -> float:
    """Return products a second of one thread, the best of many."""
    with threadpool_limits(1):
        seconds = []
        for _ in range(30):
            start = time.perf_counter()
            product(out)
            seconds.append(time.perf_counter() - start)
    return 1 / min(seconds)


METHODS = {function.__name__: function for function in (ours, products, quadratic, complex64, truth)}


def main(method: str, path: str, output: str) -> None:
    """Run a method and report."""
    problem = dict(np.load(path))
    best, facts = METHODS[method](problem["voxels"], problem)
    np.savez(output, best=best, two=facts.pop("two", []))
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
