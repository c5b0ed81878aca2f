"""Polynomials in the place of a model: values, derivatives, what their error does to estimates."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from fit_case import emulated, simulated, starts
from numpy.polynomial import chebyshev

from crbsvd_plugin import crb, models
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit import nlls
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.chebyshev import evaluate
from crbsvd_plugin.fit.emulator import Emulator, emulate
from crbsvd_plugin.fit.forward import Simulated

EPS = float(np.finfo(float).eps)


@pytest.mark.parametrize("sizes", [(1,), (2,), (7, 1), (1, 5), (4, 3, 6), (2, 3, 1, 4)])
def test_polynomials_and_gradients_are_numpys(rng: np.random.Generator, sizes: tuple[int, ...]) -> None:
    n, p, r = 11, len(sizes), 3
    u, terms = rng.uniform(-1, 1, (n, p)), rng.standard_normal((*sizes, r))
    out = np.empty((n, 1 + p, r))
    evaluate(u, terms.ravel(), np.array(sizes), out, 4)
    rows = [chebyshev.chebvander(u[:, i], size - 1) for i, size in enumerate(sizes)]
    slopes = [
        np.stack([chebyshev.chebval(u[:, i], chebyshev.chebder(unit)) for unit in np.eye(size)], axis=1)
        for i, size in enumerate(sizes)
    ]
    for chain in range(1 + p):
        expected = terms
        factors = [slopes[i] if i == chain - 1 else rows[i] for i in range(p)]
        expected = np.einsum("na...,na->n...", np.broadcast_to(terms, (n, *terms.shape)), factors[0])
        for factor in factors[1:]:
            expected = np.einsum("na...,na->n...", expected, factor)
        # |T_k| <= 1 and |T_k'| <= k^2; the recurrences lose a few digits of k
        scale = np.abs(terms).sum() * max(sizes) ** 2
        np.testing.assert_allclose(out[:, chain], expected, atol=10 * max(sizes) * EPS * scale)


def test_it_is_as_close_to_the_model_as_it_says_everywhere(rng: np.random.Generator) -> None:
    exact, found = simulated(), emulated()
    inside = rng.uniform(-1, 1, (300, 2))
    faces = inside.copy()
    faces[np.arange(300), np.arange(300) % 2] = rng.choice([-1, 1], 300)
    u = np.concatenate([inside, faces, list(itertools.product((-1, 1), repeat=2))])
    theta = exact.box.theta(u)
    (value, jac), (close, close_jac) = exact.value_and_jacobian(theta), found.value_and_jacobian(theta)
    norm = np.linalg.norm(value, axis=-1)
    error = np.linalg.norm(close - value, axis=-1) / norm
    jac_error = np.linalg.norm((close_jac - jac) * exact.box.slope(theta)[..., None], axis=-1) / norm[:, None]
    assert found.error <= 1e-5
    # other points than those that the figures are from: an oscillating error of the same size may peak between them
    assert error.max() <= 2 * found.error
    assert np.all(jac_error.max(axis=0) <= 2 * found.jac_errors)
    assert error.max() > found.error / 10  # and the figure means something


def test_its_derivatives_are_those_of_its_values(rng: np.random.Generator) -> None:
    """Five-point differences of a step h are off by about h^4/30 f^(5), and by rounding / h."""
    found = emulated(b1=True)
    theta = found.box.theta(rng.uniform(-0.9, 0.9, (20, 3)))
    _, jac = found.value_and_jacobian(theta)
    slope, h = found.box.slope(theta), 1e-4
    for i in range(3):
        moved = [theta + factor * h * slope * np.eye(3)[i] for factor in (-2, -1, 1, 2)]
        a, b, c, d = (found.value_and_jacobian(one)[0] for one in moved)
        numeric = (a - 8 * b + 8 * c - d) / (12 * h)
        n = found.polynomial.shape[i]
        size = np.abs(found.polynomial).sum()
        largest = np.abs(chebyshev.chebder(found.polynomial, 5, axis=i)).sum() if n > 5 else 0.0
        # h is a step of u along the tangent of the logarithm: the curve between adds terms of the same order
        tolerance = 10 * (h**4 * largest + 3 * EPS * size * n / h)
        np.testing.assert_allclose(jac[:, i] * slope[:, [i]], numeric, atol=tolerance)
        assert tolerance < 1e-3 * np.abs(jac[:, i] * slope[:, [i]]).max()


def test_a_voxel_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    found = emulated()
    theta = found.box.theta(rng.uniform(-1, 1, (50, 2)))
    value, jac = found.value_and_jacobian(theta)
    for i in (0, 17, 49):
        one = found.value_and_jacobian(theta[i : i + 1])
        np.testing.assert_array_equal(one[0][0], value[i])
        np.testing.assert_array_equal(one[1][0], jac[i])


def test_a_real_basis_takes_half_the_columns_of_a_sequence_without_phases() -> None:
    model = models.build(
        {"name": "mrf-fisp", "flip_angles": [0.3, 0.6, 0.9, 0.5, 0.2], "recovery": None, "accuracy": 0.0}
    )
    box = Box(model.parameters, np.array([0.3, 0.02]), np.array([3.0, 0.3]))
    exact = Simulated(model, np.linalg.qr(np.arange(15.0).reshape(5, 3) ** 2)[0], box)
    found = emulate(exact)
    assert len(found.columns) == 3
    theta = box.theta(np.array([[0.3, -0.2]]))
    (value, jac), (close, close_jac) = exact.value_and_jacobian(theta), found.value_and_jacobian(theta)
    assert np.linalg.norm(close - value) <= 1e-5 * np.linalg.norm(value)
    assert close.dtype == close_jac.dtype == np.complex128
    assert close_jac.shape == jac.shape


def test_a_parameter_of_one_value_has_one_term_and_no_derivative() -> None:
    exact = simulated(b1=True)
    box = Box(exact.box.parameters, np.array([0.3, 0.02, 1.1]), np.array([3.0, 0.3, 1.1]))
    found = emulate(replace(exact, box=box))
    assert found.polynomial.shape[2] == 1
    theta = np.array([[1.0, 0.1, 1.1]])
    value, jac = exact.value_and_jacobian(theta)
    close, close_jac = found.value_and_jacobian(theta)
    assert np.linalg.norm(close - value) <= 1e-5 * np.linalg.norm(value)
    assert not close_jac[:, 2].any()
    assert jac[:, 2].any()


def test_its_error_moves_estimates_by_no_more_than_was_derived(rng: np.random.Generator) -> None:
    """|theta - truth| <= eps ||phi^H s|| sqrt(CRB), for sigma = 1 and M0 = 1; a coarse one, so that it shows."""
    exact = simulated()
    coarse = emulate(exact, tolerances=[1e-3])
    u = rng.uniform(-0.9, 0.9, (200, 2))
    theta = exact.box.theta(u)
    signal, jac = exact.model.signal_and_jacobian(theta)
    bound = crb.bounds(signal, jac, exact.phi).exact
    value = signal @ exact.phi.conj()
    found = nlls.minimise(value, coarse, u, np.array([[-1.0, -1], [1, 1]]), stopping=nlls.Stopping())
    moved = np.abs(coarse.box.theta(found.u) - theta)
    # to first order in eps; the emulator's own derivatives, which the estimate follows, are off by a few percent
    allowed = 1.2 * coarse.error * np.linalg.norm(value, axis=1)[:, None] * np.sqrt(bound)
    assert found.converged.all()
    assert np.all(moved <= allowed)
    assert (moved / allowed).max() > 0.02


def test_outside_of_its_box_it_is_refused() -> None:
    found = emulated()
    with pytest.raises(ValueError, match="outside of"):
        found.value_and_jacobian(np.array([[0.29, 0.1]]))
    with pytest.raises(ValueError, match="outside of"):
        found.value_and_jacobian(np.array([[np.nan, 0.1]]))


class Rough:
    """Signals that jump in the middle of their range."""

    parameters, n_frames = simulated().model.parameters, 3

    def signal(self, theta: np.ndarray) -> np.ndarray:
        return np.where(theta[:, :1] > 1, 1.0, 2.0) * np.exp(1j * np.arange(3) * theta[:, 1:])

    def signal_and_jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.signal(theta), np.zeros((len(theta), 2, 3), complex)


def test_what_is_rough_is_refused() -> None:
    model = Rough()
    box = Box(model.parameters, np.array([0.3, 0.02]), np.array([3.0, 0.3]))
    with pytest.raises(UserError, match=r"cannot be emulated to 0\.0001 by polynomials of \d+ x \d+ terms"):
        emulate(Simulated(model, np.eye(3), box))


def test_a_model_that_is_zero_somewhere_is_refused() -> None:
    model = Rough()
    model.signal = lambda theta: np.zeros((len(theta), 3), complex)
    box = Box(model.parameters, np.array([0.3, 0.02]), np.array([3.0, 0.3]))
    with pytest.raises(UserError, match="zero or not finite"):
        emulate(Simulated(model, np.eye(3), box))


def test_a_finer_tolerance_gives_way_to_a_coarser_one(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = simulated()
    fine, coarse = emulate(exact, tolerances=[1e-6]), emulate(exact, tolerances=[1e-3])
    assert fine.error <= 1e-6 < coarse.error <= 1e-3
    monkeypatch.setattr("crbsvd_plugin.fit.emulator._MOST", fine.polynomial[..., 0].size - 1)
    found = emulate(exact, tolerances=[1e-6, 1e-3])
    assert found.polynomial.shape == coarse.polynomial.shape
    assert isinstance(found, Emulator)


def test_progress_counts_the_simulated_signals() -> None:
    told: list[tuple[str, int, int]] = []
    found = emulate(simulated(), report=lambda *step: told.append(step))
    total = found.polynomial[..., 0].size
    assert told[-1] == ("emulator", total, total)


def test_least_squares_of_both_agree(rng: np.random.Generator) -> None:
    """The emulator's minimum is the model's to its error times sqrt(CRB) (see above), from the same noisy voxels."""
    exact, found = simulated(), emulated()
    u = rng.uniform(-0.8, 0.8, (40, 2))
    theta = exact.box.theta(u)
    signal, jac = exact.model.signal_and_jacobian(theta)
    clean = signal @ exact.phi.conj()
    noise = rng.standard_normal((2, *clean.shape)) * 1e-3 * np.linalg.norm(clean, axis=1)[:, None]
    coeff = (clean + noise[0] + 1j * noise[1]).T
    start = starts(exact, u)
    a, b = nlls.fit(coeff, exact, start), nlls.fit(coeff, found, start)
    allowed = (
        2 * found.error * np.linalg.norm(clean, axis=1)[:, None] * np.sqrt(crb.bounds(signal, jac, exact.phi).exact)
    )
    # and the rounding of maps in single precision
    assert np.all(allowed + 2e-7 * theta >= np.abs(a.theta - b.theta).T)
