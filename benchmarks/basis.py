"""Make bases: ours against other ways to the same singular vectors.

``sweep-mrf``: bases of rank 10 for ten CRB weights, and the losses of ranks 1 to 10, from all of
Table I of the paper (MRF-FISP, T = 1040; signals and orthogonalised derivatives to T1 and T2:
1040 x 843,750 of float64, 7 GB). They are simulated once, which is not counted, to a file that all
methods map into their memory. Each method is a process of its own, with as many threads as cores, and
counts the seconds from its first look at the file to its last result, imports excluded. Ours folds once,
with the tolerance printed, and so do the two Gram matrices; whoever makes a basis for one weight is
run for 0.5 (where no weighted copy of the matrix is needed) and counted ten times. What does not fit
into memory or patience runs on the columns named and is counted in proportion. Memory is the peak
without the input: methods that work by batches map one at a time (45 MB, included); for the others
the input is subtracted, all of which is mapped when memory peaks.

``fold-qmt``: T = 6852 with conjugates, batches like those of a qMT dictionary (`_qmt_fold`); the time
for 400,000 fingerprints of 7 columns is extrapolated from the measured rate, for ours and for the peer,
a plain Gram matrix of every block. Memory of ours is that of a process that also makes the batches.

Errors are the largest deviation of the CRB loss, over ranks, weights and parameters, from a dense
SVD in float64: of R from Householder QR of the same columns (``sweep-mrf``), of 200 fingerprints
(``fold-qmt``).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import _sweep_data
import harness
import numpy as np
from _sweep_data import BATCH, PEER_WEIGHT, WEIGHTS

from crbsvd_plugin import bart, threads

_N_WEIGHTS = len(WEIGHTS)
_PAIRS = 3
_ENOUGH = 1e-6
# `cgemv` of OpenBLAS 0.3.21 (Debian 12) reads beyond the end of V, which crashes BART unless that file fills pages of
# 2 MB: so 16384 columns, one of which is zero
_BART_COLUMNS = 16384
_QMT_FINGERPRINTS, _QMT_CLASSES, _QMT_BLOCKS = 400_000, 3, 7


@dataclass(frozen=True)
class Run:
    """What one method took, without its input, and how far from the truth its bases are."""

    usage: harness.Usage
    error: float
    facts: dict[str, float]


class Sweep:
    """The methods on one file of fingerprints."""

    def __init__(self, folder: Path, n_atoms: int | None):
        self.folder = folder
        self.path = folder / "fingerprints.npy"
        self.n = _sweep_data.simulate(self.path, n_atoms)
        self.n_dense = _that_fit(self.path.stat().st_size, self.n)
        self.truths = _sweep_data.truths(self.path, {self.n, self.n_dense})

    def run(self, method: str, *more: str, n_batches: int | None = None) -> Run:
        """Run one of `_sweep_methods`."""
        n = n_batches or self.n
        _sweep_data.warm(self.path)
        output = self.folder / "bases.npy"
        script = Path(__file__).with_name("_sweep_methods.py")
        command = [sys.executable, str(script), method, str(self.path), str(output), str(n), *more]
        whole = harness.run(command, environment=_environment())
        facts = json.loads(whole.output.splitlines()[-1])
        bases = np.load(output)
        weights = WEIGHTS if len(bases) > 1 else (PEER_WEIGHT,)
        error = self.truths[n].error(dict(zip(weights, bases, strict=True)))
        return Run(harness.Usage(facts["seconds"], whole.megabytes - facts["mapped_mb"]), error, facts)

    def bart(self) -> Run:
        """Run `bart svd -e`, the whole process, on the first few fingerprints in its complex64."""
        some = np.load(self.path, mmap_mode="r")[: -(-_BART_COLUMNS // (3 * BATCH))]
        blocks = [some[:, i].reshape(-1, some.shape[-1])[: _BART_COLUMNS // 3] for i in range(3)]
        columns = np.zeros((some.shape[-1], _BART_COLUMNS), np.complex64)
        columns[:, : sum(map(len, blocks))] = np.concatenate(blocks).T
        bart.write_cfl(self.folder / "input", columns)
        names = [str(self.folder / name) for name in ("input", "u", "s", "vh")]
        whole = harness.run([bart.find(), "svd", "-e", *names], environment=_environment())
        phi = bart.read_cfl(self.folder / "u").reshape(len(columns), -1)[:, : _sweep_data.RANK]
        truth = _sweep_data.Truth([np.linalg.qr(block, mode="r") for block in blocks])
        return Run(
            harness.Usage(whole.seconds, whole.megabytes - columns.nbytes / 2**20), truth.error({PEER_WEIGHT: phi}), {}
        )


def sweep_mrf(n_atoms: int | None) -> list[harness.Result]:
    """Ten weights on 1040 x 843,750, or on the fingerprints of about so many atoms."""
    with tempfile.TemporaryDirectory() as name:
        sweep = Sweep(Path(name), n_atoms)
        n_columns = 3 * BATCH * sweep.n
        print(f"sweep-mrf: {n_columns} columns", flush=True)
        kept: dict[str, Run] = {}

        def once(method: str) -> harness.Usage:
            kept[method] = sweep.run(method)
            return kept[method].usage

        ours, grams = harness.interleaved(lambda: once("ours"), lambda: once("two_grams"), pairs=_PAIRS)
        facts = kept["ours"].facts
        print(
            f"sweep-mrf: tolerance {facts['tolerance']:g}, r = {facts['dimension']}, largest tail "
            f"{facts['outside']:.1e}; fold {facts['fold_s'] / n_columns * 1e6:.1f} us a column, "
            f"two Grams {kept['two_grams'].facts['fold_s'] / n_columns * 1e6:.1f}",
            flush=True,
        )
        peers = [("two Grams S S^H, Q Q^H (numpy, syrk) and ten eigh", 1.0, grams, kept["two_grams"].error)]

        def count(peer: str, found: Run, n_run: int) -> None:
            factor = _N_WEIGHTS * n_columns / n_run
            part = "" if n_run == n_columns else f" on {n_run} columns"
            peers.append((f"{peer}{part}, x {factor:.4g}", factor, found.usage, found.error))
            print(f"sweep-mrf: {peer}{part}: {found.usage.seconds:.1f} s", flush=True)

        count("numpy.linalg.svd", sweep.run("dense", n_batches=sweep.n_dense), 3 * BATCH * sweep.n_dense)
        count("sklearn randomized_svd, defaults", sweep.run("randomized"), n_columns)
        for n_iter in range(8):
            found = sweep.run("randomized", str(n_iter))
            if found.error < _ENOUGH:
                break
        count(f"sklearn randomized_svd, n_iter={n_iter}, the fewest within {_ENOUGH:g}", found, n_columns)
        count("sklearn IncrementalPCA, which subtracts the mean", sweep.run("incremental"), n_columns)
        if n_columns >= _BART_COLUMNS:
            count(f"bart svd -e {bart.version()}, complex64", sweep.bart(), _BART_COLUMNS)
    return [
        harness.Result(
            "sweep-mrf", ours.seconds, f"{peer} ({threads.count()} threads)", factor * usage.seconds,
            factor * usage.seconds / ours.seconds, ours.megabytes, usage.megabytes, kept["ours"].error, error,
        )
        for peer, factor, usage, error in peers
    ]  # fmt: skip


def fold_qmt(seconds: float) -> harness.Result:
    """400,000 fingerprints of 7 columns with conjugates, T = 6852, extrapolated from so many seconds of folding."""
    script = Path(__file__).with_name("_qmt_fold.py")
    whole = harness.run([sys.executable, str(script), str(seconds)], environment=_environment())
    found = json.loads(whole.output.splitlines()[-1])
    n_frames = found["n_frames"]
    n_columns = 2 * _QMT_BLOCKS * _QMT_FINGERPRINTS  # real and imaginary parts
    ours = found["first_s"] + (_QMT_FINGERPRINTS - found["n_first"]) / found["rate"] + found["finish_s"]
    peer = n_columns * n_frames**2 / found["syrk_flops"]
    peer_mb = _QMT_CLASSES * _QMT_BLOCKS * n_frames**2 * 8 / 2**20
    gigaflops = {key: found[f"{key}_flops"] / 1e9 for key in ("fold", "gemm", "syrk")}
    print(
        f"fold-qmt: {found['n_folded']} fingerprints folded, {found['rate']:.0f} a second once the subspace is found "
        f"({found['first_s']:.1f} s for the first {found['n_first']}); r = {found['dimension']}, largest tail "
        f"{found['outside']:.1e}; {gigaflops['fold']:.0f} Gflop/s = {gigaflops['fold'] / gigaflops['gemm']:.0%} of the "
        f"machine's GEMM ({gigaflops['gemm']:.0f}), syrk {gigaflops['syrk']:.0f}",
        flush=True,
    )
    return harness.Result(
        "fold-qmt", ours,
        f"plain Gram matrices, T x T, of {_QMT_CLASSES * _QMT_BLOCKS} blocks (numpy, syrk; extrapolated, memory "
        f"computed; {threads.count()} threads)",
        peer, peer / ours, found["megabytes"], peer_mb, found["error"], found["error_gram"],
    )  # fmt: skip


def _environment() -> dict[str, str]:
    n_threads = str(threads.count())
    return {"OMP_NUM_THREADS": n_threads, "OPENBLAS_NUM_THREADS": n_threads}


def _that_fit(n_bytes: int, n_batches: int) -> int:
    """Return how many batches a dense SVD fits in: it holds the input, a copy, V and a copy of V."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    n = n_batches
    while n > 1 and 4 * n_bytes * n / n_batches > 0.8 * available:
        n //= 2
    return n


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--atoms", type=int, help="sweep-mrf: about so many fingerprints instead of 281,250, for a look"
    )
    parser.add_argument("--seconds", type=float, default=40, help="fold-qmt: how long to fold (default: 40)")
    options, _ = parser.parse_known_args()
    harness.main(
        "basis",
        {"sweep-mrf": lambda: sweep_mrf(options.atoms), "fold-qmt": lambda: fold_qmt(options.seconds)},
        options=parser,
    )
