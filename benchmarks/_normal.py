"""`recon.py --only normal-vs-fft` as a process: one normal operator and its Fourier transforms alone, in turn.

For C coils and K coefficients the normal operator has K C forward and as many inverse transforms of the doubled
grid, pruned: zeros are not transformed, nor what is cut away. The peer is these transforms and nothing else, with
the same library, dtype and threads, in buffers made before, coils and coefficients spread over the threads, pieces
of the last axes as small. Pairs of all cases are measured round by round, so that a machine which is busy for a while
slows them all, and slopes stay what they are. The last line printed is JSON: a list of cases, medians of pairs.
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

# image size, coils, coefficients; the first one is varied in one number at a time
_FIRST = ((256, 256), 8, 5)
_CASES = [
    _FIRST,
    *(((256, 256), 8, rank) for rank in (2, 3, 10, 15)),
    *(((256, 256), n_coils, 5) for n_coils in (2, 4, 16)),
    *(((n, n), 8, 5) for n in (128, 192, 384)),
    ((64, 64, 64), 8, 4),
]
_ROWS, _ROUNDS = 16, 11


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


class Case:
    """An operator of that size and its transforms, with their times."""

    def __init__(self, shape: tuple[int, ...], n_coils: int, rank: int):
        rng = np.random.default_rng(0)
        n_readouts, n_samples = 400, 2 * shape[0]
        direction = rng.standard_normal((n_readouts, 1, len(shape)))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        traj = direction * ((np.arange(n_samples) - shape[0]) / 2)[:, None]
        phi = np.linalg.qr(rng.standard_normal((100, rank)))[0]
        sens = rng.standard_normal((n_coils, *shape)) + 1j * rng.standard_normal((n_coils, *shape))
        sens = sens.astype(np.complex64)
        self.size = (shape, n_coils, rank)
        self.operator = SubspaceOperator(traj, frame=np.arange(n_readouts) % 100, phi=phi, sens=sens)
        self.coeff = rng.standard_normal(self.operator.coeff_shape).astype(np.complex64)
        self.transforms = Transforms(shape, n_coils, rank)
        self.pairs: list[tuple[float, float]] = []

    def error(self) -> float:
        """Return that of the normal operator against adjoint(forward), which also makes its kernels."""
        explicit = self.operator.adjoint(self.operator.forward(self.coeff))
        return float(np.linalg.norm(self.operator.normal(self.coeff) - explicit) / np.linalg.norm(explicit))

    def measure(self, pool: ThreadPoolExecutor) -> None:
        """Time both once, each after a run of its own: iterations find the kernels in the cache too."""
        self.operator.normal(self.coeff)
        start = time.perf_counter()
        self.operator.normal(self.coeff)
        ours = time.perf_counter() - start
        self.transforms.run(pool)
        start = time.perf_counter()
        self.transforms.run(pool)
        self.pairs.append((ours, time.perf_counter() - start))


def main() -> None:
    """Measure all cases."""
    cases = [Case(*size) for size in _CASES]
    errors = [case.error() for case in cases]
    with ThreadPoolExecutor(threads.count()) as pool:
        for _ in range(_ROUNDS):
            for case in cases:
                case.measure(pool)
    rows = []
    for case, error in zip(cases, errors, strict=True):
        shape, n_coils, rank = case.size
        ours, peer = (statistics.median(times) for times in zip(*case.pairs, strict=True))
        name = f"{' x '.join(map(str, shape))}, C = {n_coils}, K = {rank}"
        rows.append({"case": name, "size": case.size, "ours_s": ours, "peer_s": peer, "error": error})
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cases": rows, "megabytes": megabytes}))


if __name__ == "__main__":
    main()
