"""Kernels that orthogonalise the few long columns of each atom against one another.

The part of column a_i that is orthogonal to all others has the direction of the dual vector d_i,
which lies in the span of the columns and has a_j^H d_i = 1 for j = i, else 0; its length is
1 / ||d_i||. With A = Q R, d_i = Q R^-H e_i, so one factorisation serves all targets: columns are
normalised, R is the Cholesky factor of their Gram matrix, Q = A R^-1, and the same once more for Q
(Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, ETNA 44, 2015). The first solve is backward stable by rows
and the second problem is almost orthonormal, which is checked; so Q R = A and Q^H Q = 1 hold to a small
multiple of eps, and so does a_j^H u_i = 0 for the unit vector u_i, whatever the condition kappa of the
columns. Norms have the relative error kappa eps that lies in the problem. Atoms with kappa above
`CONDITION`, among them all that have dependent columns, are orthogonalised target by target by modified
Gram-Schmidt, twice; below it no column is within 1e-6 of the span of the others, so the two ways agree.

A row of the work array is a column as real numbers: real parts, then imaginary ones. An atom that has no
real (or imaginary) parts uses only the other half, so that zeros stay zeros.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel, prange

CONDITION = 1e6
"""Largest condition number, in the Frobenius norm, of the normalised columns for which Cholesky is used."""

# squared norms below it have lost digits to the end of the range: such a column counts as zero
_TINY = 1e-280
# how far the first Q may be from orthonormal: usually eps kappa^2, at most 1e-3; the second is then as good as it gets
_ALMOST = 0.1
# a block of ten rows of this many numbers stays in the first-level cache
_BLOCK = 256
# sums may be reordered and fused; infinite and undefined values and comparisons keep their meaning
_FAST = {"reassoc", "contract", "nsz"}


@kernel(inline=True, fastmath=_FAST)
def _overlap(x, i, j, start, stop, half):  # type: ignore[no-untyped-def]
    """x_i^H x_j over a part of two rows; real if `half` is 0, else imaginary parts stand `half` further on."""
    u, v = x[i, start:stop], x[j, start:stop]
    real, imag = 0.0, 0.0
    if half == 0:
        for t in range(len(u)):
            real += u[t] * v[t]
    else:
        p, q = x[i, start + half : stop + half], x[j, start + half : stop + half]
        for t in range(len(u)):
            real += u[t] * v[t] + p[t] * q[t]
            imag += u[t] * q[t] - p[t] * v[t]
    return complex(real, imag)


@kernel(inline=True, fastmath=_FAST)
def _add(x, i, factor, j, start, stop, half):  # type: ignore[no-untyped-def]
    """Add `factor` times row j to row i."""
    u, v = x[i, start:stop], x[j, start:stop]
    a, b = factor.real, factor.imag
    if half == 0:
        for t in range(len(u)):
            u[t] += a * v[t]
    else:
        p, q = x[i, start + half : stop + half], x[j, start + half : stop + half]
        for t in range(len(u)):
            u[t] += a * v[t] - b * q[t]
            p[t] += a * q[t] + b * v[t]


@kernel(inline=True, fastmath=_FAST)
def _scale(x, i, factor, j, start, stop):  # type: ignore[no-untyped-def]
    """Make row i `factor`, which is real, times row j."""
    u, v = x[i, start:stop], x[j, start:stop]
    for t in range(len(u)):
        u[t] = factor * v[t]


@kernel(inline=True, fastmath=_FAST)
def _split(source, x, i, length):  # type: ignore[no-untyped-def]
    """Write complex numbers to row i; return the sums of squares of the real and imaginary parts."""
    u, p = x[i, :length], x[i, length : 2 * length]
    real, imag = 0.0, 0.0
    for t in range(length):
        u[t], p[t] = source[2 * t], source[2 * t + 1]
        real += u[t] * u[t]
        imag += p[t] * p[t]
    return real, imag


@kernel(inline=True)
def _store(x, i, factor, lo, hi, length, out):  # type: ignore[no-untyped-def]
    """Write `factor` times the part lo to hi of row i to complex numbers."""
    u, p = x[i, :length], x[i, length : 2 * length]
    for t in range(length if lo == 0 else 0):
        out[2 * t] = factor * u[t]
    for t in range(length if hi > length else 0):
        out[2 * t + 1] = factor * p[t]


@kernel(inline=True)
def _cholesky(g, n):  # type: ignore[no-untyped-def]
    """Replace the upper triangle of g = R^H R by R; return whether all pivots are positive."""
    for j in range(n):
        for i in range(j + 1):
            rest = g[i, j]
            for k in range(i):
                rest -= np.conj(g[k, i]) * g[k, j]
            if i < j:
                g[i, j] = rest / g[i, i].real
            elif rest.real > 0:
                g[j, j] = np.sqrt(rest.real)
            else:
                return False
    return True


@kernel(inline=True)
def _duals(r, n, y):  # type: ignore[no-untyped-def]
    """Solve R^H y_i = e_i for all i; y_i is row i of y, zero before its diagonal."""
    for i in range(n):
        for k in range(i):
            y[i, k] = 0
        for k in range(i, n):
            rest = complex(1.0 if k == i else 0.0, 0.0)
            for m in range(i, k):
                rest -= np.conj(r[m, k]) * y[i, m]
            y[i, k] = rest / r[k, k].real


@kernel(inline=True)
def _project_out(x, row, first, n, lo, hi, half):  # type: ignore[no-untyped-def]
    """Remove the span of the n orthonormal rows from `first` on from a row, twice; return the norm."""
    for _ in range(2):
        for j in range(first, first + n):
            _add(x, row, -_overlap(x, j, row, lo, hi - half, half), j, lo, hi - half, half)
    return np.sqrt(_overlap(x, row, row, lo, hi, 0).real)


@kernel(inline=True)
def _gram(x, rows, n, start, stop, half, g):  # type: ignore[no-untyped-def]
    """Add X^H X of one block of the rows to the upper triangle of g."""
    for j in range(n):
        for i in range(j + 1):
            g[i, j] += _overlap(x, rows[i], rows[j], start, stop, half)


@kernel()
def _factorise(x, rows, n, lo, hi, half, size, r, g, y):  # type: ignore[no-untyped-def]
    """Replace the rows by Q g, A = Q g r and Q orthonormal, and solve r^H y_i = e_i; return whether that is sound."""
    r[:n, :n] = 0
    for start in range(lo, hi - half, _BLOCK):
        _gram(x, rows, n, start, min(start + _BLOCK, hi - half), half, r)
    for j in range(n):
        for i in range(j + 1):
            r[i, j] /= size[rows[i]] * size[rows[j]]
    if not _cholesky(r, n):
        return False
    _duals(r, n, y)
    if not n * np.sum(np.abs(y[:n, :n]) ** 2) <= CONDITION**2:
        return False
    g[:n, :n] = 0
    for start in range(lo, hi - half, _BLOCK):
        stop = min(start + _BLOCK, hi - half)
        for j in range(n):
            row, pivot = rows[j], r[j, j].real
            _scale(x, row, 1 / (size[row] * pivot), row, start, stop)
            if half:
                _scale(x, row, 1 / (size[row] * pivot), row, start + half, stop + half)
            for k in range(j):
                _add(x, row, -r[k, j] / pivot, rows[k], start, stop, half)
        _gram(x, rows, n, start, stop, half, g)
    away = 0.0
    for j in range(n):
        for i in range(j + 1):
            away += np.abs(g[i, j] - (i == j))
    return away < _ALMOST and _cholesky(g, n)


@kernel()
def _together(x, rows, n, first, lo, hi, length, half, size, work, units, norms):  # type: ignore[no-untyped-def]
    """Orthogonalise all targets, which stand in the rows from `first` on, by one factorisation, if it is sound."""
    g, y = work[1], work[2]
    if not _factorise(x, rows, n, lo, hi, half, size, work[0], g, y):
        return False
    free = len(x) - 1  # a row to work on
    for i in range(np.sum(rows[:n] < first), n):
        for k in range(n):
            for m in range(k):
                y[i, k] -= np.conj(g[m, k]) * y[i, m]
            y[i, k] /= g[k, k].real
        long = np.sqrt(np.sum(np.abs(y[i, :n]) ** 2))
        norms[rows[i] - first] = size[rows[i]] / long
        if len(units) == 0:
            continue
        for k in range(n - 1, -1, -1):
            for m in range(k + 1, n):
                y[i, k] -= g[k, m] * y[i, m]
            y[i, k] /= g[k, k].real
        x[free, lo:hi] = 0
        for start in range(lo, hi - half, _BLOCK):
            for k in range(n):
                _add(x, free, y[i, k], rows[k], start, min(start + _BLOCK, hi - half), half)
        _store(x, free, 1 / long, lo, hi, length, units[rows[i] - first])
    return True


@kernel()
def _one_by_one(x, rows, n, first, lo, hi, length, half, size, tolerance, units, norms):  # type: ignore[no-untyped-def]
    """Orthogonalise each target against all other columns, leaving out what depends on those before it."""
    free, store = len(x) - 1, len(size)
    n_fixed = np.sum(rows[:n] < first)
    n_targets, n_kept = n - n_fixed, n_fixed
    for target in range(-1, n_targets):
        # the fixed columns once, then for each target all other targets, itself last
        count = n_fixed if target < 0 else n_targets
        n_basis = n_kept if target >= 0 else 0
        for step in range(count):
            row = rows[step] if target < 0 else rows[n_fixed + (target + 1 + step) % n_targets]
            _scale(x, free, 1 / size[row], row, lo, hi)
            rest = _project_out(x, free, store, n_basis, lo, hi, half)
            if rest <= tolerance:
                continue
            if target >= 0 and step == count - 1:
                norms[row - first] = rest * size[row]
                if len(units) > 0:
                    _store(x, free, 1 / rest, lo, hi, length, units[row - first])
            else:
                _scale(x, store + n_basis, 1 / rest, free, lo, hi)
                n_basis += 1
        if target < 0:
            n_kept = n_basis


@kernel()
def _load(signal, jac, order, length, over_complex, x, size, rows):  # type: ignore[no-untyped-def]
    """Write s, i s and the derivatives to rows; return n, lo, hi, half, and whether all is finite.

    The n columns that are not zero are named in `rows`, their norms stand in `size`; lo to hi is the part
    of the rows that is used, and half the distance of imaginary parts where arithmetic is complex, else 0.
    """
    real, imag = _split(signal, x, 0, length)
    size[0], size[1] = real + imag, 0.0
    for j in range(len(order)):
        a, b = _split(jac[order[j]], x, j + 2, length)
        real, imag, size[j + 2] = real + a, imag + b, a + b
    lo, hi = 0 if real > 0 else length, 2 * length if imag > 0 else length
    half = length if over_complex and hi - lo > length else 0
    if half == 0 and hi - lo > length:
        # in one half of the plane alone, i s is orthogonal to everything
        size[1] = size[0]
        for t in range(length):
            x[1, t], x[1, length + t] = -x[0, length + t], x[0, t]
    n = 0
    for used in np.flatnonzero(size > _TINY):
        size[used], rows[n], n = np.sqrt(size[used]), used, n + 1
    return n, lo, hi, half, np.isfinite(real + imag)


@kernel(parallel=True)
def orthogonalise(signal, jac, order, n_targets, over_complex, lengths, tolerance, n_chunks, units, norms, valid):  # type: ignore[no-untyped-def]
    """Write unit orthogonal parts and their norms of the columns jac[:, order[-n_targets:]].

    Parameters
    ----------
    signal, jac : array (B, 2 T), (B, P, 2 T)
        Complex numbers as pairs of real ones.
    order : int array (P,)
        The derivatives, the I = `n_targets` targets last.
    over_complex : bool
        Project over the complex numbers.
    lengths : int array (N,)
        Each problem is solved for the first so many frames alone.
    tolerance : float
        A normalised column whose orthogonal part is shorter depends on the others.
    n_chunks : int
        Atoms are spread over so many pieces of work; the result does not depend on it.
    units, norms : array (B, I, 2 T), array (N, B, I)
        Output, zeros before; there are no units if their second axis is empty, else N is 1.
    valid : bool array (B,)
        Output: whether all numbers are finite and can be squared.
    """
    n_rows = 2 + jac.shape[1]
    first = n_rows - n_targets
    for chunk in prange(n_chunks):
        # columns (s, i s, derivatives), as many orthonormal ones, and one that is worked on
        x = np.empty((2 * n_rows + 1, signal.shape[1]))
        work = np.empty((3, n_rows, n_rows), np.complex128)
        size, rows = np.empty(n_rows), np.empty(n_rows, np.int64)
        for atom in range(chunk, len(signal), n_chunks):
            valid[atom] = True
            for problem in range(len(lengths)):
                args = signal[atom], jac[atom], order, lengths[problem], over_complex, x, size, rows
                n, lo, hi, half, finite = _load(*args)
                if not finite:
                    valid[atom] = False
                    continue
                unit, norm = units[atom], norms[problem, atom]
                if not _together(x, rows, n, first, lo, hi, lengths[problem], half, size, work, unit, norm):
                    _load(*args)
                    _one_by_one(x, rows, n, first, lo, hi, lengths[problem], half, size, tolerance, unit, norm)
