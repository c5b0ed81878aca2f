"""Magnetisation transfer: signals against matrix exponentials, and fits (``fit``, see `_qmt_fit`).

``tangents``: signals and derivatives by all eight parameters of qmt-hsfp for six cycles of 1142 pulses (T = 6852),
random white and grey matter. Both run in a process of their own with one thread, and count seconds per fingerprint
after a warm-up. The peer takes, for every distinct pulse and duration of precession, exp([[H, 0], [dH, H]] t) by
scaling and squaring of a [6/6] Pade approximant, of H and all eight dH together: blocks below the diagonal are
multiplied as such, and all pulses at once by BLAS. It gets R2sl for nothing, finds the steady state from the product
of the cycle, and carries state and tangents through it. Errors are the largest relative differences in time, over
signals and derivatives, from scipy's `expm` of the same matrices, one by one, over the first cycle.

The train has a third of its angles at zero and a half of its pulses at 100 or 500 us, as published ones have.
As a script with a METHOD: one method; prints seconds per fingerprint, and writes its first fingerprint to FILE.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import _qmt_fit
import harness
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

N_CYCLES, N_PULSES, TR = 6, 1142, 3.5e-3
KEPT = [0, 1, 2, 4]
_N_OURS, _N_PEER, _PAIRS = 64, 1, 3


def train() -> tuple[np.ndarray, np.ndarray]:
    """Return alpha and TRF (6, 1142): smooth lobes, cut at zero, and durations cut at both ends."""
    x = np.arange(N_PULSES) / N_PULSES
    k = np.arange(N_CYCLES)[:, None]
    alpha = np.maximum(0, (0.9 + 0.2 * k) * np.sin(2 * np.pi * (1 + k % 3) * x + k) + 0.4)
    trf = np.clip(300e-6 + 400e-6 * np.cos(2 * np.pi * (1 + k % 2) * x + 2 * k), 100e-6, 500e-6)
    trf = np.maximum(trf, alpha / (2 * np.pi * 1000))
    alpha[:, 0], trf[:, 0] = np.pi, 500e-6
    return alpha, trf


def tissues(n: int) -> np.ndarray:
    """Return theta (n, 8)."""
    rng = np.random.default_rng(0)
    low = [0.05, 0.3, 8, 8, 2, 8e-6, -800, 0.8]
    return rng.uniform(low, [0.25, 0.8, 20, 30, 5, 16e-6, 800, 1.2], (n, 8))


def exponentials(h: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return exp(H) (N, 6, 6) and its derivatives (N, 8, 6, 6) in the directions d."""
    squarings = max(0, int(np.ceil(np.log2(np.abs(h).sum(axis=-2).max() / 0.5))))
    h, d = h / 2**squarings, d / 2**squarings
    identity = np.eye(6)

    def times(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return a[0] @ b[0], a[1] @ b[0][:, None] + a[0][:, None] @ b[1]

    top = [(np.broadcast_to(identity, h.shape), np.zeros_like(d)), (h, d)]
    for _ in range(5):
        top.append(times(top[-1], (h, d)))
    weights, m = [1.0], 6
    for j in range(1, m + 1):
        weights.append(weights[-1] * (m - j + 1) / (j * (2 * m - j + 1)))
    u, v = ([sum(w * p[i] for w, p in zip(weights[s::2], top[s::2], strict=True)) for i in (0, 1)] for s in (0, 1))
    # (u - v) E = u + v
    inverse = np.linalg.inv(u[0] - v[0])
    e = inverse @ (u[0] + v[0])
    found = e, inverse[:, None] @ (u[1] + v[1] - (u[1] - v[1]) @ e[:, None])
    for _ in range(squarings):
        found = times(found, found)
    return found


def by_exponentials(theta: np.ndarray, alpha: np.ndarray, trf: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Return signals and derivatives (9, T) of one fingerprint; rate (C, N, 3) is R2sl with its derivatives."""
    from reference import two_pools

    pairs, which = np.unique(
        np.stack([alpha, trf, *np.moveaxis(rate, -1, 0)], axis=-1).reshape(-1, 5), axis=0, return_inverse=True
    )
    which = which.reshape(alpha.shape)
    h = np.array([two_pools.generator(theta, a / t, r) * t for a, t, r, _, _ in pairs])
    d = np.array([two_pools.derivatives(theta, a / t, by, b1) * t for a, t, _, by, b1 in pairs])
    p, dp = exponentials(h, d)
    spans = np.concatenate([(TR - pairs[:, 1]) / 2, [TR / 2]])
    spans, at = np.unique(spans, return_inverse=True)
    free, by_free = two_pools.generator(theta, 0, 0), two_pools.derivatives(theta, 0, 0, 0)
    f, df = exponentials(free * spans[:, None, None], by_free * spans[:, None, None, None])
    f[:, 3], df[:, :, 3] = 0, 0
    u = f[at[:-1]] @ p @ two_pools.TURN @ f[at[:-1]]
    turned, by = (two_pools.TURN @ f[at[:-1]])[:, None], f[at[:-1], None]
    du = df[at[:-1]] @ (p[:, None] @ turned) + by @ dp @ turned + by @ (p[:, None] @ two_pools.TURN) @ df[at[:-1]]
    rows = []
    for k in range(len(alpha)):
        unit, by_unit = u[which[k]], du[which[k]]
        first, by_first = two_pools.crushed_pulse(theta, alpha[k, 0], trf[k, 0], rate[k, 0])
        g, dg = f[at[-1]], df[at[-1]]
        unit[0] = g @ first @ two_pools.TURN @ g
        by_unit[0] = dg @ (first @ two_pools.TURN @ g) + g @ by_first @ (two_pools.TURN @ g)
        by_unit[0] += g @ first @ two_pools.TURN @ dg
        rows.append(_steady(unit, by_unit))
    return np.concatenate(rows, axis=-1)


def _steady(u: np.ndarray, du: np.ndarray) -> np.ndarray:
    """Return signals and tangents (9, N): the state first, then one pass with tangents that start at zero."""
    n, a = len(u), np.eye(6)
    history = np.empty((n, 6, 6))
    for i in [*range(1, n), 0]:
        a = u[i] @ a
        history[i] = a
    left = np.eye(4) - a[np.ix_(KEPT, KEPT)]
    m, d = np.zeros((n, 6)), np.zeros((n, 8, 6))
    m[0, 5] = 1
    m[0, KEPT] = np.linalg.solve(left, a[KEPT, 5])
    m[1:] = history[1:] @ m[0]
    sources = np.einsum("npij,nj->npi", du, np.roll(m, 1, axis=0))
    for i in range(1, n):
        d[i] = d[i - 1] @ u[i].T + sources[i]
    end = d[-1] @ u[0].T + sources[0]
    first = np.zeros((8, 6))
    first[:, KEPT] = np.linalg.solve(left, end[:, KEPT].T).T
    d[0] = first
    d[1:] += first @ np.swapaxes(history[1:], 1, 2)
    rows = np.concatenate([m[:, None], d], axis=1)
    return (rows[..., 0] + 1j * rows[..., 1]).T


def rates(theta: np.ndarray, alpha: np.ndarray, trf: np.ndarray) -> np.ndarray:
    """Return R2sl with its derivatives by T2s and B1 (C, N, 3)."""
    from crbsvd_plugin.models.qmt import saturation

    t2s, b1 = theta[5], theta[7]
    found = saturation.rates(saturation.table(), (trf / t2s).ravel(), (b1 * alpha).ravel())
    f, by_log_tau, by_angle = found.T.reshape(3, *alpha.shape)
    return np.stack([f / t2s, -(f + by_log_tau) / t2s**2, by_angle * alpha / t2s], axis=-1)


def method(name: str) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return what simulates theta (B, 8) to (B, 9, T), and how many fingerprints to give it."""
    alpha, trf = train()
    if name == "ours":
        from crbsvd_plugin.models.qmt.cycle import simulate

        return lambda theta: simulate(alpha, trf, TR, theta, tangents=True), _N_OURS
    return lambda theta: np.stack([by_exponentials(t, alpha, trf, rates(t, alpha, trf)) for t in theta]), _N_PEER


def tangents() -> harness.Result:
    """Ours and the peer in turn, and both against scipy's exponentials."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{name}.npy") for name in ("ours", "peer")}

        def run(name: str) -> harness.Usage:
            whole = harness.run(
                [sys.executable, __file__, name, files[name]], environment={"OPENBLAS_NUM_THREADS": "1"}
            )
            return harness.Usage(json.loads(whole.output.splitlines()[-1]), whole.megabytes)

        cold = run("ours")
        print(f"tangents: first run of ours, which may compile: {1e3 * cold.seconds:.2f} ms a fingerprint", flush=True)
        a, b = harness.interleaved(lambda: run("ours"), lambda: run("peer"), pairs=_PAIRS)
        exact = _exact()
        errors = [_error(np.load(files[name])[:, :N_PULSES], exact) for name in ("ours", "peer")]
    return harness.Result(
        "tangents", a.seconds, "augmented matrix exponentials, batched, BLAS, 1 thread", b.seconds,
        b.seconds / a.seconds, a.megabytes, b.megabytes, *errors,
    )  # fmt: skip


def _exact() -> np.ndarray:
    from reference import two_pools

    alpha, trf = train()
    theta = tissues(1)[0]
    units = two_pools.linear_units(theta, alpha[0], trf[0], TR, rates(theta, alpha[:1], trf[:1])[0])
    signal, by = two_pools.steady_state(*units)
    return np.concatenate([signal[None], by])


def _error(found: np.ndarray, exact: np.ndarray) -> float:
    return float((np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)).max())


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("ours", "peer"):
        from crbsvd_plugin import threads

        with threads.limit(1):
            function, n = method(sys.argv[1])
            theta = tissues(n)
            function(theta[:1])
            start = time.perf_counter()
            found = function(theta)
            seconds = (time.perf_counter() - start) / n
        np.save(sys.argv[2], found[0])
        print(json.dumps(seconds))
    else:
        harness.main("qmt", {"tangents": tangents, "fit": lambda: _qmt_fit.fit(train())})
