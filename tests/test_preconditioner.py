"""The circulant preconditioner: the nearest circulant matrix, written out; the same minimum, in fewer iterations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_cg import scan
from test_encoding import EPS, arrays, dense, error, make, random

from crbsvd_plugin import CartesianOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.recon.circulant import _FLOOR, Circulant
from crbsvd_plugin.testing import check_adjoint

Freeze = Callable[..., np.ndarray]
CASES = ["2d", "odd and unequal", "3d odd and unequal", "one coil", "one frame", "one coefficient", "flat"]


def transform(shape: tuple[int, ...]) -> np.ndarray:
    """Return the unitary Fourier transform of images of N voxels, as a matrix (N, N)."""
    fourier = np.eye(1, dtype=complex)
    for n in shape:
        fourier = np.kron(fourier, np.fft.fft(np.eye(n), norm="ortho"))
    return fourier


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_inverse_of_the_nearest_circulant_matrix(
    rng: np.random.Generator, frozen: Freeze, case: str, real: bool
) -> None:
    """Its eigenvalues are the diagonal of F T F^H: F is unitary, and circulant matrices are diagonal there."""
    given = arrays(case, rng, frozen, real=real)
    operator, lam = make(given, np.complex128), 0.7
    shape, rank = operator.shape, operator.rank
    # the convolution alone: one coil that is 1 everywhere
    alone = dense(given | {"sens": np.ones((1, *shape))})
    gram = alone.conj().T @ (given["weights"].ravel()[:, None] * alone)
    fourier = transform(shape)
    blocks = gram.reshape(rank, len(fourier), rank, len(fourier))
    values = np.einsum("fx,kxly,fy->fkl", fourier, blocks, fourier.conj())
    values *= np.mean(np.sum(np.abs(given["sens"]) ** 2, axis=0))
    largest = np.linalg.eigvalsh(values[np.trace(values, axis1=1, axis2=2).real.argmax()])[-1]
    inverse = np.linalg.inv(values + (lam + _FLOOR * largest) * np.eye(rank))
    coeff = random(rng, frozen, operator.coeff_shape, np.complex128)
    expected = np.einsum("fx,fkl,fy,ly->kx", fourier.conj(), inverse, fourier, coeff.reshape(rank, -1), optimize=True)
    condition = (lam + _FLOOR * largest + largest) / (lam + _FLOOR * largest)
    found = Circulant(operator.toeplitz, operator.sens, lam)(coeff)
    assert error(found.reshape(rank, -1), expected) < 50 * EPS[np.complex128] * rank * condition


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("real", [True, False])
def test_it_is_hermitian_and_positive(rng: np.random.Generator, frozen: Freeze, real: bool, dtype: Any) -> None:
    operator = make(arrays("odd and unequal", rng, frozen, real=real), dtype)
    precondition = Circulant(operator.toeplitz, operator.sens, 0.0)
    coeff = random(rng, frozen, operator.coeff_shape, dtype)
    assert precondition(coeff).dtype == dtype
    # products of a condition of at most 1 / floor
    tolerance = np.finfo(dtype).eps / _FLOOR * 10
    check_adjoint(precondition, precondition, operator.coeff_shape, operator.coeff_shape, tolerance=tolerance)
    unit = np.eye(coeff.size, dtype=dtype).reshape(-1, *coeff.shape)
    matrix = np.array([precondition(one).ravel() for one in unit]).T
    lowest, *_, highest = np.linalg.eigvalsh(matrix)
    # C + floor lies between the floor and 1 + floor of the largest eigenvalue, which is within K of the largest trace
    assert lowest > _FLOOR / (1 + _FLOOR) / operator.rank * 0.99 * highest


@pytest.mark.parametrize("case", ["odd and unequal", "3d odd and unequal", "one coil"])
def test_the_minimum_is_the_same(rng: np.random.Generator, frozen: Freeze, case: str) -> None:
    given = arrays(case, rng, frozen)
    matrix, operator, lam = dense(given), make(given, np.complex128), 0.3
    ksp = random(rng, frozen, operator.ksp_shape, np.complex128)
    weights = np.tile(given["weights"].ravel(), len(given["sens"]))
    hessian = matrix.conj().T @ (weights[:, None] * matrix) + lam * np.eye(matrix.shape[1])
    expected = np.linalg.solve(hessian, matrix.conj().T @ (weights * ksp.ravel())).reshape(operator.coeff_shape)
    found = reconstruct(operator, ksp, lam=lam, iterations=300, preconditioner="circulant")
    assert error(found, expected) < 10 * EPS[np.complex128] * np.linalg.cond(hessian)


@pytest.mark.parametrize("lam", [0.0, 0.01])
def test_half_of_the_iterations_are_enough(rng: np.random.Generator, lam: float) -> None:
    """On a radial scan with noise of 2 %: the error that plain iterations reach at their best, or nearly so."""
    operator, ksp, truth = scan(rng, 48)
    errors: dict[str, list[float]] = {"none": [], "circulant": []}
    for kind, found in errors.items():
        reconstruct(
            operator, ksp, lam=lam, iterations=40, preconditioner=kind,
            callback=lambda _, x, found=found: found.append(error(x, truth)),
        )  # fmt: skip
    best = min(errors["none"])
    needed = {kind: next(i for i, one in enumerate(found, 1) if one < 1.02 * best) for kind, found in errors.items()}
    assert needed["circulant"] <= needed["none"] / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preconditioner": "ramp"}, "preconditioner is 'ramp', expected one of none, circulant"),
        ({"preconditioner": "circulant", "solver": "fista"}, "which is for cg in the backend native"),
        ({"preconditioner": "circulant", "regulariser": "llr"}, "which is for cg in the backend native"),
        ({"preconditioner": "circulant", "backend": "bart"}, "which is for cg in the backend native"),
    ],
)
def test_what_does_not_go_together(rng: np.random.Generator, frozen: Freeze, options: Any, message: str) -> None:
    operator = make(arrays("one of everything", rng, frozen), np.complex64)
    with pytest.raises(UserError, match=message):
        reconstruct(operator, np.zeros(operator.ksp_shape), **options)


def test_a_grid_has_none(rng: np.random.Generator) -> None:
    operator = CartesianOperator(np.ones((2, 4, 4)), phi=np.eye(2), sens=np.ones((1, 4, 4)))
    with pytest.raises(UserError, match=r"which is for readouts \(SubspaceOperator\)"):
        reconstruct(operator, np.ones(operator.ksp_shape), preconditioner="circulant")
