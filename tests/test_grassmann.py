"""Minimising over spans, where the answer is known: leading eigenvectors."""

from __future__ import annotations

import numpy as np
import pytest
from crb_case import Array, gaussian

from crbsvd_plugin.grassmann import minimise

R = 19


def problem(rng: np.random.Generator, kind: str) -> tuple[Array, Array]:
    """Return a matrix whose eigenvalues are 1, 1/2, 1/3, .., and its eigenvectors in that order."""
    columns = gaussian(rng, R, R)
    vectors = np.linalg.qr(columns if kind == "complex" else columns.real)[0]
    return vectors / np.arange(1, R + 1) @ vectors.conj().T, vectors


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("k", [1, 4, R - 1, R])
def test_the_leading_eigenvectors_keep_most(rng: np.random.Generator, kind: str, k: int) -> None:
    matrix, vectors = problem(rng, kind)
    start = gaussian(rng, R, k)
    start = np.linalg.qr(start if kind == "complex" else start.real)[0]
    steps: list[int] = []

    def cost(phi: Array) -> tuple[float, Array]:
        np.testing.assert_allclose(phi.conj().T @ phi, np.eye(k), atol=1e-12)
        return -float(np.trace(phi.conj().T @ matrix @ phi).real), -2 * matrix @ phi

    found = minimise(cost, start, progress=steps.append)
    assert found.dtype == start.dtype
    best = -float(np.sum(1 / np.arange(1, k + 1)))
    # ends where an iteration gains less than 1e-7
    assert cost(found)[0] == pytest.approx(best, rel=1e-5)
    # eigenvalues 1 / 18 and 1 / 19 differ least: the cost is above by 1 / 342 or more of the squared sine
    sine = np.linalg.norm(found - vectors[:, :k] @ (vectors[:, :k].conj().T @ found), 2)
    assert sine < np.sqrt(342 * 1e-5 * abs(best))
    assert steps
    assert set(steps) == {1}


def test_a_minimum_stays(rng: np.random.Generator) -> None:
    matrix, vectors = problem(rng, "real")
    calls: list[float] = []

    def cost(phi: Array) -> tuple[float, Array]:
        calls.append(-float(np.trace(phi.T @ matrix @ phi)))
        return calls[-1], -2 * matrix @ phi

    found = minimise(cost, vectors[:, :3])
    np.testing.assert_allclose(found @ found.T, vectors[:, :3] @ vectors[:, :3].T, atol=1e-6)
    # a line search that finds nothing but rounding
    assert len(calls) < 50
