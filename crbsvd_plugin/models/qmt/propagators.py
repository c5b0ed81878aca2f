r"""What a pulse and free precession do to both pools, with derivatives, for 16 fingerprints at a time.

The state is (xf, yf, zf, zs), the free pool's magnetisation and the longitudinal one of the semi-solid pool, with a
constant 1 that equilibrium comes from. All arrays have the fingerprints of a batch, the *lanes*, as last axis, whose
length is known when the code is compiled: the loops over them become vector instructions.

A pulse is the exponential of the matrix H, times TRF, that acts on (xf, yf, zf, xs, zs) and 1:

    xf' = -R2f xf - w0 yf + a zf              xs' = -R2sl xs + a zs
    yf' =  w0 xf - R2f yf                     zs' = -a xs + Rx m0s zf - (R1s + Rx m0f) zs + R1s m0s
    zf' = -a xf - (R1f + Rx m0s) zf + Rx m0f zs + R1f m0f,        a = B1 alpha / TRF,

which xs enters and leaves as zero. The exponential is taken as a rational function of H,

    exp(H) = sum_k Re[w_k G_k],    G_k = (p_k - H)^-1,    d exp(H) = sum_k Re[w_k G_k dH G_k],

the [11/12] Pade approximant of exp(4 + z), divided by exp(4), in partial fractions: within 5e-11 of exp(z) for all z
from -16 to 0 with an imaginary part up to 5, where the numerical range of H lies. G_k has a closed form
because H is sparse, and so has its derivative: no matrix is multiplied, and nothing branches.

Between pulses transverse magnetisation turns and decays; the 2 x 2 system of zf and zs is
exp(M t) = e^(s t) [C(y) + t S(y) (M - s)], with s = trace(M) / 2, y = t^2 det(s - M) < 0 in size, C = cosh(y^1/2) and
S = sinh(y^1/2) / y^1/2 as power series.
"""

from __future__ import annotations

import numpy as np

from ...jit import kernel
from .lanes import LANES, clear

# upper half of the poles, and twice their residues with the sign of (p - z)^-1
_POLES = np.array([
    11.500399108416358 + 1.6774090754267154j, 10.989472084936066 + 5.0426730131941984j,
    9.9287203046513791 + 8.4424969660733108j, 8.2232279801269360 + 11.913370853790162j,
    5.6646029160387770 + 15.526988725976901j, 1.6935776058304846 + 19.484629368297686j,
])  # fmt: skip
_WEIGHTS = -np.array([
    19118.305517822440 - 104067.53972325486j, -34496.889878134074 + 55516.559913452249j,
    19812.975907217799 - 13680.717966613637j, -4821.7829966861395 + 578.86380215929174j,
    388.33545308663775 + 219.59401505456546j, -0.72421563999838662 - 11.583768876584855j,
])  # fmt: skip
_N_POLES = len(_POLES)

# Rows of what is constant for a fingerprint: parameters in the order of theta, then what follows from them
M0S, R1F, R2F, RX, R1S, T2S, W0, B1, M0F, K35, K53, SUM, DIFF, SQUARE = range(14)
BY = 14  # derivatives of SUM, DIFF, K35, K53 and SQUARE, by m0s, R1f, Rx and R1s
N_CONSTANTS = BY + 20

# Rows of free precession: turning, the 2 x 2 matrix, and its derivatives by m0s, R1f, Rx and R1s
COS, SIN, F11, F12, F21, F22, F_BY = range(7)
N_FREE = F_BY + 16

RATE, RATE_BY_T2S, RATE_BY_B1 = range(3)
"""Rows of R2sl of a pulse."""


