r"""Bounded Levenberg-Marquardt steps for many small problems at once, compiled.

Each voxel c minimises 1/2 ||c - M0 s(u)||^2 over a complex M0 and real u within bounds. For every u the best M0 is
s^H c / ||s||^2, so what is left is the variable projection

    f(u) = 1/2 ||r||^2,  r = c - s s^H c / ||s||^2
    df/du_i = -Re(M0^* j_i^H r)
    H_ij = |M0|^2 Re(q_i^H q_j),  q_i = j_i - s s^H j_i / ||s||^2,  j_i = ds/du_i

The gradient is exact; H leaves out what vanishes with the residual (Kaufman). Projecting s out over the complex
numbers is projecting s and i s out over the reals: M0 is two real unknowns, and H^-1 has the Cramer-Rao bounds.

References
----------
Golub, Pereyra, Inverse Problems 19:R1 (2003), doi 10.1088/0266-5611/19/2/201.
Kaufman, BIT 15:49 (1975), doi 10.1007/BF01932995.
Nielsen, Damping parameter in Marquardt's method, IMM-REP-1999-05.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import kernel, prange

_FLOOR = 1e-14


@kernel(parallel=True)
def normal_equations(voxels: Any, signal: Any, jac: Any, m0: Any, cost: Any, grad: Any, hess: Any) -> None:
    """Write M0 (B,), f (B,), df/du (B, P) and H (B, P, P) of voxels (B, K), s (B, K) and ds/du (B, P, K)."""
    n, p, rank = jac.shape
    for b in prange(n):
        energy, product = 0.0, 0.0j
        for k in range(rank):
            energy += signal[b, k].real ** 2 + signal[b, k].imag ** 2
            product += signal[b, k].conjugate() * voxels[b, k]
        scale = product / energy
        half = 0.0
        for k in range(rank):
            left = voxels[b, k] - scale * signal[b, k]
            half += 0.5 * (left.real**2 + left.imag**2)
        size = scale.real**2 + scale.imag**2
        for i in range(p):
            slope, along = 0.0j, 0.0j
            for k in range(rank):
                slope += jac[b, i, k].conjugate() * (voxels[b, k] - scale * signal[b, k])
                along += signal[b, k].conjugate() * jac[b, i, k]
            grad[b, i] = -(scale.conjugate() * slope).real
            for j in range(i + 1):
                total = 0.0
                for k in range(rank):
                    # projected once is enough: the other factor is orthogonal to s already
                    total += ((jac[b, i, k] - signal[b, k] * along / energy).conjugate() * jac[b, j, k]).real
                hess[b, i, j] = hess[b, j, i] = size * total
        m0[b], cost[b] = scale, half


@kernel(parallel=True)
def steps(u: Any, grad: Any, hess: Any, damping: Any, low: Any, high: Any, step: Any, predicted: Any) -> None:
    """Write the steps (B, P) that minimise the damped quadratic model within bounds, and the decrease it predicts (B,).

    (H + damping diag H) step = -grad, for the parameters that are neither fixed (low = high) nor held at a bound by
    the gradient. One that would leave its range goes to the bound, and the others are solved for again.
    """
    n, p = u.shape
    for b in prange(n):
        moving, chosen = np.zeros(p, np.bool_), np.zeros(p)
        largest = 0.0
        for i in range(p):
            largest = max(largest, hess[b, i, i])
            held = (u[b, i] <= low[i] and grad[b, i] >= 0) or (u[b, i] >= high[i] and grad[b, i] <= 0)
            moving[i] = low[i] < high[i] and not held
        for _ in range(p):
            _solve(hess[b], grad[b], damping[b], _FLOOR * largest, moving, chosen)
            again = False
            for i in range(p):
                if moving[i]:
                    bounded = min(max(u[b, i] + chosen[i], low[i]), high[i]) - u[b, i]
                    if bounded != chosen[i]:
                        chosen[i], moving[i], again = bounded, False, True
            if not again:
                break
        decrease = 0.0
        for i in range(p):
            step[b, i] = chosen[i]
            decrease -= grad[b, i] * chosen[i]
            for j in range(p):
                decrease -= 0.5 * chosen[i] * hess[b, i, j] * chosen[j]
        predicted[b] = decrease


@kernel()
def _solve(hess: Any, grad: Any, damping: float, floor: float, moving: Any, chosen: Any) -> None:
    """Solve for the moving entries of `chosen` by Cholesky, the others being given."""
    p = len(grad)
    factor, right = np.zeros((p, p)), np.zeros(p)
    for i in range(p):
        if not moving[i]:
            continue
        right[i] = -grad[i]
        for j in range(p):
            if not moving[j]:
                right[i] -= hess[i, j] * chosen[j]
        for j in range(i + 1):
            if moving[j]:
                total = hess[i, j]
                if i == j:
                    total += damping * hess[i, i] + floor
                for k in range(j):
                    total -= factor[i, k] * factor[j, k]
                if i > j:
                    factor[i, j] = total / factor[j, j]
                else:
                    # rounding may make a singular matrix negative
                    factor[i, i] = np.sqrt(max(total, floor + 1e-300))
    for i in range(p):
        if moving[i]:
            for k in range(i):
                right[i] -= factor[i, k] * right[k]
            right[i] /= factor[i, i]
    for i in range(p - 1, -1, -1):
        if moving[i]:
            for k in range(i + 1, p):
                right[i] -= factor[k, i] * right[k]
            right[i] /= factor[i, i]
            chosen[i] = right[i]
