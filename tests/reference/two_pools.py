"""Two pools by brute force: matrix exponentials for the linear model, collocation for the generalized Bloch equations.

States are (xf, yf, zf, xs, zs, 1), parameters m0s, R1f, R2f, Rx, R1s, T2s, w0, B1. Nothing of this is shared with the
package but the number R2sl, which is handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy.linalg import expm

Array = NDArray[Any]
N_PARAMETERS = 8
KEPT = [0, 1, 2, 4]  # what survives free precession
TURN = np.diag([-1.0, -1, 1, 1, 1, 1])


def generator(theta: Sequence[float], w1: float, r2s: float) -> Array:
    """Return H, whose exponential times a duration is a pulse of the nominal amplitude w1, or precession for w1 = 0."""
    m0s, r1f, r2f, rx, r1s, _, w0, b1 = theta
    m0f, a = 1 - m0s, b1 * w1
    h = np.zeros((6, 6))
    h[0, :3] = -r2f, -w0, a
    h[1, :2] = w0, -r2f
    h[2, [0, 2, 4, 5]] = -a, -r1f - rx * m0s, rx * m0f, r1f * m0f
    h[3, 3:5] = -r2s, a
    h[4, 2:] = rx * m0s, -a, -r1s - rx * m0f, r1s * m0s
    return h


def derivatives(theta: Sequence[float], w1: float, by_t2s: float, by_b1: float) -> Array:
    """Return dH by all parameters (8, 6, 6), for R2sl with these derivatives."""
    m0s, r1f, _, rx, r1s, *_ = theta
    m0f = 1 - m0s
    d = np.zeros((N_PARAMETERS, 6, 6))
    d[0, 2, [2, 4, 5]] = -rx, -rx, -r1f
    d[0, 4, [2, 4, 5]] = rx, rx, r1s
    d[1, 2, [2, 5]] = -1, m0f
    d[2, 0, 0] = d[2, 1, 1] = -1
    d[3, 2, [2, 4]] = -m0s, m0f
    d[3, 4, [2, 4]] = m0s, -m0f
    d[4, 4, [4, 5]] = -1, m0s
    d[5, 3, 3] = -by_t2s
    d[6, 0, 1], d[6, 1, 0] = -1, 1
    d[7, 0, 2], d[7, 2, 0], d[7, 3, 3], d[7, 3, 4], d[7, 4, 3] = w1, -w1, -by_b1, w1, -w1
    return d


def augmented(h: Array, d: Array, time: float) -> tuple[Array, Array]:
    """Return exp(H t) and its derivatives from exp([[H, 0], [dH, H]] t)."""
    n = len(h)
    both = np.zeros((len(d), 2 * n, 2 * n))
    both[:, :n, :n] = both[:, n:, n:] = h
    both[:, n:, :n] = d
    whole = expm(both * time)
    return whole[0, :n, :n], whole[:, n:, :n]


def precession(theta: Sequence[float], time: float) -> tuple[Array, Array]:
    """Return free precession, after which xs is zero, and its derivatives."""
    f, d = augmented(generator(theta, 0, 0), derivatives(theta, 0, 0, 0), time)
    f[3], d[:, 3] = 0, 0
    return f, d


def linear_pulse(theta: Sequence[float], alpha: float, time: float, rate: Array) -> tuple[Array, Array]:
    """Return a pulse and its derivatives; `rate` is R2sl with its derivatives by T2s and B1."""
    w1 = alpha / time
    return augmented(generator(theta, w1, rate[0]), derivatives(theta, w1, rate[1], rate[2]), time)


def crushed_pulse(theta: Sequence[float], alpha: float, time: float, rate: Array) -> tuple[Array, Array]:
    """Return the inversion and its derivatives: refocused alone, and instantaneous for the free pool."""
    b1 = theta[7]
    angle, w1 = b1 * alpha, alpha / time
    solid = np.array([[-rate[0], b1 * w1], [-b1 * w1, 0]])
    by = np.array([[[-rate[1], 0], [0, 0]], [[-rate[2], w1], [-w1, 0]]])
    zs, by_zs = augmented(solid, by, time)
    p, d = np.eye(6), np.zeros((N_PARAMETERS, 6, 6))
    p[[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]] = (
        np.sin(angle / 2) ** 2, -(np.sin(angle / 2) ** 2), np.cos(angle), 0, zs[1, 1],
    )  # fmt: skip
    d[7, [0, 1, 2], [0, 1, 2]] = np.array([0.5, -0.5, -1]) * np.sin(angle) * alpha
    d[5, 4, 4], d[7, 4, 4] = by_zs[:, 1, 1]
    return p, d


Pulse = Callable[[int], tuple[Array, Array]]


def units(theta: Sequence[float], alpha: Array, trf: Array, tr: float, pulse: Pulse) -> tuple[Array, Array]:
    """Return U (N, 6, 6), from the echo before each pulse to that after it, and its derivatives (N, 8, 6, 6)."""
    found, by = np.empty((len(alpha), 6, 6)), np.empty((len(alpha), N_PARAMETERS, 6, 6))
    for i in range(len(alpha)):
        f, df = precession(theta, tr / 2 if i == 0 else (tr - trf[i]) / 2)
        p, dp = pulse(i)
        found[i] = f @ p @ TURN @ f
        by[i] = df @ (p @ TURN @ f) + f @ dp @ (TURN @ f) + (f @ p @ TURN) @ df
    return found, by


def linear_units(theta: Sequence[float], alpha: Array, trf: Array, tr: float, rates: Array) -> tuple[Array, Array]:
    """Return the units of the linear model; rates (N, 3) are R2sl with its derivatives."""

    def pulse(i: int) -> tuple[Array, Array]:
        kind = crushed_pulse if i == 0 else linear_pulse
        return kind(theta, alpha[i], trf[i], rates[i])

    return units(theta, alpha, trf, tr, pulse)


def steady_state(u: Array, du: Array) -> tuple[Array, Array]:
    """Return the signals (N,) and derivatives (8, N) of a cycle that is repeated for ever."""
    a, da = np.eye(6), np.zeros((N_PARAMETERS, 6, 6))
    order = [*range(1, len(u)), 0]
    for i in order:
        da = du[i] @ a + u[i] @ da
        a = u[i] @ a
    left = np.eye(4) - a[np.ix_(KEPT, KEPT)]
    m, dm = np.zeros(6), np.zeros((N_PARAMETERS, 6))
    m[5] = 1
    m[KEPT] = np.linalg.solve(left, a[KEPT, 5])
    dm[:, KEPT] = np.linalg.solve(left, (da @ m)[:, KEPT].T).T
    signal, by = np.empty(len(u), complex), np.empty((N_PARAMETERS, len(u)), complex)
    for i in [*order[-1:], *order[:-1]]:
        if i > 0:
            dm = du[i] @ m + dm @ u[i].T
            m = u[i] @ m
        signal[i], by[:, i] = m[0] + 1j * m[1], dm[:, 0] + 1j * dm[:, 1]
    return signal, by


def greens(kappa: Array) -> Array:
    """Return the super-Lorentzian Green's function, by a rule of its own: 2000 midpoints on either side of the kink."""
    cells = (np.arange(2000) + 0.5) / 2000
    magic = 3**-0.5
    z = np.concatenate([magic * cells, magic + (1 - magic) * cells])
    w = np.concatenate([np.full(2000, magic), np.full(2000, 1 - magic)]) / 2000
    values = [np.exp(-(k**2) * (3 * z**2 - 1) ** 2 / 8) @ w for k in np.ravel(kappa)]
    return np.reshape(values, np.shape(kappa))