@kernel(inline=True, fastmath={"contract"})
def constants(theta, c):  # type: ignore[no-untyped-def]
    """Fill c (N_CONSTANTS, LANES) from theta (LANES, 8); M is SUM plus [[DIFF, K35], [K53, -DIFF]]."""
    for row in range(BY, N_CONSTANTS):
        for i in range(LANES):
            c[row, i] = 0.0
    for i in range(LANES):
        for row in range(8):
            c[row, i] = theta[i, row]
        m0s, rx = c[M0S, i], c[RX, i]
        m0f = 1 - m0s
        c[M0F, i], c[K35, i], c[K53, i] = m0f, rx * m0f, rx * m0s
        c[SUM, i], c[DIFF, i] = -0.5 * (c[R1F, i] + c[R1S, i] + rx), 0.5 * (c[R1S, i] - c[R1F, i] + rx * (m0f - m0s))
        c[SQUARE, i] = c[DIFF, i] ** 2 + c[K35, i] * c[K53, i]
        c[BY + 1, i], c[BY + 2, i], c[BY + 3, i] = -rx, -rx, rx
        c[BY + 5, i], c[BY + 6, i] = -0.5, -0.5
        c[BY + 10, i], c[BY + 11, i], c[BY + 12, i], c[BY + 13, i] = -0.5, 0.5 * (m0f - m0s), m0f, m0s
        c[BY + 15, i], c[BY + 16, i] = -0.5, 0.5
        for j in range(4):
            row = BY + 5 * j
            c[row + 4, i] = 2 * c[DIFF, i] * c[row + 1, i] + c[row + 2, i] * c[K53, i] + c[K35, i] * c[row + 3, i]


@kernel(inline=True, fastmath={"contract"})
def free(c, time, f):  # type: ignore[no-untyped-def]
    """Fill f (N_FREE, LANES) with free precession of `time` and its derivatives."""
    for i in range(LANES):
        decay = np.exp(-c[R2F, i] * time)
        f[COS, i], f[SIN, i] = decay * np.cos(c[W0, i] * time), decay * np.sin(c[W0, i] * time)
        f[F11, i] = np.exp(c[SUM, i] * time)
    for j in range(4):
        for i in range(LANES):
            f[F_BY + 4 * j, i] = f[F11, i]
    for i in range(LANES):
        y = c[SQUARE, i] * time * time
        ch = 1 + y / 2 * (1 + y / 12 * (1 + y / 30 * (1 + y / 56 * (1 + y / 90 * (1 + y / 132 * (1 + y / 182))))))
        sh = 1 + y / 6 * (1 + y / 20 * (1 + y / 42 * (1 + y / 72 * (1 + y / 110 * (1 + y / 156 * (1 + y / 210))))))
        even, odd = f[F11, i] * ch, f[F11, i] * time * sh
        f[F11, i], f[F12, i] = even + odd * c[DIFF, i], odd * c[K35, i]
        f[F21, i], f[F22, i] = odd * c[K53, i], even - odd * c[DIFF, i]
    for j in range(4):
        by, row = BY + 5 * j, F_BY + 4 * j
        for i in range(LANES):
            e, y = f[row, i], c[SQUARE, i] * time * time
            sh = 1 + y / 6 * (1 + y / 20 * (1 + y / 42 * (1 + y / 72 * (1 + y / 110 * (1 + y / 156 * (1 + y / 210))))))
            # six times the derivative of sh: 6 sum of n y^(n-1) / (2n+1)!
            slope = 1 + y / 10 * (
                1 + y / 28 * (1 + y / 54 * (1 + y / 88 * (1 + y / 130 * (1 + y / 180 * (1 + y / 238)))))
            )
            grow, square = time * c[by, i], time * time * c[by + 4, i]
            even, odd, by_odd = 0.5 * square * e * sh, time * e * sh, square * time * e * slope / 6
            by_diff = by_odd * c[DIFF, i] + odd * c[by + 1, i]
            f[row, i] = grow * f[F11, i] + even + by_diff
            f[row + 1, i] = grow * f[F12, i] + by_odd * c[K35, i] + odd * c[by + 2, i]
            f[row + 2, i] = grow * f[F21, i] + by_odd * c[K53, i] + odd * c[by + 3, i]
            f[row + 3, i] = grow * f[F22, i] + even - by_diff


@kernel(inline=True, fastmath={"contract"})
def _reciprocal(z):  # type: ignore[no-untyped-def]
    size = 1 / (z.real * z.real + z.imag * z.imag)
    return complex(z.real * size, -z.imag * size)


