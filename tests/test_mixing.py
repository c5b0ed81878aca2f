"""Hermitian matrices at every point, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crbsvd_plugin.mixing import mix

Array = NDArray[Any]


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("n_parts", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 7])
def test_every_point_has_its_matrix(
    rng: np.random.Generator, frozen: Callable[..., Array], rank: int, n_parts: int, dtype: Any
) -> None:
    n_images, n_rows, n, first = 3, 2, 5, 4
    matrices = rng.standard_normal((n_parts, rank, rank, first + n_rows + 1, n))
    whole = matrices[0] + (1j * matrices[1] if n_parts == 2 else 0)
    whole = whole + whole.swapaxes(0, 1).conj()
    upper = whole[np.triu_indices(rank)]
    parts = frozen(np.stack([upper.real, upper.imag][:n_parts]).astype(np.zeros(0, dtype).real.dtype))
    images = (rng.standard_normal((n_images, rank, n_rows, n)) * (1 + 0.3j)).astype(dtype)
    images += 1j * rng.standard_normal(images.shape).astype(dtype)
    expected = np.einsum("klrn,glrn->gkrn", whole[:, :, first : first + n_rows], images)
    mix(images, parts, first)
    # K products of numbers of order 1, and what is rounded of the matrices
    np.testing.assert_allclose(images, expected, rtol=0, atol=30 * rank * np.finfo(dtype).eps)
