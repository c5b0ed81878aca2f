"""R2sl as a table: exact at its points, smooth in between, and read by compiled code.

f = R2sl T2s = r / tau is smooth in log tau and, being even in theta, in theta^2. The table holds f on even steps
of both with its derivatives and the mixed one, for bicubic Hermite interpolation; all come from a polynomial through
exact values at Chebyshev points. It is right to 2e-9 (relative) up to theta = 1.2 pi, to 6e-9 beyond.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import chebyshev

from ...jit import kernel
from . import semisolid

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAU = (3.9, 102.0)
"""Range of TRF / T2s in the table: T2s = 5 to 25 us for pulses of 100 to 500 us, and a margin."""

THETA = 1.32 * np.pi
"""Largest angle B1 alpha in the table [rad]: an inversion with B1 = 1.32. From 1.43 pi on there is no R2sl."""

_N_CHEBYSHEV = 40
_STEPS = (240, 240)
ORIGIN = np.log(TAU[0])
STEP_TAU = np.log(TAU[1] / TAU[0]) / _STEPS[0]
STEP_SQUARE = THETA**2 / _STEPS[1]


@cache
def table() -> NDArray[np.float64]:
    """Return f, df/dlog tau, df/dtheta^2 and the mixed derivative (N, M, 4), the latter three times the steps."""
    x = np.cos(np.pi * (np.arange(_N_CHEBYSHEV) + 0.5) / _N_CHEBYSHEV)
    tau = np.exp(ORIGIN + np.log(TAU[1] / TAU[0]) * (1 + x) / 2)
    exact = semisolid.rate(tau, THETA * np.sqrt((1 + x) / 2)) / tau[:, None]
    to_coefficients = np.linalg.inv(chebyshev.chebvander(x, _N_CHEBYSHEV - 1))
    coefficients = to_coefficients @ exact @ to_coefficients.T
    u, v = (np.linspace(-1, 1, n + 1) for n in _STEPS)
    by_u, by_v = (chebyshev.chebder(coefficients, axis=axis) for axis in (0, 1))
    both = chebyshev.chebder(by_u, axis=1)
    f, f_u, f_v, f_uv = (chebyshev.chebgrid2d(u, v, c) for c in (coefficients, by_u, by_v, both))
    step_u, step_v = (2 / n for n in _STEPS)
    return np.ascontiguousarray(np.stack([f, f_u * step_u, f_v * step_v, f_uv * step_u * step_v], axis=-1))


@kernel(inline=True, fastmath={"contract"})
def lookup(table, log_tau, theta):  # type: ignore[no-untyped-def]
    """Return f = R2sl T2s, df/dlog tau and df/dtheta."""
    p, q = (log_tau - ORIGIN) / STEP_TAU, theta * theta / STEP_SQUARE
    i, j = min(max(int(p), 0), table.shape[0] - 2), min(int(q), table.shape[1] - 2)
    s, t = p - i, q - j
    # of both intervals: weights of the values and slopes at either end, and their derivatives
    a1, b0, b1 = s * s * (3 - 2 * s), s * (1 - s) ** 2, s * s * (s - 1)
    c1, d0, d1 = t * t * (3 - 2 * t), t * (1 - t) ** 2, t * t * (t - 1)
    a0, c0 = 1 - a1, 1 - c1
    da1, db0, db1 = 6 * s * (1 - s), (1 - s) * (1 - 3 * s), s * (3 * s - 2)
    dc1, dd0, dd1 = 6 * t * (1 - t), (1 - t) * (1 - 3 * t), t * (3 * t - 2)
    g00, g01, g10, g11 = table[i, j], table[i, j + 1], table[i + 1, j], table[i + 1, j + 1]
    # along theta^2: value and slope in log tau at both ends of that interval, and their derivatives
    v0 = c0 * g00[0] + c1 * g01[0] + d0 * g00[2] + d1 * g01[2]
    v1 = c0 * g10[0] + c1 * g11[0] + d0 * g10[2] + d1 * g11[2]
    m0 = c0 * g00[1] + c1 * g01[1] + d0 * g00[3] + d1 * g01[3]
    m1 = c0 * g10[1] + c1 * g11[1] + d0 * g10[3] + d1 * g11[3]
    w0 = dc1 * (g01[0] - g00[0]) + dd0 * g00[2] + dd1 * g01[2]
    w1 = dc1 * (g11[0] - g10[0]) + dd0 * g10[2] + dd1 * g11[2]
    n0 = dc1 * (g01[1] - g00[1]) + dd0 * g00[3] + dd1 * g01[3]
    n1 = dc1 * (g11[1] - g10[1]) + dd0 * g10[3] + dd1 * g11[3]
    value = a0 * v0 + a1 * v1 + b0 * m0 + b1 * m1
    by_log_tau = (da1 * (v1 - v0) + db0 * m0 + db1 * m1) / STEP_TAU
    by_theta = (a0 * w0 + a1 * w1 + b0 * n0 + b1 * n1) * (2 * theta / STEP_SQUARE)
    return value, by_log_tau, by_theta


@kernel()
def rates(table, tau, theta):  # type: ignore[no-untyped-def]
    """Return `lookup` of arrays tau and theta (N,) as an array (N, 3)."""
    found = np.empty((len(tau), 3))
    for k in range(len(tau)):
        found[k, 0], found[k, 1], found[k, 2] = lookup(table, np.log(tau[k]), theta[k])
    return found
