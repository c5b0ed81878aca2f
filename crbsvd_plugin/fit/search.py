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
        np.ascontiguousarray(voxels), index.is_complex, index.atoms, index.number, index.norm, index.leaves,
        index.branches, best,
    )  # fmt: skip
    return best


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
    p5, p6, p7, p8, p9 = p[v, 5], p[v, 6], p[v, 7], p[v, 8], p[v, 9]
    q5, q6, q7, q8, q9 = q[v, 5], q[v, 6], q[v, 7], q[v, 8], q[v, 9]
    if n == 2 * STEP:
        for j in range(WIDTH):
            s = p0 * x[at, 0, j] + p1 * x[at, 1, j] + p2 * x[at, 2, j] + p3 * x[at, 3, j] + p4 * x[at, 4, j]
            t = q0 * x[at, 0, j] + q1 * x[at, 1, j] + q2 * x[at, 2, j] + q3 * x[at, 3, j] + q4 * x[at, 4, j]
            s += p5 * x[at, 5, j] + p6 * x[at, 6, j] + p7 * x[at, 7, j] + p8 * x[at, 8, j] + p9 * x[at, 9, j]
            t += q5 * x[at, 5, j] + q6 * x[at, 6, j] + q7 * x[at, 7, j] + q8 * x[at, 8, j] + q9 * x[at, 9, j]
            out[to, j] = s * s + t * t
        return
    for j in range(WIDTH):
        out[to, j], other[j] = 0, 0
    for a in range(0, n, STEP):
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
    found = np.uint8(0)  # not a bool, of which LLVM makes no vectors
    for j in range(WIDTH):
        found |= np.uint8(scores[at, j] >= least)
    return found > 0


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
def _flagged(flags, words, n, out):  # type: ignore[no-untyped-def]
    """Write the numbers below n of the flags that are set, few of most; return how many. Words are eight flags."""
    count = 0
    for word in range(len(words)):
        if words[word] != 0:
            for j in range(8 * word, 8 * word + 8):
                out[count] = j
                count += flags[j]
    while count > 0 and out[count - 1] >= n:
        count -= 1
    return count


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
def _scan(voxels, v, row, index, leaf, rows, slack, scores, bits, to, other):  # type: ignore[no-untyped-def]
    """Take the best atom of a leaf if it is better than that of a row so far, and return where it lies, else -1."""
    is_complex, atoms, number = index
    p, q, units, tops, found = rows
    at, j = -1, 0
    _scores(p, q, row, atoms.shape[1], atoms, leaf, scores, to, other)
    if _any_above(scores, to, np.float32(tops[row] * units[row] - slack)):
        # first the one that leaves little to be compared with
        following = _largest(bits, to)
        while following < WIDTH:
            score = _exact(voxels, v, atoms, leaf, following, is_complex)
            if score > tops[row] or (score == tops[row] and number[leaf, following] < found[row]):
                tops[row], found[row], at = score, number[leaf, following], following
            least = np.float32(tops[row] * units[row] - slack)
            while j < WIDTH and scores[to, j] < least:
                j += 1
            following, j = j, j + 1
    return at


@kernel(inline=True)
def _search_tile(voxels, begin, end, index, norm, leaves, branches, rows, work, best):  # type: ignore[no-untyped-def]
    """Search voxels begin to end; `rows` holds the voxel in work, after those that are left for later."""
    is_complex, atoms, number = index
    p, q, units, tops, found = rows
    left, a, b, scores, score_bits, other, flags, words, branch_list, leaf_list = work
    n, n_leaves, n_branches, n_blocks = atoms.shape[1], len(atoms), len(leaves), len(branches)
    margin = np.float32(2 * (n + 5) * _UNIT)
    slack = 3 * (n + 4) * _UNIT * norm * norm
    most = _FEW + n_leaves // _SHARE
    of_leaves, of_atoms = n_blocks, n_blocks + 1  # rows of scores after those of the branches
    row, place = 0, 0
    for v in range(begin, end):
        size, low = _turned(voxels, v, is_complex, p, q, row)
        if size == 0:
            best[v] = 0
            continue
        # the atom of a neighbour is a good guess
        leaf, j = place // WIDTH, place % WIDTH
        found[row], tops[row] = number[leaf, j], _exact(voxels, v, atoms, leaf, j, is_complex)
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
        at = _scan(voxels, v, row, index, start, rows, slack, scores, score_bits, of_atoms, other)
        place = start * WIDTH + at if at >= 0 else place
        psi = _angle(tops[row] * unit, low)
        n_scanned = 0
        for block in range(n_blocks):
            _may_hold(scores, block, branches, block, n, psi, margin, flags)
            for i in range(_flagged(flags, words, n_branches - block * WIDTH, branch_list)):
                branch = block * WIDTH + branch_list[i]
                if n_scanned > most:
                    break
                _scores(a, b, 0, n, leaves, branch, scores, of_leaves, other)
                _may_hold(scores, of_leaves, leaves, branch, n, psi, margin, flags)
                for j in range(_flagged(flags, words, n_leaves - branch * WIDTH, leaf_list)):
                    leaf = branch * WIDTH + leaf_list[j]
                    if leaf == start:
                        continue
                    n_scanned += 1
                    at = _scan(voxels, v, row, index, leaf, rows, slack, scores, score_bits, of_atoms, other)
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
            _scan(voxels, left[i], i, index, leaf, rows, slack, scores, score_bits, of_atoms, other)
    for i in range(row):
        best[left[i]] = found[i]


@kernel(parallel=True)
def _search(voxels, is_complex, atoms, number, norm, leaves, branches, best):  # type: ignore[no-untyped-def]
    n_voxels, n, n_blocks = len(voxels), atoms.shape[1], len(branches)
    for tile in prange(-(-n_voxels // _TILE)):
        p, q = np.zeros((_TILE + 1, n), np.float32), np.zeros((_TILE + 1, n), np.float32)
        units, tops, found = np.empty(_TILE + 1), np.empty(_TILE + 1), np.empty(_TILE + 1, np.int64)
        a, b, left = np.zeros((1, n), np.float32), np.zeros((1, n), np.float32), np.empty(_TILE, np.int64)
        scores, other = np.zeros((n_blocks + 2, WIDTH), np.float32), np.empty(WIDTH, np.float32)
        flags, some, more = np.empty(WIDTH, np.uint8), np.empty(WIDTH, np.int64), np.empty(WIDTH, np.int64)
        work = left, a, b, scores, scores.view(np.int32), other, flags, flags.view(np.uint64), some, more
        _search_tile(
            voxels, tile * _TILE, min(n_voxels, (tile + 1) * _TILE), (is_complex, atoms, number), norm, leaves,
            branches, (p, q, units, tops, found), work, best,
        )  # fmt: skip