def full_pulse(theta: Sequence[float], alpha: float, time: float, n: int = 28) -> Array:
    """Return a pulse (6, 6) by the generalized Bloch equations; xs is neither read nor written.

    Collocation at n Chebyshev points: D m = H m - a^2 K zs, the rows of the beginning replaced by the initial state.
    """
    t2s, w0, b1 = theta[5], theta[6], theta[7]
    a = b1 * alpha / time
    j = np.arange(n)
    points = time * (1 - np.cos(np.pi * j / (n - 1))) / 2
    signs = (-1.0) ** j * np.where((j == 0) | (j == n - 1), 0.5, 1.0)
    gap = points[:, None] - points + np.eye(n)
    slope = signs / signs[:, None] / gap
    slope[j, j] = 0
    slope[j, j] = -slope.sum(axis=1)
    nodes, weights = leggauss(64)
    memory = np.zeros((n, n))
    for i in range(1, n):
        u = points[i] * (nodes + 1) / 2
        cardinal = signs / (u[:, None] - points)
        cardinal /= cardinal.sum(axis=1, keepdims=True)
        kernel = greens((points[i] - u) / t2s) * np.cos(w0 * (points[i] - u))
        memory[i] = (kernel * weights * points[i] / 2) @ cardinal
    h = generator(theta, alpha / time, 0)
    h[4, 3] = 0
    coupling = h[np.ix_(KEPT, KEPT)]
    left = np.kron(np.eye(4), slope) - np.kron(coupling, np.eye(n))
    left[3 * n :, 3 * n :] += a**2 * memory
    right = np.zeros((4 * n, 5))
    right[:, 4] = np.repeat(h[KEPT, 5], n)
    for k in range(4):
        left[k * n], right[k * n] = 0, 0
        left[k * n, k * n], right[k * n, k] = 1, 1
    ends = np.linalg.solve(left, right)[n - 1 :: n]
    p = np.zeros((6, 6))
    p[np.ix_(KEPT, [*KEPT, 5])], p[5, 5] = ends, 1
    return p
