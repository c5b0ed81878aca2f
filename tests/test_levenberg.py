"""Variable projection and bounded steps against dense algebra."""

from __future__ import annotations

import numpy as np
from fit_case import complex_normal, emulated

from crbsvd_plugin.fit import levenberg, nlls

EPS = float(np.finfo(float).eps)


def test_cost_gradient_and_hessian_are_those_of_dense_algebra(rng: np.random.Generator) -> None:
    """The residual from lstsq, H from a QR of the real columns s, i s, j; the gradient in the test after this."""
    n, p, rank = 20, 3, 5
    c, s, j = complex_normal(rng, n, rank), complex_normal(rng, n, rank), complex_normal(rng, n, p, rank)
    m0, cost = np.empty(n, complex), np.empty(n)
    grad, hess = np.empty((n, p)), np.empty((n, p, p))
    levenberg.normal_equations(c, s, j, m0, cost, grad, hess)
    for b in range(n):
        best, (square,) = np.linalg.lstsq(s[b][:, None], c[b])[:2]
        np.testing.assert_allclose(m0[b], best[0], rtol=100 * EPS)
        np.testing.assert_allclose(cost[b], square / 2, rtol=100 * EPS)
        real = np.concatenate([np.stack([s[b], 1j * s[b], *(best[0] * j[b])], axis=1)])
        triangle = np.linalg.qr(np.concatenate([real.real, real.imag]), mode="r")[2:, 2:]
        np.testing.assert_allclose(hess[b], triangle.T @ triangle, atol=1000 * EPS * np.abs(hess[b]).max())


def test_the_gradient_is_that_of_the_projected_cost(rng: np.random.Generator) -> None:
    """Central differences of a step h are off by h^2/6 f''' and eps/h: 1e-9 of the largest for h = 1e-5."""
    forward = emulated(b1=True)
    u, h = rng.uniform(-0.9, 0.9, (30, 3)), 1e-5
    c = complex_normal(rng, 30, forward.rank)
    found = nlls._evaluated(c, forward, u)
    for i in range(3):
        up, down = (nlls._evaluated(c, forward, u + sign * h * np.eye(3)[i]).cost for sign in (1, -1))
        numeric = (up - down) / (2 * h)
        np.testing.assert_allclose(found.grad[:, i], numeric, atol=1e-7 * np.abs(found.grad).max())


def test_steps_solve_the_damped_equations_and_stay_in_bounds(rng: np.random.Generator) -> None:
    n, p = 200, 4
    roots = rng.standard_normal((n, p, p))
    hess, grad = roots @ roots.transpose(0, 2, 1), rng.standard_normal((n, p))
    u, damping = rng.uniform(-1, 1, (n, p)), 10.0 ** rng.uniform(-6, 2, n)
    step, predicted = np.empty((n, p)), np.empty(n)
    wide = np.full(p, 1e9)
    levenberg.steps(u, grad, hess, damping, -wide, wide, step, predicted)
    for b in range(n):
        matrix = hess[b] + damping[b] * np.diag(np.diag(hess[b]))
        size = np.linalg.norm(matrix) * np.linalg.norm(step[b])
        assert np.linalg.norm(matrix @ step[b] + grad[b]) <= 1e-12 * size
        decrease = -grad[b] @ step[b] - 0.5 * step[b] @ hess[b] @ step[b]
        np.testing.assert_allclose(predicted[b], decrease, rtol=1e-9)
    # at bounds: a step never leaves them, and never moves what the gradient presses against one, or what is fixed
    u[:, 0], u[:, 1] = -1.0, rng.choice([-1.0, 1.0], n)
    low, high = np.array([-1.0, -1.0, -1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    levenberg.steps(u, grad, hess, damping, low, high, step, predicted)
    moved = u + step
    assert np.all((moved[:, :3] >= -1) & (moved[:, :3] <= 1))
    assert not step[:, 3].any()
    assert not step[grad[:, 0] >= 0, 0].any()
    assert (np.abs(moved[:, :3]) == 1).sum() > n / 2
    # damped enough it goes down the gradient, and lower
    levenberg.steps(u, grad, hess, np.full(n, 1e6), low, high, step, predicted)
    assert np.all(predicted[step.any(axis=1)] > 0)
    assert np.all(grad * step <= 0)
