"""Proximal maps against dense singular value decompositions, and against what they are defined to minimise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon.llr import Blocks
from crbsvd_plugin.recon.penalty import Penalty, Shifted, penalty
from crbsvd_plugin.recon.wavelet import Wavelet, _levels

Freeze = Callable[..., np.ndarray]
SHAPES = [(8, 8), (7, 5), (1, 9), (3, 2), (4, 5, 7), (1, 3, 6)]
EPS = {np.complex64: 2.0**-23, np.complex128: 2.0**-52}


def images(rng: np.random.Generator, freeze: Freeze, shape: tuple[int, ...], dtype: Any = np.complex128) -> np.ndarray:
    return freeze((rng.standard_normal((3, *shape)) + 1j * rng.standard_normal((3, *shape))).astype(dtype))


def blocks(shape: tuple[int, ...], size: int, shift: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return the blocks of a grid that begins at `shift`, cut at the edges of the image."""
    axes = []
    for n, start in zip(shape, shift, strict=True):
        begins = [begin for begin in range(start - size, n, size) if begin + size > 0] if n > size else [0]
        axes.append([slice(max(begin, 0), min(begin + size, n)) for begin in begins])
    return list(itertools.product(*axes))


def dense_prox(v: np.ndarray, t: float, size: int, shift: tuple[int, ...]) -> np.ndarray:
    out = np.full(v.shape, np.nan, np.complex128)
    for block in blocks(v.shape[1:], size, shift):
        part = v[:, *block]
        u, s, w = np.linalg.svd(part.reshape(len(v), -1).astype(np.complex128), full_matrices=False)
        out[:, *block] = ((u * np.maximum(s - t, 0)) @ w).reshape(part.shape)
    return out


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x))


