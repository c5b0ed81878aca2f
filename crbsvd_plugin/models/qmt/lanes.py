"""What is done to states of many fingerprints at a time; the lanes, their last axis, are vectors of known length.

All that is done to them is part of the kernel that it is called from: a call takes as long as a loop over the lanes.
"""

from __future__ import annotations

from ...jit import kernel

LANES = 16
"""Fingerprints at a time. The compiler leaves loops of fewer steps as they are."""


@kernel(inline=True, fastmath={"contract"})
def multiply(p, x, n, y):  # type: ignore[no-untyped-def]
    """Set n states x (n, 4, LANES) to P x + y, of which y is lost."""
    for j in range(n):
        for k in range(4):
            for i in range(LANES):
                y[j, k, i] += p[0, k, i] * x[j, 0, i] + p[1, k, i] * x[j, 1, i]
                y[j, k, i] += p[2, k, i] * x[j, 2, i] + p[3, k, i] * x[j, 3, i]
    for j in range(n):
        for k in range(4):
            for i in range(LANES):
                x[j, k, i] = y[j, k, i]


@kernel(inline=True, fastmath={"contract"})
def solve(a, b, n):  # type: ignore[no-untyped-def]
    """Set b (n, 4, LANES) to (1 - A)^-1 b, for A in the columns a (4, 4, LANES), which are lost.

    No pivots are needed: with zs in units of (m0s / m0f)^1/2 exchange is symmetric, all steps of a cycle shorten the
    state, and 1 - A has a positive definite symmetric part; units do not matter to the elimination.
    """
    for j in range(4):
        for k in range(4):
            for i in range(LANES):
                a[j, k, i] = (1.0 if j == k else 0.0) - a[j, k, i]
    for pivot in range(4):
        for k in range(4):
            if k != pivot:
                for i in range(LANES):
                    factor = a[pivot, k, i] / a[pivot, pivot, i]
                    for j in range(pivot, 4):
                        a[j, k, i] -= factor * a[j, pivot, i]
                    for j in range(n):
                        b[j, k, i] -= factor * b[j, pivot, i]
    for j in range(n):
        for k in range(4):
            for i in range(LANES):
                b[j, k, i] /= a[k, k, i]


@kernel(inline=True, fastmath={"contract"})
def copy(x, n, y):  # type: ignore[no-untyped-def]
    """Copy the first n of x (.., m, LANES), as much as y has; slices would compile to a great deal more."""
    for j in range(n):
        for k in range(y.shape[1]):
            for i in range(LANES):
                y[j, k, i] = x[j, k, i]


@kernel(inline=True, fastmath={"contract"})
def clear(x, n):  # type: ignore[no-untyped-def]
    """Set the first n of x (.., m, LANES) to zero."""
    for j in range(n):
        for k in range(x.shape[1]):
            for i in range(LANES):
                x[j, k, i] = 0.0
