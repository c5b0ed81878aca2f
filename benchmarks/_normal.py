"""`recon.py --only normal-vs-fft` as a process: one normal operator and its Fourier transforms alone, in turn.

For C coils and K coefficients the normal operator has K C forward and as many inverse transforms of the doubled
grid, pruned: zeros are not transformed, nor what is cut away. The peer is these transforms and nothing else, with
the same library, dtype and threads, in buffers made before, coils and coefficients spread over the threads, pieces
of the last axes as small. The last line printed is JSON: medians of pairs, and slopes of the cost.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import fft

from crbsvd_plugin import SubspaceOperator, threads

# name: image size, coils, coefficients; the first one is varied in one number at a time
_FIRST = ((256, 256), 8, 5)
_CASES = [
    _FIRST, ((256, 256), 8, 2), ((256, 256), 8, 10), ((256, 256), 8, 15), ((256, 256), 2, 5), ((256, 256), 16, 5),
    ((128, 128), 8, 5), ((384, 384), 8, 5), ((64, 64, 64), 8, 4),
]  # fmt: skip
_ROWS, _PAIRS = 16, 5


class Transforms:
    """K C pruned transforms there and back."""

    def __init__(self, shape: tuple[int, ...], n_coils: int, rank: int):
        self.image = np.ones(shape, np.complex64)
        self.n = n_coils * rank
        first, rest = shape[0], shape[1:]
        n_threads = threads.count()
        self.lines = [np.empty((2 * first, *rest), np.complex64) for _ in range(n_threads)]
        rows = max(1, _ROWS // int(np.prod([2 * n for n in rest[:-1]])))
        self.pieces = [np.empty((rows, *(2 * n for n in rest)), np.complex64) for _ in range(n_threads)]

    def run(self, pool: ThreadPoolExecutor) -> None:
        """Do all of them."""
        n_threads = threads.count()
        list(pool.map(lambda i: [self._one(i) for _ in range(i, self.n, n_threads)], range(n_threads)))

    def _one(self, thread: int) -> None:
        lines, piece = self.lines[thread], self.pieces[thread]
        first, rest = len(lines) // 2, lines.shape[1:]
        lines[:first] = self.image
        lines[first:] = 0
        fft.fft(lines, axis=0, overwrite_x=True)
        kept = [tuple(slice(n) for n in rest[:i]) for i in range(len(rest) + 1)]
        *views, inside = (piece[(slice(None), *axes)] for axes in kept)
        for start in range(0, len(lines), len(piece)):
            piece[...] = 0
            inside[...] = lines[start : start + len(piece)]
            for axis in reversed(range(len(rest))):
                fft.fft(views[axis], axis=axis - len(rest), overwrite_x=True)
            for axis in range(len(rest)):
                fft.ifft(views[axis], axis=axis - len(rest), overwrite_x=True)
            lines[start : start + len(piece)] = inside
        fft.ifft(lines, axis=0, overwrite_x=True)


def measure(shape: tuple[int, ...], n_coils: int, rank: int) -> dict[str, object]:
    """Return medians of both, and the error of the normal operator against adjoint(forward)."""
    rng = np.random.default_rng(0)
    n_readouts, n_samples = 400, 2 * shape[0]
    direction = rng.standard_normal((n_readouts, 1, len(shape)))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    traj = direction * ((np.arange(n_samples) - shape[0]) / 2)[:, None]
    phi = np.linalg.qr(rng.standard_normal((100, rank)))[0]
    sens = (rng.standard_normal((n_coils, *shape)) + 1j * rng.standard_normal((n_coils, *shape))).astype(np.complex64)
    operator = SubspaceOperator(traj, frame=np.arange(n_readouts) % 100, phi=phi, sens=sens)
    coeff = rng.standard_normal(operator.coeff_shape).astype(np.complex64)
    explicit = operator.adjoint(operator.forward(coeff))
    found = operator.normal(coeff)
    transforms = Transforms(shape, n_coils, rank)
    pairs = []
    with ThreadPoolExecutor(threads.count()) as pool:
        transforms.run(pool)
        for _ in range(_PAIRS):
            start = time.perf_counter()
            operator.normal(coeff)
            between = time.perf_counter()
            transforms.run(pool)
            pairs.append((between - start, time.perf_counter() - between))
    ours, peer = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "case": f"{' x '.join(map(str, shape))}, C = {n_coils}, K = {rank}",
        "ours_s": ours,
        "peer_s": peer,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "error": float(np.linalg.norm(found - explicit) / np.linalg.norm(explicit)),
    }


def slopes(seconds: dict[tuple[tuple[int, ...], int, int], float]) -> list[str]:
    """Return by which power the cost grows with K, C and the number of voxels, the others as in the first case."""
    found = []
    for name, at in (("K", 2), ("C", 1), ("N", 0)):
        others = [i for i in range(3) if i != at]
        same = sorted(case for case in seconds if all(case[i] == _FIRST[i] for i in others) and len(case[0]) == 2)
        x = np.log([np.prod(case[at]) for case in same])
        slope = np.polyfit(x, np.log([seconds[case] for case in same]), 1)[0]
        found.append(f"cost ~ {name}^{slope:.2f} over {name} = {', '.join(str(int(np.prod(c[at]))) for c in same)}")
    return found


def main() -> None:
    """Measure all cases."""
    rows = {case: measure(*case) for case in _CASES}
    seconds = {case: float(str(row["ours_s"])) for case, row in rows.items()}
    print(json.dumps({"cases": list(rows.values()), "slopes": slopes(seconds)}))


if __name__ == "__main__":
    main()