@kernel(inline=True, fastmath={"contract"})
def _resolvent(pole, r2f, w0, rate, k33, k55, k35, k53, angle):  # type: ignore[no-untyped-def]
    """Return the parts of G = (pole - H)^-1; all are scalars, because what is inlined cannot make arrays.

    The transverse part alone has [[u, -v], [v, u]], xs alone f; zf and zs, with both eliminated, the 2 x 2 matrix g.
    Whatever enters or leaves through xf, yf, xs does so by way of zf, zs with angle * (u, v) and angle * f.
    """
    a = pole + r2f
    n = _reciprocal(a * a + w0 * w0)
    u, v = a * n, w0 * n
    f = _reciprocal(pole + rate)
    z = pole + k33 + angle * angle * u
    q = pole + k55 + angle * angle * f
    n = _reciprocal(z * q - k35 * k53)
    return u, v, angle * f, q * n, k35 * n, k53 * n, z * n


@kernel(inline=True, fastmath={"contract"})
def _through(au, av, g33, g35, g53, g55, x, y, s, t):  # type: ignore[no-untyped-def]
    """Return the real part of G (x, y, s, t), where x and y have been through the transverse part already."""
    z = g33 * s + g35 * t
    return (x + au * z).real, (y + av * z).real, z.real, (g53 * s + g55 * t).real


@kernel(inline=True, fastmath={"contract"})
def pulse(c, rates, alpha, time, p):  # type: ignore[no-untyped-def]
    """Fill p (5, 4, LANES): what becomes of xf, yf, zf, zs and 1 in a pulse of the nominal angle alpha."""
    clear(p, 5)
    for pole in range(_N_POLES):
        at, weight = _POLES[pole], _WEIGHTS[pole]
        inverse = _reciprocal(at)
        for i in range(LANES):
            angle = c[B1, i] * alpha
            u, v, _, g33, g35, g53, g55 = _resolvent(
                at, c[R2F, i] * time, c[W0, i] * time, rates[RATE, i] * time, (c[R1F, i] + c[K53, i]) * time,
                (c[R1S, i] + c[K35, i]) * time, c[K35, i] * time, c[K53, i] * time, angle,
            )  # fmt: skip
            b3, b5 = c[R1F, i] * c[M0F, i] * time, c[R1S, i] * c[M0S, i] * time
            g33, g35, g53, g55 = weight * g33, weight * g35, weight * g53, weight * g55
            au, av, wu, wv = angle * u, angle * v, weight * u, weight * v
            x3, y3, x5, y5 = au * g33, av * g33, au * g35, av * g35
            p[0, 0, i] += (wu - au * x3).real
            p[0, 1, i] += (wv - au * y3).real
            p[0, 2, i] -= x3.real
            p[0, 3, i] -= (au * g53).real
            p[1, 0, i] += (av * x3 - wv).real
            p[1, 1, i] += (av * y3 + wu).real
            p[1, 2, i] += y3.real
            p[1, 3, i] += (av * g53).real
            p[2, 0, i] += x3.real
            p[2, 1, i] += y3.real
            p[2, 2, i] += g33.real
            p[2, 3, i] += g53.real
            p[3, 0, i] += x5.real
            p[3, 1, i] += y5.real
            p[3, 2, i] += g35.real
            p[3, 3, i] += g55.real
            p[4, 0, i] += (inverse * (b3 * x3 + b5 * x5)).real
            p[4, 1, i] += (inverse * (b3 * y3 + b5 * y5)).real
            p[4, 2, i] += (inverse * (b3 * g33 + b5 * g35)).real
            p[4, 3, i] += (inverse * (b3 * g53 + b5 * g55)).real


