"""Steps off the grid of a dictionary against the truth, and against least squares one voxel at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_dictionary import Decay

from crbsvd_plugin.basis import Basis
from crbsvd_plugin.dictionary import Dictionary, compress
from crbsvd_plugin.distribution import Grid, Uniform, fixed
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit.matching import match
from crbsvd_plugin.prior import Prior, Tissue

Freeze = Callable[..., np.ndarray]
LOW, HIGH = np.array([2.0, -30.0]), np.array([12.0, 30.0])


def made(basis: Basis, n: int, *, jacobian: bool = True) -> Dictionary:
    """Return n x n atoms in the open ranges; the third parameter never varies."""
    step = (HIGH - LOW) / (n - 1)
    values = {
        name: Grid(low, high + s, n)  # high is not a value itself
        for name, low, high, s in zip("RW", LOW.tolist(), HIGH.tolist(), step.tolist(), strict=True)
    }
    return compress(Decay(), Prior("p", (Tissue("x", values | {"C": fixed(1)}),)), basis, jacobian=jacobian)


@pytest.fixture
def basis(rng: np.random.Generator) -> Basis:
    theta = np.concatenate([rng.uniform(LOW, HIGH, (500, 2)), np.ones((500, 1))], axis=1)
    phi = np.linalg.svd(Decay().signal(theta).T, full_matrices=False)[0][:, :4]
    phi = phi @ np.linalg.qr(rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4)))[0]
    assert abs(phi.imag).max() > 0.1
    return Basis(phi, np.ones(4))


def images(rng: np.random.Generator, basis: Basis, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (K, V) of parameters (V, 2) with M0 of any phase, and M0."""
    m0 = rng.uniform(0.5, 2, len(theta)) * np.exp(2j * np.pi * rng.random(len(theta)))
    signal = Decay().signal(np.concatenate([theta, np.ones((len(theta), 1))], axis=1))
    return (m0[:, None] * basis.project(signal)).T.astype(np.complex64), m0


def test_between_atoms_the_error_is_of_second_order(rng: np.random.Generator, frozen: Freeze, basis: Basis) -> None:
    theta = rng.uniform(LOW, HIGH, (400, 2))
    coeff, m0 = images(rng, basis, theta)
    errors = []
    for n in (21, 41, 81):
        known = made(basis, n)
        plain, found = match(frozen(coeff), known), match(frozen(coeff), known, refine=True)
        step = (HIGH - LOW) / (n - 1)
        errors.append([np.sqrt(np.mean(((m.theta[:2].T - theta) / step) ** 2)) for m in (plain, found)])
        np.testing.assert_array_equal(found.edge, plain.edge)
        np.testing.assert_array_equal(found.theta[2], 1)
        assert np.abs(found.m0 / m0 - 1).mean() < 0.2 * np.abs(plain.m0 / m0 - 1).mean()
    of_plain, of_found = np.array(errors).T
    # in steps of the grid: uniform errors of half a step have a root mean square of 1/sqrt(12) = 0.29
    assert np.all((of_plain > 0.25) & (of_plain < 0.4))
    # a second-order error halves with the step
    assert of_found[0] < 0.1
    assert np.all(of_found[1:] < 0.65 * of_found[:-1])


def test_the_step_is_that_of_least_squares(rng: np.random.Generator, frozen: Freeze, basis: Basis) -> None:
    """With noise, one voxel at a time, over the real and imaginary part of M0 and M0 delta / M0 at the atom."""
    known = made(basis, 15)
    assert known.jac is not None
    coeff, _ = images(rng, basis, rng.uniform(LOW + 2, HIGH - 2, (60, 2)))
    coeff = (coeff + 0.01 * (rng.standard_normal(coeff.shape) + 1j * rng.standard_normal(coeff.shape))).astype(
        np.complex64
    )
    plain, found = match(frozen(coeff), known), match(coeff, known, refine=True)
    step = (HIGH - LOW) / 14
    compared = 0
    for v in range(60):
        atom = np.flatnonzero((known.theta.astype(np.float32) == plain.theta[:, v]).all(axis=1))[0]
        s, c = known.coeff[atom].astype(complex) * known.norm[atom], coeff[:, v].astype(complex)
        scale = np.vdot(s, c) / np.vdot(s, s)
        columns = np.stack([s, 1j * s, *(scale * known.jac[atom, :2].astype(complex))], axis=1)
        system, right = (np.concatenate([x.real, x.imag]) for x in (columns, c))
        delta = np.linalg.lstsq(system, right, rcond=None)[0][2:]
        if np.all(np.abs(delta) < step):
            # theta is of single precision, and so are the derivatives
            np.testing.assert_allclose(found.theta[:2, v] - plain.theta[:2, v], delta, atol=1e-4 * step.max())
            compared += 1
    assert compared > 40


