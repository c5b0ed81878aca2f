"""Atoms in small groups with a ball around each: what a search can leave out.

An atom d and a voxel c are lines, with the angle arccos |d^H c| / (||d|| ||c||) between them. That is a metric: an atom
of a ball of radius r around a centre g is no closer to c than angle(g, c) - r. Fingerprints lie on a surface of as many
dimensions as there are parameters, so few balls come as close to a voxel as its best atom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..jit import kernel, prange

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 64
"""Atoms of a leaf, leaves of a branch, branches of a block: a few vectors of a processor."""
STEP = 5
"""Coordinates that are worked on at a time: there are a multiple of it, the last ones 0."""

_WAYS = 4  # parts that a group is cut into at a time
_SAMPLE = 64  # atoms that tell how a group lies
_LINE = 1024  # atoms that tell where all lie
_BUCKETS = 1024
_ITERATIONS = 6
_FAST = {"contract", "reassoc", "nsz"}


@dataclass(frozen=True)
class Index:
    """Atoms (B, K) in the order of a tree: blocks of branches of leaves.

    Parameters
    ----------
    atoms : float32 array (leaves, n, WIDTH)
        The atoms, and zeros after the last one. They have K coordinates where all are real, or all imaginary, else
        2 K, real and imaginary parts in turn, and zeros up to a multiple of `STEP`.
    number : int32 array (leaves, WIDTH)
        Which atom it is; B for none.
    is_complex : bool
        There are 2 K.
    norm : float
        The largest norm of an atom, or 1 where all are zero.
    leaves, branches : float32 array (blocks, n + 2, WIDTH)
        Balls around leaves, a block for every branch, and around branches: the unit vector of the centre, cosine and
        sine of the radius, which is at most a right angle.
    """

    atoms: NDArray[np.float32]
    number: NDArray[np.int32]
    is_complex: bool
    norm: float
    leaves: NDArray[np.float32]
    branches: NDArray[np.float32]


def build(atoms: NDArray[np.complex64]) -> Index:
    """Return the index of atoms (B, K), at least one; it is the same for every number of threads."""
    part = _real_part(atoms)
    is_complex = part is None
    raw = np.ascontiguousarray(atoms if part is None else part)
    order = _ordered(_aligned(raw).view(np.float32))
    raw = raw.view(np.float32)
    n_atoms, n = raw.shape
    n_leaves = -(-n_atoms // WIDTH)
    packed = np.zeros((n_leaves, -(-n // STEP) * STEP, WIDTH), np.float32)
    number = np.full((n_leaves, WIDTH), n_atoms, np.int32)
    squares = np.zeros(n_leaves)
    _pack(raw, order, packed, number, squares)
    norm = float(np.sqrt(squares.max())) or 1.0
    rank = atoms.shape[1] if is_complex else 0
    return Index(packed, number, is_complex, norm, _balls(packed, rank, 1), _balls(packed, rank, WIDTH))


def _real_part(atoms: NDArray[np.complex64]) -> NDArray[np.float32] | None:
    """Return real numbers that match as the atoms do, if there are: all are real, or all imaginary (FISP)."""
    if not atoms.real.any():
        return atoms.imag
    return None if atoms.imag.any() else atoms.real


def _aligned(atoms: NDArray[Any]) -> NDArray[Any]:
    """Return atoms (B, n) with the phase that makes their product with a line in their midst positive."""
    sample = atoms[:: -(-len(atoms) // _LINE)].astype(np.result_type(atoms, np.float64))
    line = np.linalg.eigh(sample.T @ sample.conj())[1][:, -1]
    out = np.empty_like(atoms)
    _turn(atoms, line.astype(atoms.dtype), out)
    return out


@kernel(parallel=True)
def _turn(atoms, line, out):  # type: ignore[no-untyped-def]
    """Turn atoms to a line; not by BLAS, whose threads would stay busy for a while and be in the way of ours."""
    for i in prange(len(atoms)):
        product = atoms[i, 0] * np.conj(line[0])
        for a in range(1, len(line)):
            product += atoms[i, a] * np.conj(line[a])
        size = abs(product)
        turn = np.conj(product) / size if size > 0 else product
        for a in range(len(line)):
            out[i, a] = atoms[i, a] * turn


def _ordered(atoms: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return an order of atoms (B, n) in which WIDTH^2 neighbours, and WIDTH of these, lie close together.

    Groups are sorted along the direction in which they are longest, and cut, until they are small enough.
    """
    n_atoms = len(atoms)
    order = np.arange(n_atoms, dtype=np.int32)
    here, there, moved = atoms, np.empty_like(atoms), np.empty_like(order)
    edges = np.array([0, n_atoms])
    for unit in (WIDTH * WIDTH, WIDTH):
        while np.diff(edges).max() > unit:
            _sort_groups(here, order, there, moved, edges, unit)
            here, there = there, (np.empty_like(atoms) if here is atoms else here)
            order, moved = moved, order
            units = -(-np.diff(edges) // unit)
            cuts = [edges[:-1] + unit * (units * way // _WAYS) for way in range(_WAYS)]
            edges = np.unique(np.concatenate([*cuts, edges[-1:]]))
    return order


@kernel(parallel=True)
def _sort_groups(atoms, order, out, out_order, edges, unit):  # type: ignore[no-untyped-def]
    """Sort every group of more than `unit` atoms along its longest direction, to a fraction of its length."""
    n = atoms.shape[1]
    for group in prange(len(edges) - 1):
        low, high = edges[group], edges[group + 1]
        size = high - low
        if size <= unit:
            for i in range(low, high):
                out_order[i] = order[i]
                for a in range(n):
                    out[i, a] = atoms[i, a]
            continue
        direction = _longest(atoms, low, high)
        keys = np.empty(size, np.float32)
        least, most = np.float32(np.inf), np.float32(-np.inf)
        for i in range(size):
            key = np.float32(0)
            for a in range(n):
                key += atoms[low + i, a] * direction[a]
            keys[i] = key
            least, most = min(least, key), max(most, key)
        n_buckets = min(_BUCKETS, size)
        scale = (n_buckets - 1) / (most - least) if most > least else np.float32(0)
        starts = np.zeros(n_buckets + 1, np.int64)
        for i in range(size):
            starts[int((keys[i] - least) * scale) + 1] += 1
        for bucket in range(n_buckets):
            starts[bucket + 1] += starts[bucket]
        for i in range(size):
            bucket = int((keys[i] - least) * scale)
            place = low + starts[bucket]
            starts[bucket] += 1
            out_order[place] = order[low + i]
            for a in range(n):
                out[place, a] = atoms[low + i, a]


@kernel(fastmath=_FAST)
def _longest(atoms, low, high):  # type: ignore[no-untyped-def]
    """Return the direction in which atoms low to high, or some of them, are spread most."""
    n = atoms.shape[1]
    step = -(-(high - low) // _SAMPLE)
    mean, spread, line, product = np.zeros(n), np.zeros((n, n)), np.empty(n), np.empty(n)
    for i in range(low, high, step):
        for a in range(n):
            mean[a] += atoms[i, a]
    mean /= (high - low + step - 1) // step
    for i in range(low, high, step):
        for a in range(n):
            line[a] = atoms[i, a] - mean[a]
        for a in range(n):
            for b in range(n):
                spread[a, b] += line[a] * line[b]
    largest = 0
    for a in range(n):
        if spread[a, a] > spread[largest, largest]:
            largest = a
    line[:] = spread[largest]
    for _ in range(_ITERATIONS):
        size = 0.0
        for a in range(n):
            product[a] = 0
            for b in range(n):
                product[a] += spread[a, b] * line[b]
            size = max(size, abs(product[a]))
        if size == 0:
            break
        line[:] = product / size
    return line.astype(np.float32)


@kernel(parallel=True)
def _pack(atoms, order, packed, number, squares):  # type: ignore[no-untyped-def]
    """Fill leaves with atoms in their order, and find the largest squared norm in each."""
    n_atoms, n = atoms.shape
    for leaf in prange(len(packed)):
        for j in range(min(WIDTH, n_atoms - leaf * WIDTH)):
            i = order[leaf * WIDTH + j]
            number[leaf, j] = i
            square = 0.0
            for a in range(n):
                x = np.float64(atoms[i, a])
                packed[leaf, a, j] = x
                square += x * x
            squares[leaf] = max(squares[leaf], square)


def _balls(packed: NDArray[np.float32], rank: int, n_leaves: int) -> NDArray[np.float32]:
    """Return a ball around the atoms of every `n_leaves` leaves; their rank where they are complex, else 0."""
    n_balls = -(-len(packed) // n_leaves)
    balls = np.zeros((-(-n_balls // WIDTH), packed.shape[1] + 2, WIDTH), np.float32)
    _surround(packed, rank, n_leaves, n_balls, balls)
    return balls


@kernel(inline=True, fastmath=_FAST)
def _products(line, packed, leaf, rank, re, im, size):  # type: ignore[no-untyped-def]
    """Write g^H d, real and imaginary part, and ||d||^2 of a line g and every atom d of a leaf; complex if rank > 0."""
    for j in range(WIDTH):
        re[j], im[j], size[j] = 0, 0, 0
    for a in range(len(line)):
        g = line[a]
        for j in range(WIDTH):
            x = np.float64(packed[leaf, a, j])
            re[j] += g * x
            size[j] += x * x
    for k in range(rank):
        a, b = 2 * k, 2 * k + 1
        g, h = line[a], line[b]
        for j in range(WIDTH):
            im[j] += g * packed[leaf, b, j] - h * packed[leaf, a, j]


@kernel(parallel=True, fastmath=_FAST)
def _surround(packed, rank, n_leaves, n_balls, balls):  # type: ignore[no-untyped-def]
    """Find centres, the mean of atoms that are turned to that of the first, and radii; complex if rank > 0."""
    n = packed.shape[1]
    for ball in prange(n_balls):
        begin, end = ball * n_leaves, min(len(packed), (ball + 1) * n_leaves)
        line, mean = np.zeros(n), np.zeros(n)
        re, im, size, least = np.empty(WIDTH), np.empty(WIDTH), np.empty(WIDTH), np.ones(WIDTH)
        for a in range(n):
            line[a] = packed[begin, a, 0]
        for leaf in range(begin, end):
            _products(line, packed, leaf, rank, re, im, size)
            for j in range(WIDTH):
                length = np.sqrt(re[j] * re[j] + im[j] * im[j])
                turn = 1 / length if length > 0 else 0.0
                re[j], im[j] = re[j] * turn, im[j] * turn
            for a in range(n):
                for j in range(WIDTH):
                    mean[a] += re[j] * packed[leaf, a, j]
            for k in range(rank):  # times the conjugate of re + i im
                a, b = 2 * k, 2 * k + 1
                for j in range(WIDTH):
                    mean[a] += im[j] * packed[leaf, b, j]
                    mean[b] -= im[j] * packed[leaf, a, j]
        length = np.sqrt(np.sum(mean * mean))
        block, place, norm = ball // WIDTH, ball % WIDTH, 0.0
        for a in range(n):
            balls[block, a, place] = mean[a] / length if length > 0 else 0
            # the radius is that around what is stored
            line[a] = balls[block, a, place]
            norm += line[a] * line[a]
        for leaf in range(begin, end):
            _products(line, packed, leaf, rank, re, im, size)
            for j in range(WIDTH):
                # an atom that is zero is nowhere, and a centre that is zero as far as can be from all
                share = (
                    (re[j] * re[j] + im[j] * im[j]) / (size[j] * norm) if size[j] * norm > 0 else 1 - np.sign(size[j])
                )
                least[j] = min(least[j], share)
        square = 1.0
        for j in range(WIDTH):
            square = min(square, least[j])
        balls[block, n, place], balls[block, n + 1, place] = np.sqrt(square), np.sqrt(1 - square)
