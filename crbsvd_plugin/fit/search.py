"""The best atom of every voxel, found in an index and proven by what the bounds leave out.

A voxel c of unit norm scores |d^H c|^2 with an atom d: in coordinates of n real numbers (p d)^2 + (q d)^2. Let b be the
best score so far, over the largest squared norm of an atom, and cos(psi)^2 = b: an atom of a ball (g, r) can only be
better if angle(g, c) < psi + r, that is |g^H c| > cos(psi + r), which takes no more than the product and two
multiplications. Voxels of real atoms are turned such that p is as long as possible and q orthogonal to it, with
the squared lengths l1 + l2 = 1. A real d then scores at most l2 + (l1 - l2) cos(d, p)^2, so that p can take the place
of c, with cos(psi)^2 = (b - l2) / (l1 - l2): tighter where c is nearly real, as signals are and noise is not.

Scores of single precision choose who is scored in double precision; u = 2^-24 is its rounding. A product of n terms is
off by (n + 1) u of the lengths, and p, q and g by another u: so a score, with sqrt((p d)^2 + (q d)^2) <= 1 and lengths
of (p, q) up to sqrt(2), by less than 3 (n + 3) u; and |g^H c|, with the rounding of four cosines and sines, of their
products and of the squares that are compared, by less than 2 (n + 5) u.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..jit import kernel, prange
from .index import STEP, WIDTH, Index

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TILE = 64  # voxels that a thread takes at a time
_FEW, _SHARE = 64, 8  # so many leaves, and this part of all, are too many for a search
_NEARLY_REAL = 0.05  # l2 up to which p alone gives the better bound
_UNIT = 2.0**-24
_FAST = {"contract", "reassoc", "nsz", "nnan", "ninf"}


def search(voxels: NDArray[np.complex64], index: Index) -> NDArray[np.intp]:
    """Return the number of the atom of largest |d^H c| for each voxel (V, K), in double precision; ties to the first.

    Voxels are searched for one by one, so that the result is the same for any number of threads and in any blocks.
    """
    best = np.zeros(len(voxels), np.intp)
    _search(
        np.ascontiguousarray(voxels), index.is_complex, index.atoms, index.number, index.first, index.norm,
        index.leaves, index.branches, best,
    )  # fmt: skip
    return best


# numba counts views of arrays, and arrays that are given to a function of many, which takes longer than the work on a
# row: so arrays go whole, with the index of the row that is meant, and what is called for every leaf takes few of them.


@kernel(inline=True, fastmath=_FAST)
def _scores(p, q, v, n, x, at, out, to, other):  # type: ignore[no-untyped-def]
    """Write (p x)^2 + (q x)^2 of rows v of p and q and all columns of block `at` to row `to` of out."""
    p0, p1, p2, p3, p4 = p[v, 0], p[v, 1], p[v, 2], p[v, 3], p[v, 4]
    q0, q1, q2, q3, q4 = q[v, 0], q[v, 1], q[v, 2], q[v, 3], q[v, 4]
    if n == STEP:  # sums stay in registers
        for j in range(WIDTH):
            s = p0 * x[at, 0, j] + p1 * x[at, 1, j] + p2 * x[at, 2, j] + p3 * x[at, 3, j] + p4 * x[at, 4, j]
            t = q0 * x[at, 0, j] + q1 * x[at, 1, j] + q2 * x[at, 2, j] + q3 * x[at, 3, j] + q4 * x[at, 4, j]
            out[to, j] = s * s + t * t
        return
    for j in range(WIDTH):
        out[to, j] = p0 * x[at, 0, j] + p1 * x[at, 1, j] + p2 * x[at, 2, j] + p3 * x[at, 3, j] + p4 * x[at, 4, j]
        other[j] = q0 * x[at, 0, j] + q1 * x[at, 1, j] + q2 * x[at, 2, j] + q3 * x[at, 3, j] + q4 * x[at, 4, j]
    for a in range(STEP, n, STEP):
        p0, p1, p2, p3, p4 = p[v, a], p[v, a + 1], p[v, a + 2], p[v, a + 3], p[v, a + 4]
        q0, q1, q2, q3, q4 = q[v, a], q[v, a + 1], q[v, a + 2], q[v, a + 3], q[v, a + 4]
        b, c, d, e = a + 1, a + 2, a + 3, a + 4
        for j in range(WIDTH):
            out[to, j] += p0 * x[at, a, j] + p1 * x[at, b, j] + p2 * x[at, c, j] + p3 * x[at, d, j] + p4 * x[at, e, j]
            other[j] += q0 * x[at, a, j] + q1 * x[at, b, j] + q2 * x[at, c, j] + q3 * x[at, d, j] + q4 * x[at, e, j]
    for j in range(WIDTH):
        out[to, j] = out[to, j] * out[to, j] + other[j] * other[j]


@kernel(inline=True, fastmath=_FAST)
def _any_above(scores, at, least):  # type: ignore[no-untyped-def]
    count = np.int32(0)
    for j in range(WIDTH):
        if scores[at, j] >= least:
            count += np.int32(1)
    return count > 0


@kernel(inline=True)
def _largest(bits, at):  # type: ignore[no-untyped-def]
    """Return the index of the largest of WIDTH scores, or of one that is nearly as large.

    The bits of numbers that are no smaller than 0 are ordered as they are; the index takes the place of the last ones.
    """
    largest = np.int32(0)
    for j in range(WIDTH):
        largest = max(largest, (bits[at, j] & np.int32(-WIDTH)) | np.int32(j))
    return largest & np.int32(WIDTH - 1)


@kernel(inline=True, fastmath=_FAST)
def _may_hold(scores, to, balls, at, n, psi, margin, flags):  # type: ignore[no-untyped-def]
    """Flag the balls of block `at` that may hold a better atom, from the scores of their centres in row `to`."""
    cos_psi, sin_psi = psi
    for j in range(WIDTH):
        least = cos_psi * balls[at, n, j] - sin_psi * balls[at, n + 1, j] - margin
        flags[j] = scores[to, j] >= least * abs(least)


@kernel(inline=True)
def _exact(voxels, v, atoms, leaf, j, is_complex):  # type: ignore[no-untyped-def]
    """Return |d^H c|^2 in double precision; products are exact there, and summed in the order of the coefficients."""
    re, im = 0.0, 0.0
    for k in range(voxels.shape[1]):
        c = np.complex128(voxels[v, k])
        if is_complex:
            d_re, d_im = np.float64(atoms[leaf, 2 * k, j]), np.float64(atoms[leaf, 2 * k + 1, j])
            re += d_re * c.real + d_im * c.imag
            im += d_re * c.imag - d_im * c.real
        else:
            d = np.float64(atoms[leaf, k, j])
            re += d * c.real
            im += d * c.imag
    return re * re + im * im


@kernel(inline=True)
def _all_exact(voxels, v, atoms, leaf, is_complex, out):  # type: ignore[no-untyped-def]
    """Write what `_exact` returns of every atom of a leaf to row 0 of out; row 1 is used too."""
    for j in range(WIDTH):
        out[0, j], out[1, j] = 0, 0
    for k in range(voxels.shape[1]):
        c = np.complex128(voxels[v, k])
        x, y = c.real, c.imag
        if is_complex:
            a, b = 2 * k, 2 * k + 1
            for j in range(WIDTH):
                out[0, j] += np.float64(atoms[leaf, a, j]) * x + np.float64(atoms[leaf, b, j]) * y
                out[1, j] += np.float64(atoms[leaf, a, j]) * y - np.float64(atoms[leaf, b, j]) * x
        else:
            for j in range(WIDTH):
                out[0, j] += np.float64(atoms[leaf, k, j]) * x
                out[1, j] += np.float64(atoms[leaf, k, j]) * y
    for j in range(WIDTH):
        out[0, j] = out[0, j] * out[0, j] + out[1, j] * out[1, j]


@kernel(inline=True)
def _turned(voxels, v, is_complex, p, q, row):  # type: ignore[no-untyped-def]
    """Write voxel v in the coordinates of the atoms to a row; return its squared norm, and l2 or, if complex, 0.5."""
    rank = voxels.shape[1]
    size, squares = 0.0, 0j
    for k in range(rank):
        c = np.complex128(voxels[v, k])
        size += c.real * c.real + c.imag * c.imag
        squares += c * c
    if not size > 0:
        return 0.0, 0.5
    unit = 1 / np.sqrt(size)
    if is_complex:
        for k in range(rank):
            c = voxels[v, k] * unit
            p[row, 2 * k], p[row, 2 * k + 1] = c.real, c.imag
            q[row, 2 * k], q[row, 2 * k + 1] = c.imag, -c.real
        return size, 0.5
    length = abs(squares)
    turn = unit * np.sqrt(squares.conjugate() / length) if length > 0 else unit + 0j
    for k in range(rank):
        c = voxels[v, k] * turn
        p[row, k], q[row, k] = c.real, c.imag
    return size, max(0.0, 0.5 - 0.5 * length / size)


@kernel(inline=True)
def _angle(score, low):  # type: ignore[no-untyped-def]
    """Return cosine and sine of psi from b and l2; 0 stands for the bound that does not need l2."""
    square = min(1.0, max(0.0, (score - low) / (1 - 2 * low)))
    return np.float32(np.sqrt(square)), np.float32(np.sqrt(1 - square))


@kernel(inline=True)
def _improve(  # type: ignore[no-untyped-def]
    voxels, v, atoms, number, leaf, is_complex, row, tops, top_bits, found, exact, exact_bits
):
    """Take the best atom of a leaf if it is better than that of a row, and return where it lies, else -1."""
    at = -1
    _all_exact(voxels, v, atoms, leaf, is_complex, exact)
    largest = np.int64(0)
    for j in range(WIDTH):
        largest = max(largest, exact_bits[0, j])
    if largest >= top_bits[row]:
        for j in range(WIDTH):
            score = exact[0, j]
            if score > tops[row] or (score == tops[row] and number[leaf, j] < found[row]):
                tops[row], found[row], at = score, number[leaf, j], j
    return at


@kernel(parallel=True)
def _search(voxels, is_complex, atoms, number, first, norm, leaves, branches, best):  # type: ignore[no-untyped-def]
    n_voxels, n, n_leaves, n_branches, n_blocks = len(voxels), atoms.shape[1], len(atoms), len(leaves), len(branches)
    margin = np.float32(2 * (n + 5) * _UNIT)
    slack = 3 * (n + 4) * _UNIT * norm * norm
    most = _FEW + n_leaves // _SHARE
    of_leaves, of_atoms = n_blocks, n_blocks + 1  # rows of scores after those of the branches
    for tile in prange(-(-n_voxels // _TILE)):
        begin = tile * _TILE
        end = min(n_voxels, begin + _TILE)
        # a row for the voxel in work, after one for each of those that are left for later
        p, q = np.zeros((_TILE + 1, n), np.float32), np.zeros((_TILE + 1, n), np.float32)
        units, tops, found = np.empty(_TILE + 1), np.empty(_TILE + 1), np.empty(_TILE + 1, np.int64)
        a, b = np.zeros((1, n), np.float32), np.zeros((1, n), np.float32)
        scores, other = np.zeros((n_blocks + 2, WIDTH), np.float32), np.empty(WIDTH, np.float32)
        exact = np.empty((2, WIDTH))
        score_bits, exact_bits, top_bits = scores.view(np.int32), exact.view(np.int64), tops.view(np.int64)
        branch_flags, leaf_flags = np.empty(WIDTH, np.uint8), np.empty(WIDTH, np.uint8)
        # most flags are not set: they are looked at eight at a time
        branch_words, leaf_words = branch_flags.view(np.uint64), leaf_flags.view(np.uint64)
        left, row, place = np.empty(_TILE, np.int64), 0, first
        for v in range(begin, end):
            size, low = _turned(voxels, v, is_complex, p, q, row)
            found[row], tops[row] = 0, _exact(voxels, v, atoms, first // WIDTH, first % WIDTH, is_complex)
            if size == 0:
                best[v] = 0
                continue
            # the atom of a neighbour is a good guess
            guess = _exact(voxels, v, atoms, place // WIDTH, place % WIDTH, is_complex)
            if guess > tops[row]:
                found[row], tops[row] = number[place // WIDTH, place % WIDTH], guess
            units[row] = 1 / size
            unit = units[row] / (norm * norm)
            nearly_real = low < _NEARLY_REAL
            longer = np.float32(1 / np.sqrt(1 - low))
            for i in range(n):
                a[0, i], b[0, i] = (p[row, i] * longer, 0) if nearly_real else (p[row, i], q[row, i])
            if not nearly_real:
                low = 0.0
            # first the leaf that seems to be nearest, for a bound that leaves out most
            nearest, highest = 0, np.float32(-1)
            for block in range(n_blocks):
                _scores(a, b, 0, n, branches, block, scores, block, other)
                j = _largest(score_bits, block)
                if scores[block, j] > highest:
                    nearest, highest = block * WIDTH + j, scores[block, j]
            # where all scores are 0 it may be a ball that does not exist
            nearest = min(nearest, n_branches - 1)
            _scores(a, b, 0, n, leaves, nearest, scores, of_leaves, other)
            start = min(nearest * WIDTH + _largest(score_bits, of_leaves), n_leaves - 1)
            _scores(p, q, row, n, atoms, start, scores, of_atoms, other)
            if _any_above(scores, of_atoms, np.float32(tops[row] * units[row] - slack)):
                at = _improve(
                    voxels, v, atoms, number, start, is_complex, row, tops, top_bits, found, exact, exact_bits
                )
                place = start * WIDTH + at if at >= 0 else place
            psi = _angle(tops[row] * unit, low)
            n_scanned = 0
            for block in range(n_blocks):
                _may_hold(scores, block, branches, block, n, psi, margin, branch_flags)
                for word in range(len(branch_words)):
                    if branch_words[word] == 0:
                        continue
                    for i in range(8 * word, 8 * word + 8):
                        branch = block * WIDTH + i
                        if branch_flags[i] == 0 or branch >= n_branches or n_scanned > most:
                            continue
                        _scores(a, b, 0, n, leaves, branch, scores, of_leaves, other)
                        _may_hold(scores, of_leaves, leaves, branch, n, psi, margin, leaf_flags)
                        for leaf_word in range(len(leaf_words)):
                            if leaf_words[leaf_word] == 0:
                                continue
                            for j in range(8 * leaf_word, 8 * leaf_word + 8):
                                leaf = branch * WIDTH + j
                                if leaf_flags[j] == 0 or leaf >= n_leaves or leaf == start:
                                    continue
                                n_scanned += 1
                                _scores(p, q, row, n, atoms, leaf, scores, of_atoms, other)
                                if _any_above(scores, of_atoms, np.float32(tops[row] * units[row] - slack)):
                                    at = _improve(
                                        voxels, v, atoms, number, leaf, is_complex, row, tops, top_bits, found, exact,
                                        exact_bits,
                                    )  # fmt: skip
                                    if at >= 0:
                                        place, psi = leaf * WIDTH + at, _angle(tops[row] * unit, low)
            if n_scanned > most:
                left[row] = v
                row += 1
            else:
                best[v] = found[row]
        # a leaf that is in the cache serves all voxels that need nearly all of them
        for leaf in range(n_leaves if row > 0 else 0):
            for i in range(row):
                _scores(p, q, i, n, atoms, leaf, scores, of_atoms, other)
                if _any_above(scores, of_atoms, np.float32(tops[i] * units[i] - slack)):
                    _improve(
                        voxels, left[i], atoms, number, leaf, is_complex, i, tops, top_bits, found, exact, exact_bits
                    )
        for i in range(row):
            best[left[i]] = found[i]