def test_steps_end_at_neighbours_and_at_the_edge(rng: np.random.Generator, basis: Basis) -> None:
    known = made(basis, 15)
    noise = (rng.standard_normal((4, 3000)) + 1j * rng.standard_normal((4, 3000))).astype(np.complex64)
    found, plain = (match(noise, known, refine=refine, mask_level=0) for refine in (True, False))
    step = (HIGH - LOW) / 14
    # single precision
    moved = np.abs(found.theta - plain.theta)[:2].T
    assert (moved / step).max() <= 1 + 1e-5
    assert np.all((found.theta[:2].T >= LOW - 1e-5) & (found.theta[:2].T <= HIGH + 1e-5))
    assert np.any(found.theta != plain.theta, axis=0).mean() > 0.5
    # beyond the edge of one parameter the other one is still refined
    beyond, _ = images(rng, basis, np.stack([np.full(50, 13.0), rng.uniform(-20, 20, 50)], axis=1))
    stays = match(beyond, known, refine=True)
    assert stays.edge.all()
    assert np.all(stays.theta[0] == np.float32(HIGH[0]))
    expected = [_bounded(beyond[:, v], known, basis)[1] for v in range(50)]
    np.testing.assert_allclose(stays.theta[1], expected, atol=0.2 * step[1])


def _bounded(c: np.ndarray, known: Dictionary, basis: Basis) -> np.ndarray:
    """Return R = 12 and the W of least squares there, by a fine search."""
    fine = np.linspace(-30, 30, 6001)
    signal = basis.project(Decay().signal(np.stack([np.full(6001, 12.0), fine, np.ones(6001)], axis=1)))
    signal /= np.linalg.norm(signal, axis=1)[:, None]
    return np.array([12.0, fine[np.abs(signal.conj() @ c).argmax()]])


def test_draws_may_go_as_far_as_a_grid_of_as_many(rng: np.random.Generator, basis: Basis) -> None:
    values = {"R": Uniform(*LOW[:1].tolist(), *HIGH[:1].tolist()), "W": Uniform(-30, 30), "C": fixed(1)}
    known = compress(Decay(), Prior("p", (Tissue("x", values, n=900),)), basis, jacobian=True)
    theta = rng.uniform(LOW + 1, HIGH - 1, (300, 2))
    coeff, _ = images(rng, basis, theta)
    errors = [
        np.median(np.abs(match(coeff, known, refine=refine).theta[:2].T - theta), axis=0) for refine in (False, True)
    ]
    assert np.all(errors[1] < 0.3 * errors[0])


def test_without_derivatives_it_is_refused(basis: Basis) -> None:
    known = made(basis, 5, jacobian=False)
    with pytest.raises(UserError, match="make it again with 'crbsvd basis --derivatives'"):
        match(np.ones((4, 2), np.complex64), known, refine=True)


def test_a_signal_that_is_zero_stays_where_it_is(basis: Basis) -> None:
    known = made(basis, 5)
    dark = Dictionary(
        known.parameters, known.theta, np.zeros_like(known.coeff), np.zeros_like(known.norm), known.edge, "", known.jac
    )
    found = match(np.ones((4, 3), np.complex64), dark, refine=True)
    np.testing.assert_array_equal(found.theta, known.theta[:1].T.astype(np.float32).repeat(3, axis=1))
    assert np.isfinite(found.m0).all()
