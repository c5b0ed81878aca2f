"""Conjugate gradients against dense solutions, and both backends on the same problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_encoding import EPS, arrays, dense, error, make, random

from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.recon.cg import conjugate_gradients
from crbsvd_plugin.trajectory import radial

Freeze = Callable[..., np.ndarray]


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("lam", [0.3, 5.0])
@pytest.mark.parametrize("case", ["2d", "odd and unequal", "3d odd and unequal", "one coil", "one readout"])
def test_solution_is_that_of_the_dense_problem(
    rng: np.random.Generator, frozen: Freeze, case: str, lam: float, dtype: Any
) -> None:
    given = arrays(case, rng, frozen)
    matrix, operator = dense(given), make(given, dtype)
    ksp = random(rng, frozen, operator.ksp_shape, dtype)
    weights = np.tile(given["weights"].ravel(), len(given["sens"]))
    hessian = matrix.conj().T @ (weights[:, None] * matrix) + lam * np.eye(matrix.shape[1])
    expected = np.linalg.solve(hessian, matrix.conj().T @ (weights * ksp.ravel())).reshape(operator.coeff_shape)
    found = reconstruct(operator, ksp, lam=lam, iterations=200)
    assert found.dtype == dtype
    # an error of the operator relative to its norm is amplified by the condition of the problem
    condition = np.linalg.cond(hessian)
    assert error(found, expected) < 10 * EPS[dtype] * condition
    # twice the lambda is told apart
    doubled = np.linalg.solve(hessian + lam * np.eye(len(hessian)), hessian @ expected.ravel())
    assert error(doubled.reshape(expected.shape), expected) > 10 * EPS[dtype] * condition


def test_without_a_penalty_it_is_least_squares(rng: np.random.Generator, frozen: Freeze) -> None:
    matrix = rng.standard_normal((20, 6)) + 1j * rng.standard_normal((20, 6))
    data = rng.standard_normal(20) + 1j * rng.standard_normal(20)
    hessian, right = matrix.conj().T @ matrix, frozen(matrix.conj().T @ data)
    found = conjugate_gradients(lambda x: hessian @ x, right, lam=0, iterations=6)  # exact after as many steps
    np.testing.assert_allclose(found, np.linalg.lstsq(matrix, data)[0], rtol=1e-9)


def test_energy_falls_in_every_iteration(rng: np.random.Generator, frozen: Freeze) -> None:
    operator = make(arrays("odd and unequal", rng, frozen), np.complex128)
    ksp = random(rng, frozen, operator.ksp_shape, np.complex128)
    objective, seen = [], []

    def callback(iteration: int, x: np.ndarray) -> None:
        seen.append(iteration)
        misfit = operator.weights * np.abs(operator.forward(x) - ksp) ** 2
        objective.append(0.5 * misfit.sum() + 0.05 * np.vdot(x, x).real)

    reconstruct(operator, ksp, lam=0.1, iterations=12, callback=callback)
    assert seen == list(range(1, 13))
    assert np.all(np.diff(objective) < 0)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_scale_of_the_data_is_kept(rng: np.random.Generator, frozen: Freeze, scale: float) -> None:
    operator = make(arrays("2d", rng, frozen), np.complex64)
    ksp = random(rng, frozen, operator.ksp_shape, np.complex64)
    expected = reconstruct(operator, ksp, lam=1, iterations=10)
    # the order of additions differs from run to run, which CG amplifies
    assert error(reconstruct(operator, frozen(scale * ksp), lam=1, iterations=10) / scale, expected) < 1e-4


def test_no_data_give_no_image(rng: np.random.Generator, frozen: Freeze) -> None:
    operator = make(arrays("2d", rng, frozen), np.complex64)
    assert not reconstruct(operator, np.zeros(operator.ksp_shape), lam=0, iterations=5).any()


def test_tolerance_ends_it(rng: np.random.Generator) -> None:
    values, right = np.linspace(1, 9, 30), rng.standard_normal(30) + 1j
    done: list[int] = []
    found = conjugate_gradients(
        lambda x: values * x, right, lam=0, iterations=30, tolerance=1e-3, callback=lambda i, _: done.append(i)
    )
    residual = np.linalg.norm(right - values * found) / np.linalg.norm(right)
    assert residual <= 1e-3
    assert done[-1] < 30


def test_it_ends_at_the_rounding_of_the_data(rng: np.random.Generator, frozen: Freeze) -> None:
    """Left alone the residual would fall until its square underflows, three times as long, and end in 0 / 0."""
    values, done = rng.uniform(1, 4, 50).astype(np.float32), []
    right = random(rng, frozen, (50,), np.complex64)
    found = conjugate_gradients(
        lambda x: values * x, right, lam=0, iterations=500, callback=lambda i, _: done.append(i)
    )
    eps = float(np.finfo(np.float32).eps)
    assert error(found, right / values) < 4 * eps  # the condition
    # 2 ((2 - 1) / (2 + 1))^n of the start is left after n steps
    assert done[-1] < math.log(4 / eps) / math.log(3) + 2


@pytest.mark.parametrize("n_readouts", [3, 10])
def test_more_iterations_than_the_data_can_tell_are_harmless(n_readouts: int, rng: np.random.Generator) -> None:
    """Few spokes, no penalty: in single precision the curvature ends below the accuracy of the operator."""
    operator = SubspaceOperator(
        radial(n_readouts, 24), frame=np.arange(n_readouts) % 3, phi=np.linalg.qr(rng.standard_normal((3, 2)))[0],
        sens=np.ones((1, 24, 24)),
    )  # fmt: skip
    truth = rng.standard_normal(operator.coeff_shape)
    ksp = operator.forward(truth)
    found = reconstruct(operator, ksp, lam=0, iterations=1000)
    assert error(operator.forward(found), ksp) < 0.01
    assert np.abs(found).max() < 3 * np.abs(truth).max()


@pytest.mark.parametrize(
    ("normal", "message"),
    [
        (lambda x: -x, r"not positive: curvature -4 at iteration 1"),
        (lambda x: 0 * x, r"not positive: curvature 0 at iteration 1"),
        (lambda x: x * np.array([1, -0.5, 1, 1]), r"not positive: curvature -.* at iteration 2"),
        (lambda x: x * np.nan, r"not positive: curvature nan"),
    ],
)
def test_an_operator_that_is_not_positive_is_a_defect(normal: Callable[..., np.ndarray], message: str) -> None:
    with pytest.raises(ArithmeticError, match=message):
        conjugate_gradients(normal, np.ones(4, complex), lam=0, iterations=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, r"lam is -1\.0, expected at least 0"),
        ({"lam": math.nan}, r"lam is nan, expected at least 0"),
        ({"lam": math.inf}, r"lam is inf, expected at least 0"),
        ({"iterations": 0}, r"iterations is 0, expected at least 1"),
        ({"backend": "fast"}, r"backend is 'fast', expected one of native, sigpy, bart"),
    ],
)
def test_options_out_of_range(rng: np.random.Generator, frozen: Freeze, options: Any, message: str) -> None:
    operator = make(arrays("one of everything", rng, frozen), np.complex64)
    with pytest.raises(UserError, match=message):
        reconstruct(operator, np.zeros(operator.ksp_shape), **options)


def scan(rng: np.random.Generator, matrix: int) -> tuple[SubspaceOperator, np.ndarray, np.ndarray]:
    """Return a radial scan of two discs with an edge, four smooth coils, a complex basis, noise of 2 %."""
    n_frames, rank, n_coils, n_shots = 40, 3, 4, 3
    y, x = np.meshgrid(*2 * [(np.arange(matrix) - matrix // 2) / matrix], indexing="ij")
    discs = np.stack([x**2 + y**2 < 0.15, (x - 0.1) ** 2 + (y + 0.05) ** 2 < 0.02, (x + 0.15) ** 2 + y**2 < 0.01])
    coeff = np.tensordot(np.array([[1, 0.2, 0.1j], [0.3j, 0.3, 0], [0.1, -0.1j, 0.2]]), discs, axes=1)
    angle = 2 * np.pi * np.arange(n_coils) / n_coils
    sens = np.stack(
        [np.exp(-2 * ((x - 0.5 * np.cos(a)) ** 2 + (y - 0.5 * np.sin(a)) ** 2) + 1j * a + 2j * x) for a in angle]
    )
    sens /= np.linalg.norm(sens, axis=0)
    basis = np.linalg.qr(rng.standard_normal((n_frames, rank)) + 1j * rng.standard_normal((n_frames, rank)))[0]
    operator = SubspaceOperator(
        radial(n_shots * n_frames, matrix), frame=np.tile(np.arange(n_frames), n_shots), phi=basis, sens=sens
    )
    ksp = operator.forward(coeff)
    noise = rng.standard_normal(ksp.shape) + 1j * rng.standard_normal(ksp.shape)
    return operator, ksp + 0.02 * np.abs(ksp).mean() * noise, coeff


@pytest.mark.bart
@pytest.mark.parametrize("lam", [0.0, 0.05])
def test_backends_agree_on_a_radial_scan(rng: np.random.Generator, lam: float) -> None:
    """To 1 %: BART's operator is off in the outermost 1.5 cells of k-space, where a spoke has 3 % of its samples."""
    operator, ksp, coeff = scan(rng, 64)
    native = reconstruct(operator, ksp, lam=lam, iterations=15)
    assert error(reconstruct(operator, ksp, lam=lam, iterations=15, backend="bart"), native) < 0.01
    # and both of them are images of the object
    assert error(native, coeff) < 0.15
    if lam:
        assert error(reconstruct(operator, ksp, lam=2 * lam, iterations=15), native) > 0.01
