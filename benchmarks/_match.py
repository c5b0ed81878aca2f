"""Matching: ours against brute force by BLAS.

``match``: the best of all 281,250 atoms of Table I of the paper (MRF-FISP, K = 5) for each of 65,536 voxels of the
brain phantom at an SNR of 50: those of a 256 x 256 slice that are not background, again with other noise until there
are as many. Further rows: ``match-slice``, one slice without its background, which nobody looks at; ``match-noise``,
all 65,536 voxels of that slice, most of which are pure noise; ``match-complex``, as ``match`` with every atom turned
by a phase of its own in a complex basis; ``match-bssfp``, as many voxels of phase-cycled bSSFP, complex, with three
parameters; ``match-sphere``, the worst there is: an eighth as many voxels and 281,250 atoms anywhere in 10 dimensions.

Ours is `match` from images and dictionary to maps, its index made anew every time. The peers are brute force in blocks
by BLAS, each thread with blocks that stay in its cache, and its rate of multiplication is printed beside the machine's:
two real products, one complex one, or one real product of c c^H with d d^H. The fastest is the peer of the row. All
methods fit the same voxels. Memory is that of the process, data included. Errors count mismatches with brute force in
double precision: another atom where the two best scores differ by more than 1e-6 of ||c||^2, else a score that is lower
by more than the rounding of double precision, in which ours chooses and peers of single precision do not.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import _match_data
import harness
import numpy as np

from crbsvd_plugin import threads
from crbsvd_plugin.dictionary import Dictionary

VOXELS = _match_data.MATRIX**2
_PAIRS = 3
_CLEAR = 1e-6
_ROUNDING = 1e-14
_PEERS = {"products": "two real products", "quadratic": "one product with d d^H", "complex64": "one complex product"}


def match(n_voxels: int) -> list[harness.Result]:
    """All rows, with so many voxels."""
    phi, known = _match_data.fisp()
    slice_ = _match_data.brain(phi)
    mask = _match_data.inside(slice_)
    print(f"match: {1 - mask.mean():.0%} of the slice are background", flush=True)
    n_slices = -(-n_voxels // np.count_nonzero(mask))
    brain = np.concatenate([_match_data.brain(phi, seed)[:, mask] for seed in range(n_slices)], axis=1)[:, :n_voxels]
    problems = {
        "match": (known, brain),
        "match-slice": (known, slice_[:, mask]),
        "match-noise": (known, slice_.reshape(len(slice_), -1)),
        "match-complex": _match_data.turned(known, brain),
        "match-bssfp": _match_data.bssfp(n_voxels),
        "match-sphere": _match_data.sphere(len(known.coeff), max(1, n_voxels // 8)),
    }
    return [_row(name, *problem) for name, problem in problems.items()]


def _row(case: str, known: Dictionary, coeff: np.ndarray) -> harness.Result:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        voxels = np.ascontiguousarray(coeff.T)
        np.savez(folder / "problem.npz", atoms=known.coeff, norm=known.norm, voxels=voxels)
        best, two, _ = _run(folder, "truth")
        errors: dict[str, int] = {}
        facts: dict[str, dict[str, float]] = {}

        def once(method: str) -> harness.Usage:
            found, _, said = _run(folder, method)
            errors[method] = _mismatches(voxels, known.coeff, found, best, two)
            facts[method] = said
            return harness.Usage(said["seconds"], said["megabytes"])

        times = {peer: once(peer).seconds for peer in _PEERS}
        peer = min(times, key=lambda name: times[name])
        ours, theirs = harness.interleaved(lambda: once("ours"), lambda: once(peer), pairs=_PAIRS)
    rates = ", ".join(f"{_PEERS[key]} {seconds:.2f} s ({_share(facts[key])})" for key, seconds in times.items())
    print(f"{case}: {len(voxels)} voxels, {len(known.coeff)} atoms; {rates}", flush=True)
    print(
        f"{case}: ours {ours.seconds * 1e3:.0f} ms, of which the index {facts['ours']['index_s'] * 1e3:.0f} ms; "
        f"{theirs.seconds / ours.seconds:.0f} times faster than the fastest, "
        f"{times['products'] / ours.seconds:.0f} than two real products",
        flush=True,
    )
    return harness.Result(
        case, ours.seconds, f"brute force, blocked BLAS, {_PEERS[peer]} (numpy, {threads.count()} threads)",
        theirs.seconds, theirs.seconds / ours.seconds, ours.megabytes, theirs.megabytes, errors["ours"], errors[peer],
    )  # fmt: skip


def _share(facts: dict[str, float]) -> str:
    return f"{facts['gemm'] / 1e9:.0f} of {facts['machine'] / 1e9:.0f} Gflop/s a thread"


def _run(folder: Path, method: str) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    script = Path(__file__).with_name("_match_methods.py")
    command = [sys.executable, str(script), method, str(folder / "problem.npz"), str(folder / "found.npz")]
    n_threads = str(threads.count())
    usage = harness.run(command, environment={"OPENBLAS_NUM_THREADS": n_threads, "NUMBA_NUM_THREADS": n_threads})
    found = np.load(folder / "found.npz")
    return found["best"], found["two"], json.loads(usage.output.splitlines()[-1]) | {"megabytes": usage.megabytes}


def _mismatches(voxels: np.ndarray, atoms: np.ndarray, found: np.ndarray, best: np.ndarray, two: np.ndarray) -> int:
    """Count voxels whose atom is not that of brute force, or, where two are as good, not as good."""
    c, d = voxels.astype(complex), atoms[found].astype(complex)
    score = np.abs(np.sum(d.conj() * c, axis=1)) ** 2 / np.sum(np.abs(c) ** 2, axis=1)
    clear = two[:, 1] - two[:, 0] > _CLEAR
    return int(np.count_nonzero(np.where(clear, found != best, score < two[:, 1] - _ROUNDING)))
