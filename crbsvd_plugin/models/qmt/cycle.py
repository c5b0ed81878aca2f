"""Signals and tangents of a train of pulses that is repeated for ever.

A cycle begins with an inversion by a crushed pulse, which is instantaneous for the free pool: with b = B1 alpha,

    (xf, yf, zf) -> (sin^2(b/2) xf, -sin^2(b/2) yf, cos(b) zf),    zs -> x(R2sl TRF, b) zs

(`semisolid.bloch`). Echo n lies TR/2 after the middle of pulse n. From one to the next the state precesses freely,
is seen in a frame turned by pi, because the phases of pulses alternate, and goes through a pulse and free precession:
U_n = F P R F. The state at the first echo, after the inversion, is that which the whole cycle A reproduces,
m_1 = A m_1 + b. All the states at echoes are linear in it, m_n = Phi_n m_1 + phi_n; one pass finds Phi_n and phi_n.

Derivatives of m_1 are not known beforehand either. A second pass starts with zero, dm_n = U_n dm_(n-1) + dU_n m_(n-1),
and ends at v; then (1 - A) dm_1 = v, and Phi_n dm_1 is added to what the pass had at every echo.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ... import threads
from ...jit import kernel
from .lanes import LANES, clear, copy, multiply, solve
from .propagators import (
    B1,
    COS,
    F11,
    F12,
    F21,
    F22,
    F_BY,
    M0F,
    M0S,
    N_CONSTANTS,
    N_FREE,
    RATE,
    RATE_BY_B1,
    RATE_BY_T2S,
    SIN,
    T2S,
    constants,
    free,
    pulse,
    pulse_tangents,
)  # fmt: skip
from .saturation import lookup, table

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel(inline=True, fastmath={"contract"})
def _precess(f, x, n):  # type: ignore[no-untyped-def]
    """Let n states x (n, 4, LANES) precess, without what recovers."""
    for j in range(n):
        for i in range(LANES):
            a, b, z, q = x[j, 0, i], x[j, 1, i], x[j, 2, i], x[j, 3, i]
            x[j, 0, i], x[j, 1, i] = f[COS, i] * a - f[SIN, i] * b, f[SIN, i] * a + f[COS, i] * b
            x[j, 2, i], x[j, 3, i] = f[F11, i] * z + f[F12, i] * q, f[F21, i] * z + f[F22, i] * q


@kernel(inline=True, fastmath={"contract"})
def _recover(c, f, x):  # type: ignore[no-untyped-def]
    """Add to a state x (4, LANES) that has precessed what recovers meanwhile."""
    for i in range(LANES):
        m0f, m0s = c[M0F, i], c[M0S, i]
        x[2, i] += m0f - f[F11, i] * m0f - f[F12, i] * m0s
        x[3, i] += m0s - f[F21, i] * m0f - f[F22, i] * m0s


@kernel(inline=True, fastmath={"contract"})
def _add_tangents(c, f, time, m, d):  # type: ignore[no-untyped-def]
    """Add to tangents d (8, 4, LANES) that have precessed dF m, for the state m (4, LANES) before precession."""
    for i in range(LANES):
        x = time * (f[COS, i] * m[0, i] - f[SIN, i] * m[1, i])
        y = time * (f[SIN, i] * m[0, i] + f[COS, i] * m[1, i])
        d[2, 0, i] -= x
        d[2, 1, i] -= y
        d[6, 0, i] -= y
        d[6, 1, i] += x
        # the equilibrium itself moves with m0s
        d[0, 2, i] += f[F11, i] - f[F12, i] - 1
        d[0, 3, i] += f[F21, i] - f[F22, i] + 1
    for j in range(4):
        row, to = F_BY + 4 * j, j + j // 2  # m0s, R1f, Rx, R1s
        for i in range(LANES):
            z, q = m[2, i] - c[M0F, i], m[3, i] - c[M0S, i]
            d[to, 2, i] += f[row, i] * z + f[row + 1, i] * q
            d[to, 3, i] += f[row + 2, i] * z + f[row + 3, i] * q


@kernel(inline=True, fastmath={"contract"})
def _turn(x, n):  # type: ignore[no-untyped-def]
    """See n states x (n, 4, LANES) in a frame turned by pi."""
    for j in range(n):
        for k in range(2):
            for i in range(LANES):
                x[j, k, i] = -x[j, k, i]


@kernel(inline=True, fastmath={"contract"})
def _relax_rates(c, table, alpha, time, rates):  # type: ignore[no-untyped-def]
    """Fill rates (3, LANES) with R2sl of a pulse and its derivatives."""
    for i in range(LANES):
        t2s = c[T2S, i]
        rate, by_log_tau, by_theta = lookup(table, np.log(time / t2s), c[B1, i] * alpha)
        rates[RATE, i] = rate / t2s
        rates[RATE_BY_T2S, i] = -(rate + by_log_tau) / (t2s * t2s)
        rates[RATE_BY_B1, i] = by_theta * alpha / t2s


@kernel(inline=True, fastmath={"contract"})
def _crushed(c, rates, alpha, time, p):  # type: ignore[no-untyped-def]
    """Fill p (5, 4, LANES) with the crushed pulse, and its derivatives of zs by T2s and B1 into its affine part."""
    clear(p, 5)
    for i in range(LANES):
        b, r = c[B1, i] * alpha, rates[RATE, i] * time
        refocused = np.sin(b / 2) ** 2
        p[0, 0, i], p[1, 1, i], p[2, 2, i] = refocused, -refocused, np.cos(b)
        y = r * r / 4 - b * b
        root, decay = np.sqrt(abs(y)), np.exp(-r / 2)
        if root < 1e-2:
            ch, sh, slope = 1 + y / 2, 1 + y / 6, 1 / 3 + y / 30
        else:
            ch, sh = (np.cosh(root), np.sinh(root) / root) if y > 0 else (np.cos(root), np.sin(root) / root)
            slope = (ch - sh) / y
        p[3, 3, i] = decay * (ch + r / 2 * sh)
        by_rate = decay * b * b / 2 * slope * time
        p[4, 0, i] = by_rate * rates[RATE_BY_T2S, i]
        p[4, 1, i] = by_rate * rates[RATE_BY_B1, i] - decay * b * (sh + r / 2 * slope) * alpha


@kernel(inline=True, fastmath={"contract"})
def _crushed_tangents(c, alpha, m, p, out):  # type: ignore[no-untyped-def]
    """Add to out (8, 4, LANES) the derivatives of the crushed pulse p by T2s and B1 at the states m (4, LANES)."""
    for i in range(LANES):
        sine = np.sin(c[B1, i] * alpha) * alpha
        out[7, 0, i] += 0.5 * sine * m[0, i]
        out[7, 1, i] -= 0.5 * sine * m[1, i]
        out[7, 2, i] -= sine * m[2, i]
        out[5, 3, i] += p[4, 0, i] * m[3, i]
        out[7, 3, i] += p[4, 1, i] * m[3, i]


@kernel(inline=True, fastmath={"contract"})
def _at_echoes(phi, start, out, n):  # type: ignore[no-untyped-def]
    """Add to out (N, n, 2, LANES) what becomes of n states or tangents at the first echo, start (n, 4, LANES)."""
    for echo in range(len(phi)):
        for j in range(n):
            for k in range(2):
                for i in range(LANES):
                    out[echo, j, k, i] += phi[echo, 0, k, i] * start[j, 0, i] + phi[echo, 1, k, i] * start[j, 1, i]
                    out[echo, j, k, i] += phi[echo, 2, k, i] * start[j, 2, i] + phi[echo, 3, k, i] * start[j, 3, i]


@kernel(inline=True, fastmath={"contract"})
def _states(alpha, trf, which, table, c, f, x, y, rates, p, phi):  # type: ignore[no-untyped-def]
    """Fill phi (N, 5, 2, LANES) with the map to every echo, x with that to the first one again; keep rates and p."""
    clear(x, 5)
    for k in range(4):
        for i in range(LANES):
            x[k, k, i] = 1.0
    copy(x, 5, phi[0])
    for step in range(1, len(alpha) + 1):
        k = step % len(alpha)
        at = which[k]
        for half in range(2):
            _precess(f[at], x, 5)
            _recover(c, f[at], x[4])
            if half == 0:
                _turn(x, 5)
                if alpha[k] == 0 and k > 0:
                    break
                _relax_rates(c, table, alpha[k], trf[k], rates[k])
                clear(y, 5)
                if k == 0:
                    _crushed(c, rates[k], alpha[k], trf[k], p[k])
                else:
                    pulse(c, rates[k], alpha[k], trf[k], p[k])
                    copy(p[k, 4:], 1, y[4:])
                multiply(p[k], x, 5, y)
        if k > 0:
            copy(x, 5, phi[k])


@kernel(inline=True, fastmath={"contract"})
def _tangents(alpha, trf, times, which, c, f, x, y, rates, p, out):  # type: ignore[no-untyped-def]
    """Fill out (N, 8, 2, LANES) with tangents that start with zero, for x (9, 4, LANES): the first state, and zeros."""
    for step in range(1, len(alpha) + 1):
        k = step % len(alpha)
        at = which[k]
        for half in range(2):
            _precess(f[at], x[1:], 8)
            _add_tangents(c, f[at], times[at], x[0], x[1:])
            _precess(f[at], x, 1)
            _recover(c, f[at], x[0])
            if half == 0:
                _turn(x, 9)
                if alpha[k] == 0 and k > 0:
                    break
                clear(y, 9)
                if k == 0:
                    _crushed_tangents(c, alpha[k], x[0], p[k], y[1:])
                else:
                    pulse_tangents(c, rates[k], alpha[k], trf[k], x[0], y[1:])
                    copy(p[k, 4:], 1, y)
                multiply(p[k], x, 9, y)
        copy(x[1:], 8, out[k])


@kernel(fastmath={"contract"}, parts=("lanes", "propagators", "saturation"))
def _batch(alpha, trf, times, which, table, theta, out):  # type: ignore[no-untyped-def]
    """Fill out (LANES or fewer, 9 or 1, T) for theta (LANES, 8)."""
    n, n_rows = alpha.shape[1], out.shape[1]
    c, f = np.empty((N_CONSTANTS, LANES)), np.empty((times.shape[1], N_FREE, LANES))
    rates, p, phi = np.empty((n, 3, LANES)), np.empty((n, 5, 4, LANES)), np.empty((n, 5, 2, LANES))
    x, y, start = np.empty((9, 4, LANES)), np.empty((9, 4, LANES)), np.empty((9, 4, LANES))
    cycled = np.empty((8, 4, LANES))
    signal, tangents = np.empty((n, 1, 2, LANES)), np.empty((n if n_rows > 1 else 0, 8, 2, LANES))
    constants(theta, c)
    for k in range(len(alpha)):
        for at in range(times.shape[1]):
            free(c, times[k, at], f[at])
        _states(alpha[k], trf[k], which[k], table, c, f, x, y, rates, p, phi)
        copy(x, 4, cycled)
        copy(x, 4, cycled[4:])
        copy(x[4:], 1, start)
        solve(cycled, start, 1)
        for echo in range(n):
            copy(phi[echo, 4:], 1, signal[echo])
        _at_echoes(phi, start, signal, 1)
        if n_rows > 1:
            clear(x, 9)
            copy(start, 1, x)
            _tangents(alpha[k], trf[k], times[k], which[k], c, f, x, y, rates, p, tangents)
            copy(x[1:], 8, start)
            solve(cycled[4:], start, 8)
            clear(tangents[0], 8)
            _at_echoes(phi, start, tangents, 8)
        for i in range(len(out)):
            for echo in range(n):
                out[i, 0, k * n + echo] = complex(signal[echo, 0, 0, i], signal[echo, 0, 1, i])
            for row in range(1, n_rows):
                for echo in range(n):
                    out[i, row, k * n + echo] = complex(tangents[echo, row - 1, 0, i], tangents[echo, row - 1, 1, i])


def simulate(
    alpha: NDArray[np.float64],
    trf: NDArray[np.float64],
    tr: float,
    theta: NDArray[np.float64],
    *,
    tangents: bool,
) -> NDArray[np.complex128]:
    """Return signals and derivatives of a train, the cycles one after the other.

    Parameters
    ----------
    alpha, trf : array (C, N)
        Angles [rad] and durations [s] of the pulses of C cycles, each of which is repeated for ever by itself.
    tr : float
        Repetition time [s].
    theta : array (B, 8)
        m0s, R1f, R2f, Rx, R1s, T2s, w0, B1, SI units.
    tangents : bool
        Also the derivatives.

    Returns
    -------
    array (B, 9 or 1, C N)
        xf + i yf for M0 = 1, then its derivatives in the order of theta.
    """
    # precession takes place over TR (no pulse), TR / 2 (inversion) or what a pulse leaves of TR on either side
    spans = np.where(alpha > 0, (tr - trf) / 2, tr)
    spans[:, 0] = tr / 2
    unique = [np.unique(row, return_inverse=True) for row in spans]
    times = np.zeros((len(alpha), max(len(values) for values, _ in unique)))
    for row, (values, _) in zip(times, unique, strict=True):
        row[: len(values)] = values
    which = np.array([index for _, index in unique])
    out = np.empty((len(theta), 9 if tangents else 1, alpha.size), np.complex128)
    starts = range(0, len(theta), LANES)
    # the last batch is filled up with its last fingerprint
    lanes = theta[np.minimum(np.arange(len(starts) * LANES), len(theta) - 1)]
    shared = alpha, trf, times, which, table()
    with ThreadPoolExecutor(threads.count()) as pool:
        list(pool.map(lambda i: _batch(*shared, lanes[i : i + LANES], out[i : i + LANES]), starts))
    return out
