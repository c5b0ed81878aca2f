r"""The semi-solid pool during a pulse: its Green's function, and the rate R2sl that stands for it.

In the generalized Bloch model the longitudinal magnetisation of an isolated semi-solid pool obeys

    z'(t) = -w1^2 int_0^t G((t - u) / T2s) z(u) du,    z(0) = 1,

with the super-Lorentzian Green's function G. In units of the pulse, tau = TRF / T2s and theta = w1 TRF, its end
value z(tau, theta) is an even power series in theta,

    z = sum_n (-theta^2)^n c_n(tau),    c_n = z_n(1),    z_0 = 1,    z_n(u) = int_0^u K(u - v) z_(n-1)(v) dv,

K(s) = int_0^s G(tau r) dr. Bloch's equations with a transverse rate R2sl = r / TRF end at

    x(r, theta) = e^(-r/2) [cosh(S/2) + (r/S) sinh(S/2)],    S^2 = r^2 - 4 theta^2,

and r(tau, theta) is where both agree: x grows with r up to theta = 4.493, where tan(theta) = theta.

References
----------
Asslaender et al., Magn Reson Med 87:2003 (2022), doi 10.1002/mrm.29071 (generalized Bloch model).
Asslaender et al., Magn Reson Med 91:1528 (2024), doi 10.1002/mrm.29951 (R2sl).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial.legendre import leggauss

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_N_ANGLES = 96
_N_POINTS = 48
_N_TERMS = 30
_N_HISTORY = 64
_N_HALVINGS = 60


@cache
def _angles() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return q = (3 z^2 - 1)^2 / 8 and weights for the integral over z = 0 .. 1, split where q is zero."""
    nodes, weights = leggauss(_N_ANGLES)
    magic = 3**-0.5
    z = np.concatenate([magic * (nodes + 1) / 2, magic + (1 - magic) * (nodes + 1) / 2])
    return (3 * z**2 - 1) ** 2 / 8, np.concatenate([magic * weights, (1 - magic) * weights]) / 2


def greens(kappa: ArrayLike) -> NDArray[np.float64]:
    """Return the super-Lorentzian Green's function G(kappa) = int_0^1 exp(-kappa^2 (3 z^2 - 1)^2 / 8) dz.

    Parameters
    ----------
    kappa : array of any shape
        Time in units of T2s, 0 to 100; relative error 1e-13 there.
    """
    q, weights = _angles()
    return np.asarray(np.exp(-(np.asarray(kappa, dtype=np.float64)[..., None] ** 2) * q) @ weights)


def greens_by_t2(kappa: ArrayLike) -> NDArray[np.float64]:
    """Return T2s dG/dT2s = int_0^1 2 kappa^2 q exp(-kappa^2 q) dz of `greens`."""
    q, weights = _angles()
    x = np.asarray(kappa, dtype=np.float64)[..., None] ** 2 * q
    return np.asarray((2 * x * np.exp(-x)) @ weights)


def greens_integral(kappa: ArrayLike) -> NDArray[np.float64]:
    """Return int_0^kappa G, of any shape."""
    from scipy.special import erf

    q, weights = _angles()
    root = np.sqrt(q)
    terms = erf(np.asarray(kappa, dtype=np.float64)[..., None] * root)
    return np.asarray(terms @ (weights * np.sqrt(np.pi) / 2 / root))


def series(tau: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients c_n (N, n_terms) of the power series of z, for tau (N,).

    z_n are polynomials through Chebyshev points; their convolutions with K are Gauss-Legendre sums.
    """
    # Chebyshev points of the second kind on [0, 1], and barycentric weights
    j = np.arange(_N_POINTS)
    points = (1 - np.cos(np.pi * j / (_N_POINTS - 1))) / 2
    signs = (-1.0) ** j * np.where((j == 0) | (j == _N_POINTS - 1), 0.5, 1.0)
    nodes, weights = leggauss(_N_HISTORY)
    past = points[:, None] * (nodes + 1) / 2
    # no node of a Gauss rule meets a Chebyshev point, but at u = 0, where nothing is integrated
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = signs / (past[..., None] - points)
        interpolate = np.where(points[:, None, None] > 0, terms / terms.sum(axis=-1, keepdims=True), 0)
    found = np.empty((len(tau), _N_TERMS))
    for row, value in zip(found, tau, strict=True):
        kernel = greens_integral(value * (points[:, None] - past)) / value
        volterra = np.einsum("ih,ihj->ij", kernel * weights * points[:, None] / 2, interpolate)
        z = np.ones(_N_POINTS)
        for n in range(_N_TERMS):
            row[n] = z[-1]
            z = volterra @ z
    return found


def saturated(tau: NDArray[np.float64], theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return z(tau, theta) (N, M) after a pulse, for tau (N,) and theta (M,), by the generalized Bloch model."""
    return np.asarray(series(tau) @ (-(theta**2)) ** np.arange(_N_TERMS)[:, None])


def bloch(r: NDArray[np.float64], theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x(r, theta), the longitudinal magnetisation after a pulse with a transverse rate of r / TRF."""
    half = np.sqrt((r**2 / 4 - theta**2).astype(np.complex128))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(half == 0, 1, np.sinh(half) / half)
    return np.asarray((np.exp(-r / 2) * (np.cosh(half) + r / 2 * slope)).real)


def rate(tau: NDArray[np.float64], theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return r = R2sl TRF (N, M), where `bloch` equals `saturated`.

    Parameters
    ----------
    tau : array (N,)
        TRF / T2s, above 0, to about 100.
    theta : array (M,)
        Angle of the pulse [rad], above 0 (below 0.1 it costs digits) and below 1.43 pi.
    """
    wanted = saturated(tau, theta)
    low, high = np.zeros_like(wanted), np.broadcast_to(tau[:, None], wanted.shape).copy()
    # G decays no faster than exp(-kappa), so that R2sl T2s is below 1; x grows with r
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        above = bloch(middle, theta) > wanted
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2