def all_penalties(shape: tuple[int, ...], *, shifts: tuple[Any, ...] = ("none", "random", "overlap")) -> list[Penalty]:
    made = [penalty("l2", shape, block=3, shift="none")]
    return made + [penalty(name, shape, block=3, shift=shift) for name in ("llr", "wavelet") for shift in shifts]  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("size", [1, 3, 4, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_are_those_of_a_dense_decomposition(
    rng: np.random.Generator, frozen: Freeze, shape: tuple[int, ...], size: int, dtype: Any
) -> None:
    v, t, grid = images(rng, frozen, shape, dtype), 1.5, Blocks(shape, size)
    # eps sigma_1^2 / (2 t) in double, see the module; and the result is rounded once
    largest = norm(v)
    tolerance = 10 * EPS[np.complex128] * largest**2 / (2 * t) + EPS[dtype] * largest
    for shift in itertools.product(*map(range, grid.cycle)):
        found = grid.prox_at(v, t, shift)
        assert found.dtype == dtype
        assert norm(found - dense_prox(v, t, size, shift)) < tolerance
        parts = [v[:, *block].reshape(3, -1) for block in blocks(shape, size, shift)]
        expected = sum(np.linalg.svd(part, compute_uv=False).sum(dtype=float) for part in parts)
        assert grid.value_at(v, shift) == pytest.approx(expected, rel=10 * EPS[dtype])
    assert all((count == size) if n > size else (count == 1) for count, n in zip(grid.cycle, shape, strict=True))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("t", 10.0 ** np.arange(-14, 0))
def test_squaring_costs_what_is_stated(rng: np.random.Generator, frozen: Freeze, t: float, dtype: Any) -> None:
    """A block of singular values 1 to 1e-13, thresholds between them."""
    u = np.linalg.qr(rng.standard_normal((64, 5)) + 1j * rng.standard_normal((64, 5)))[0]
    w = np.linalg.qr(rng.standard_normal((5, 5)) + 1j * rng.standard_normal((5, 5)))[0]
    sigma = np.array([1, 3e-3, 3e-6, 3e-9, 1e-13])
    v = frozen(((u * sigma) @ w).T.reshape(5, 8, 8).astype(dtype))
    error = norm(Blocks((8, 8), 8).prox_at(v, t, (0, 0)) - dense_prox(v, t, 8, (0, 0)))
    eps = EPS[np.complex128]
    # sigma_1 = 1; eigenvalues of a K x K matrix are right to K eps
    assert error < min(5 * eps / (2 * t), np.sqrt(5 * eps)) + 10 * eps + EPS[dtype]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_proximal_map_minimises_what_defines_it(
    rng: np.random.Generator, frozen: Freeze, shape: tuple[int, ...]
) -> None:
    """1/2 |x - v|^2 + t R(x) is strongly convex: away from the minimum by d it is larger by at least |d|^2 / 2."""
    v, t = images(rng, frozen, shape), 0.8
    for one in all_penalties(shape, shifts=("none",)):

        def energy(x: np.ndarray, one: Penalty = one) -> float:
            return 0.5 * norm(x - v) ** 2 + t * one.value(x)

        x = one.prox(v, t)
        assert energy(x) < energy(v)
        assert energy(x) < energy(np.zeros_like(v))
        for scale in (1e-3, 0.1, 1.0):
            d = scale * images(rng, frozen, shape)
            rise = energy(x + d) - energy(x)
            assert rise >= 0.5 * norm(d) ** 2 - 1e-12 * energy(x)
        inward = 1e-3 * (v - x)  # the direction in which the misfit falls
        assert energy(x + inward) > energy(x)


@pytest.mark.parametrize("shape", SHAPES)
def test_maps_are_firmly_nonexpansive_and_change_nothing(
    rng: np.random.Generator, frozen: Freeze, shape: tuple[int, ...]
) -> None:
    u, v = images(rng, frozen, shape), images(rng, frozen, shape)
    for one in all_penalties(shape):
        d = one.prox(u, 0.7, 3) - one.prox(v, 0.7, 3)
        assert norm(d) ** 2 <= np.vdot(d, u - v).real * (1 + 1e-12)
        # a threshold of zero is no threshold
        assert norm(one.prox(v, 0.0, 3) - v) < 1e-13 * norm(v)
        assert one.prox(v.astype(np.complex64), 0.7, 3).dtype == np.complex64


def test_shifts(rng: np.random.Generator, frozen: Freeze) -> None:
    v = images(rng, frozen, (5, 7))
    for grid in (Blocks((5, 7), 3), Wavelet((5, 7))):
        shifts = list(itertools.product(*map(range, grid.cycle)))
        each = {shift: grid.prox_at(v, 0.5, shift) for shift in shifts}
        assert norm(Shifted(grid, "none").prox(v, 0.5, 4) - each[0, 0]) == 0
        overlap = Shifted(grid, "overlap")
        assert norm(overlap.prox(v, 0.5) - sum(each.values()) / len(each)) < 1e-14 * norm(v)
        random = Shifted(grid, "random")
        found = [random.prox(v, 0.5, i) for i in range(12 * len(shifts))]
        used = [next(shift for shift in shifts if np.array_equal(each[shift], x)) for x in found]
        assert set(used) == set(shifts)
        np.testing.assert_array_equal(random.prox(v, 0.5, 5), found[5])
        other = [Shifted(grid, "random", seed=1).prox(v, 0.5, i) for i in range(10)]
        assert not all(np.array_equal(a, b) for a, b in zip(found, other, strict=False))
        mean = np.mean([grid.value_at(v, shift) for shift in shifts])
        assert overlap.value(v) == pytest.approx(mean, rel=1e-14)
        assert random.value(v) == overlap.value(v)
        assert Shifted(grid, "none").value(v) == grid.value_at(v, (0, 0)) != mean


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (2, 2), (16, 17), (40, 3)])
def test_wavelets_are_orthonormal(rng: np.random.Generator, frozen: Freeze, shape: tuple[int, ...]) -> None:
    wavelet = Wavelet(shape)
    u, v = images(rng, frozen, shape), images(rng, frozen, shape)
    found = wavelet.forward(v)
    assert norm(wavelet.backward(found) - v) < 1e-13 * norm(v)
    assert norm(wavelet.forward(wavelet.backward(v)) - v) < 1e-13 * norm(v)
    assert abs(np.vdot(wavelet.forward(u), found) - np.vdot(u, v)) < 1e-13 * norm(u) * norm(v)
    # images do not mix, and a factor of i stays one
    np.testing.assert_array_equal(wavelet.forward(v[1:2]), found[1:2])
    np.testing.assert_array_equal(wavelet.forward(1j * v), 1j * found)
    assert wavelet.value_at(v, (0,) * len(shape)) == pytest.approx(np.abs(found).sum())


def test_wavelets_are_those_of_four_taps() -> None:
    """Daubechies' filter of two vanishing moments, from its formula; the odd voxel is left over."""
    root = np.sqrt(3)
    taps = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2))
    x = np.random.default_rng(0).standard_normal(9)
    index = (2 * np.arange(4)[:, None] - 2 + np.arange(4)) % 8
    found = Wavelet((1, 9)).forward(x.reshape(1, 1, 9).astype(complex)).ravel()
    np.testing.assert_allclose(found[:4], x[index] @ taps, atol=1e-14)
    assert found[4] == x[8]
    details = (taps[::-1] * [1, -1, 1, -1]) @ x[index].T
    np.testing.assert_allclose(np.abs(found[5:]), np.abs(details), atol=1e-14)


@pytest.mark.parametrize(("n", "levels"), [(1, 0), (2, 1), (15, 1), (16, 1), (28, 1), (29, 2), (64, 3), (256, 5)])
def test_levels_end_below_sixteen(n: int, levels: int) -> None:
    assert _levels(n) == levels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regulariser": "tv"}, "regulariser is 'tv', expected one of l2, llr, wavelet"),
        ({"shift": "some"}, "shift is 'some', expected one of none, random, overlap"),
        ({"block": 0}, "block is 0, expected at least 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        penalty(**{"regulariser": "llr", "shape": (4, 4), "block": 2, "shift": "none", **options})
