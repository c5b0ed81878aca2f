"""Gram matrices of complex rows by real products, and their factors, against numpy's complex arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fold_case import EPS, KINDS, Array, Kind, complex_normal

from crbsvd_plugin.gram import factor, outer, parts_of, resolution


def make_rows(rng: np.random.Generator, kind: Kind, n: int, size: int) -> Array:
    rows = complex_normal(rng, n, size)
    if kind == "mixed":
        rows[::2] = rows[::2].real
        return rows
    return {"complex": rows, "real": rows.real + 0j, "imaginary": 1j * rows.imag}[kind]


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("kind", KINDS)
def test_outer_is_the_sum_of_outer_products(
    rng: np.random.Generator, frozen: Callable[..., Array], kind: Kind, n: int
) -> None:
    rows = frozen(make_rows(rng, kind, n, 11))
    parts = parts_of(rows)
    assert len(parts) == (2 if kind in ("complex", "mixed") and rows.imag.any() else 1)
    assert all(part.dtype == np.float64 and part.flags.c_contiguous for part in parts)
    expected = sum(np.outer(row, row.conj()) for row in rows)
    # a sum of n products: n eps of the product of the columns' norms
    limit = n * EPS * np.outer(np.linalg.norm(rows, axis=0), np.linalg.norm(rows, axis=0)) + 1e-300
    found = outer(parts, 11, conjugate=False)
    assert np.iscomplexobj(found) is (len(parts) == 2)
    assert (np.abs(found - expected) <= 2 * limit).all()
    np.testing.assert_array_equal(found, found.conj().T)
    # every row and its conjugate, by half each
    both = (expected + expected.conj()) / 2
    assert np.isrealobj(outer(parts, 11, conjugate=True))
    assert (np.abs(outer(parts, 11, conjugate=True) - both) <= 2 * limit).all()


def test_parts_of_real_and_of_nothing(frozen: Callable[..., Array]) -> None:
    (part,) = parts_of(frozen(np.arange(6, dtype=np.float32).reshape(2, 3)))
    np.testing.assert_array_equal(part, [[0, 1, 2], [3, 4, 5]])
    assert part.dtype == np.float64
    assert parts_of(np.zeros((2, 3), complex)) == []
    for nothing in ([], [np.zeros((0, 4))]):
        np.testing.assert_array_equal(outer(nothing, 4, conjugate=False), np.zeros((4, 4)))
    assert outer([np.zeros((3, 0))], 0, conjugate=False).shape == (0, 0)
    assert factor(np.zeros((0, 0))).shape == (0, 0)
    np.testing.assert_array_equal(factor(np.zeros((3, 3))), np.zeros((3, 3)))


@pytest.mark.parametrize("kind", ["complex", "real"])
def test_factor_gives_the_matrix_back_entry_by_entry(
    rng: np.random.Generator, frozen: Callable[..., Array], kind: Kind
) -> None:
    # sizes of the columns fall by 1e-12, so that the last diagonal entry is 1e-24 of the first
    rows = make_rows(rng, kind, 40, 13) * np.logspace(0, -12, 13)
    rows[:, 5] = 0
    gram = frozen(outer(parts_of(rows), 13, conjugate=False))
    w = factor(gram)
    size = np.linalg.norm(rows, axis=0)
    # eigh is off by a few eps times the norm of the scaled matrix, at most its size
    assert (np.abs(w @ w.conj().T - gram) <= 10 * 13 * EPS * np.outer(size, size)).all()
    assert not w[5].any()


@pytest.mark.parametrize("kind", ["complex", "real"])
def test_graded_columns_keep_their_singular_values(rng: np.random.Generator, kind: Kind) -> None:
    # the condition of D is 1e12; that of its columns scaled to unit norm is below 10, which is all that enters
    scale = np.logspace(0, -12, 13)
    rows = make_rows(rng, kind, 200, 13)
    assert np.linalg.cond(rows) < 10
    gram = outer(parts_of(rows * scale), 13, conjugate=False)
    # D = W W^H up to eps cond^2 relative to each entry (Demmel and Veselic); numpy's own SVD of rows * scale has
    # errors of eps of the largest, so the reference is the QR of columns in falling order, which is graded as well
    expected = [np.sqrt(np.linalg.det(gram[:k, :k] / np.outer(scale[:k], scale[:k])).real) for k in range(1, 14)]
    found = np.linalg.svd(factor(gram))[1]
    # the product of the k largest is the volume of the first k columns, up to (scale_k+1 / scale_k)^2 = 1e-2
    np.testing.assert_allclose(np.cumprod(found / scale), expected, rtol=0.05)


@pytest.mark.parametrize("n", [50, 20_000])
def test_resolution_bounds_what_rounding_makes_of_nothing(rng: np.random.Generator, n: int) -> None:
    # complex rows of rank 3 whose real and imaginary parts fill 6 dimensions
    rows = complex_normal(rng, n, 3) * [1, 1e-2, 1e-4] @ complex_normal(rng, 3, 6)
    gram = outer(parts_of(rows), 6, conjugate=False)
    vectors, values, _ = np.linalg.svd(factor(gram))
    limit = resolution(gram, vectors, n)
    assert (values[:3] > 10 * limit[:3]).all()
    assert (values[3:] < limit[3:]).all()
    # not for nothing: without it they would count
    assert values[3] > 6 * EPS * values[0]
    # a graded matrix is resolved down to eps
    graded = np.diag(np.logspace(0, -24, 13))
    assert (np.logspace(0, -12, 13) > 10 * resolution(graded, np.eye(13), 1)).all()