@kernel(inline=True, fastmath={"contract"})
def pulse_tangents(c, rates, alpha, time, m, out):  # type: ignore[no-untyped-def]
    """Add to out (8, 4, LANES) dP m by all parameters, for the states m (4, LANES) before the pulse P.

    For each pole that is G dH G m: first G m, then what dH makes of it (t), then G once more.
    """
    for pole in range(_N_POLES):
        at, weight = _POLES[pole], _WEIGHTS[pole]
        inverse = _reciprocal(at)
        one = weight * inverse
        for i in range(LANES):
            angle = c[B1, i] * alpha
            u, v, af, g33, g35, g53, g55 = _resolvent(
                at, c[R2F, i] * time, c[W0, i] * time, rates[RATE, i] * time, (c[R1F, i] + c[K53, i]) * time,
                (c[R1S, i] + c[K35, i]) * time, c[K35, i] * time, c[K53, i] * time, angle,
            )  # fmt: skip
            au, av = angle * u, angle * v
            b3, b5 = c[R1F, i] * c[M0F, i] * time, c[R1S, i] * c[M0S, i] * time
            s, t = m[2, i] + b3 * inverse - au * m[0, i] + av * m[1, i], m[3, i] + b5 * inverse
            z, q = weight * (g33 * s + g35 * t), weight * (g53 * s + g55 * t)
            x = weight * (u * m[0, i] - v * m[1, i]) + au * z
            y = weight * (v * m[0, i] + u * m[1, i]) + av * z
            p = af * q
            turned_x, turned_y = u * x - v * y, v * x + u * y
            # dG by m0s, R1f, R2f, Rx, R1s, T2s, w0, B1: what dH G m has in xf, yf, zf and zs (xs is eliminated)
            s = c[RX, i] * (z + q)
            dx, dy, dz, dq = _through(au, av, g33, g35, g53, g55, 0j, 0j, -s - c[R1F, i] * one, s + c[R1S, i] * one)
            out[0, 0, i] += time * dx
            out[0, 1, i] += time * dy
            out[0, 2, i] += time * dz
            out[0, 3, i] += time * dq
            dx, dy, dz, dq = _through(au, av, g33, g35, g53, g55, 0j, 0j, c[M0F, i] * one - z, 0j)
            out[1, 0, i] += time * dx
            out[1, 1, i] += time * dy
            out[1, 2, i] += time * dz
            out[1, 3, i] += time * dq
            dx, dy, dz, dq = _through(au, av, g33, g35, g53, g55, -turned_x, -turned_y, au * x - av * y, 0j)
            out[2, 0, i] += time * dx
            out[2, 1, i] += time * dy
            out[2, 2, i] += time * dz
            out[2, 3, i] += time * dq
            s = c[M0F, i] * q - c[M0S, i] * z
            dx, dy, dz, dq = _through(au, av, g33, g35, g53, g55, 0j, 0j, s, -s)
            out[3, 0, i] += time * dx
            out[3, 1, i] += time * dy
            out[3, 2, i] += time * dz
            out[3, 3, i] += time * dq
            dx, dy, dz, dq = _through(au, av, g33, g35, g53, g55, 0j, 0j, 0j, c[M0S, i] * one - q)
            out[4, 0, i] += time * dx
            out[4, 1, i] += time * dy
            out[4, 2, i] += time * dz
            out[4, 3, i] += time * dq
            dx, dy, dz, dq = _through(au, av, g33, g35, g53, g55, 0j, 0j, 0j, rates[RATE_BY_T2S, i] * (af * p))
            out[5, 0, i] += time * dx
            out[5, 1, i] += time * dy
            out[5, 2, i] += time * dz
            out[5, 3, i] += time * dq
            dx, dy, dz, dq = _through(au, av, g33, g35, g53, g55, -turned_y, turned_x, au * y + av * x, 0j)
            out[6, 0, i] += time * dx
            out[6, 1, i] += time * dy
            out[6, 2, i] += time * dz
            out[6, 3, i] += time * dq
            t = -alpha * p - af * (alpha * q - (rates[RATE_BY_B1, i] * time) * p)
            s = -alpha * (x + au * z)
            dx, dy, dz, dq = _through(au, av, g33, g35, g53, g55, alpha * (u * z), alpha * (v * z), s, t)
            out[7, 0, i] += dx
            out[7, 1, i] += dy
            out[7, 2, i] += dz
            out[7, 3, i] += dq
