"""Orthogonal parts and Cramer-Rao bounds against QR, dense projections and inverse Fisher matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from crb_case import FISHERS, Array, Fisher, as_real, fisp_data, gaussian, random_data

from crbsvd_plugin import crb
from crbsvd_plugin.model import Parameter


def residual(signal: Array, jac: Array, target: int, fisher: Fisher) -> Array:
    """Return the orthogonal part (T,) of one derivative, by a dense factorisation."""
    others = np.delete(jac, target, axis=0)
    if fisher == "complex":
        columns = np.stack([signal, *others, jac[target]], axis=1)
        q, r = np.linalg.qr(columns / np.linalg.norm(columns, axis=0))
        return np.asarray(q[:, -1] * r[-1, -1] * np.linalg.norm(jac[target]))
    columns = np.stack([signal, 1j * signal, *others], axis=1)
    left = np.linalg.svd(as_real(columns / np.linalg.norm(columns, axis=0)), full_matrices=False)[0]
    wanted = as_real(jac[target][:, None])[:, 0]
    rest = wanted - left @ (left.T @ wanted)
    return np.asarray(rest[: len(signal)] + 1j * rest[len(signal) :])


def fisher_bounds(signal: Array, jac: Array, fisher: Fisher) -> Array:
    """Return the diagonal (P,) of the inverse Fisher matrix, M0 being one complex or two real unknowns."""
    head = [signal] if fisher == "complex" else [signal, 1j * signal]
    columns = np.stack([*head, *jac], axis=1)
    size = np.linalg.norm(columns, axis=0)
    gram = (columns / size).conj().T @ (columns / size)
    inverse = np.linalg.inv(gram if fisher == "complex" else gram.real)
    return np.asarray(np.real(np.diagonal(inverse))[len(head) :] / size[len(head) :] ** 2)


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("kind", ["random", "fisp"])
def test_orthogonal_parts_equal_a_dense_projection(
    rng: np.random.Generator, frozen: Callable[..., Array], kind: str, fisher: Fisher
) -> None:
    signal, jac = map(frozen, random_data(rng) if kind == "random" else fisp_data())
    found = crb.orthogonalise(signal, jac, fisher=fisher)
    for atom in range(len(signal)):
        for target in range(jac.shape[1]):
            expected = residual(signal[atom], jac[atom], target, fisher)
            # the dense residual is exact to eps of the derivative's norm; FISP keeps at least 1e-3 of it
            tolerance = 1e-14 * np.linalg.norm(jac[atom, target])
            unit, norm = found.unit[atom, target], found.norm[atom, target]
            assert abs(np.linalg.norm(unit) - 1) < 1e-14
            assert np.linalg.norm(unit * norm - expected) < 10 * tolerance
            for other in [signal[atom], *np.delete(jac[atom], target, axis=0)]:
                overlap = np.vdot(unit, other) if fisher == "complex" else np.vdot(unit, other).real
                assert abs(overlap) < 1e-13 * np.linalg.norm(other)


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("kind", ["random", "fisp"])
def test_bounds_are_the_diagonal_of_the_inverse_fisher_matrix(
    rng: np.random.Generator, kind: str, fisher: Fisher
) -> None:
    signal, jac = random_data(rng) if kind == "random" else fisp_data()
    found = crb.orthogonalise(signal, jac, fisher=fisher).bound
    expected = np.array([fisher_bounds(s, j, fisher) for s, j in zip(signal, jac, strict=True)])
    # the inverse of a Gram matrix loses its condition: 1e6 for FISP
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("fisher", FISHERS)
def test_exact_bounds_are_those_of_the_compressed_problem(rng: np.random.Generator, fisher: Fisher) -> None:
    signal, jac = random_data(rng)
    phi = np.linalg.qr(gaussian(rng, 11, 5))[0]
    found = crb.bounds(signal, jac, phi, fisher=fisher)
    for atom in range(len(signal)):
        expected = fisher_bounds(phi.conj().T @ signal[atom], jac[atom] @ phi.conj(), fisher)
        np.testing.assert_allclose(found.exact[atom], expected, rtol=1e-9)
        parts = np.stack([residual(signal[atom], jac[atom], i, fisher) for i in range(3)])
        expected = 1 / np.linalg.norm(phi.conj().T @ parts.T, axis=0) ** 2
        np.testing.assert_allclose(found.approximate[atom], expected, rtol=1e-11)


@pytest.mark.parametrize("fisher", FISHERS)
def test_a_column_that_is_orthogonal_to_the_basis_has_no_direction_in_it(
    rng: np.random.Generator, fisher: Fisher
) -> None:
    # signal q0, target q1 + q2 / 2 + 0.3 q3, nuisance q3, of which q3 is not in the basis: 1 / (1 + 1/4)
    for _ in range(20):
        q = np.linalg.qr(gaussian(rng, 41, 4))[0].T
        jac = np.stack([q[1] + 0.5 * q[2] + 0.3 * q[3], q[3]])[None]
        found = crb.bounds(q[:1], jac, q[:3].T, targets=[0], fisher=fisher)
        np.testing.assert_allclose([found.uncompressed, found.exact], 0.8, rtol=1e-12)
        # and a target that is not in it cannot be estimated
        assert np.isinf(crb.bounds(q[:1], jac, q[:3].T, targets=[1], fisher=fisher).exact).all()


def test_the_two_fisher_matrices_agree_for_fisp_and_differ_for_random_data(rng: np.random.Generator) -> None:
    for data, equal in ((fisp_data(), True), (random_data(rng), False)):
        real, complex_ = (crb.orthogonalise(*data, fisher=fisher).bound for fisher in FISHERS)
        assert bool(np.allclose(real, complex_, rtol=1e-9)) is equal
        # projecting on more can only lengthen a bound
        assert np.all(complex_ >= real * (1 - 1e-12))


def test_a_complex_factor_is_infinite_over_the_complex_numbers_only() -> None:
    time = np.linspace(0.01, 0.1, 7)
    signal = np.exp((-20 + 30j) * time)[None]  # R2* and off-resonance
    jac = np.stack([-time * signal, 1j * time * signal], axis=1)
    assert np.isinf(crb.orthogonalise(signal, jac, fisher="complex").bound).all()
    assert np.isfinite(crb.orthogonalise(signal, jac, fisher="real").bound).all()


@pytest.mark.parametrize("fisher", FISHERS)
def test_zero_and_dependent_derivatives_are_zero_and_leave_the_others_alone(
    rng: np.random.Generator, fisher: Fisher
) -> None:
    signal, jac = random_data(rng, n=2, p=4)
    jac[0, 1] = 0
    jac[1, 2] = 1e3 * signal[1] - 2 * jac[1, 0]  # then none of 0 and 2 can be estimated
    found = crb.orthogonalise(signal, jac, fisher=fisher)
    assert (found.norm == 0).tolist() == [[False, True, False, False], [True, False, True, False]]
    assert np.isfinite(found.unit).all()
    assert not found.unit[found.norm == 0].any()
    assert np.isinf(found.bound[found.norm == 0]).all()
    for atom, left_out, kept in ((0, 1, [0, 2, 3]), (1, 2, [1, 3])):
        reduced = np.delete(jac[atom], left_out, axis=0)
        for i in kept:
            expected = residual(signal[atom], reduced, i - (i > left_out), fisher)
            assert np.isclose(found.norm[atom, i], np.linalg.norm(expected), rtol=1e-12, atol=0)
    bounds = crb.bounds(signal, jac, np.linalg.qr(gaussian(rng, 11, 7))[0], fisher=fisher)
    for values in (bounds.uncompressed, bounds.approximate, bounds.exact):
        assert not np.isnan(values).any()
        assert np.isinf(values[found.norm == 0]).all()


@pytest.mark.parametrize("fisher", FISHERS)
def test_a_zero_signal_is_no_nan(rng: np.random.Generator, fisher: Fisher) -> None:
    _, jac = random_data(rng, n=1, p=2)
    found = crb.orthogonalise(np.zeros((1, 11)), jac, fisher=fisher)
    assert np.isfinite(found.norm).all()
    assert np.all(found.norm > 0)
    assert np.isnan(crb.energy_loss(np.zeros((1, 11)), np.eye(11, 3))).all()


def test_nuisances_are_projected_out_but_have_no_bound(rng: np.random.Generator) -> None:
    signal, jac = random_data(rng)
    parameters = [Parameter(name, "", 0, 1, nuisance=name == "b") for name in "abc"]
    targets = crb.interesting(parameters)
    assert targets == [0, 2]
    every, some = crb.orthogonalise(signal, jac), crb.orthogonalise(signal, jac, targets=targets)
    np.testing.assert_allclose(some.norm, every.norm[:, targets], rtol=1e-13)
    np.testing.assert_allclose(some.unit, every.unit[:, targets], atol=1e-13)
    assert crb.orthogonalise(signal, jac, targets=[]).norm.shape == (6, 0)


def test_any_memory_layout_and_dtype(rng: np.random.Generator) -> None:
    signal, jac = random_data(rng, n=4, p=1)
    expected = crb.orthogonalise(signal, jac).norm
    turned = crb.orthogonalise(np.asfortranarray(signal), np.asfortranarray(jac)).norm
    np.testing.assert_array_equal(turned, expected)
    padded = np.zeros((4, 2, 22), complex)
    padded[:, 1, ::2], padded[:, 0, ::2] = jac[:, 0], signal
    np.testing.assert_array_equal(crb.orthogonalise(padded[:, 0, ::2], padded[:, 1:, ::2]).norm, expected)
    real = crb.orthogonalise(signal.real, jac.real)
    assert not real.unit.imag.any()
    assert crb.orthogonalise(signal[:0], jac[:0]).norm.shape == (0, 1)


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("kind", ["random", "fisp"])
def test_bounds_are_ordered(rng: np.random.Generator, kind: str, fisher: Fisher) -> None:
    signal, jac = random_data(rng, n=50) if kind == "random" else fisp_data()
    for rank in range(1, 11):
        phi = np.linalg.qr(gaussian(rng, signal.shape[1], rank))[0]
        found = crb.bounds(signal, jac, phi, fisher=fisher)
        assert np.all(found.uncompressed <= found.approximate * (1 + 1e-12))
        # the compressed columns of FISP may nearly depend on one another
        assert np.all(found.approximate <= found.exact * (1 + 1e-9))
    whole = crb.bounds(signal, jac, np.linalg.qr(gaussian(rng, *[signal.shape[1]] * 2))[0], fisher=fisher)
    np.testing.assert_allclose(whole.exact, whole.uncompressed, rtol=1e-9)
    np.testing.assert_allclose(whole.approximate, whole.uncompressed, rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "fisher", "least"),
    [("fisp", "real", 4), ("fisp", "complex", 4), ("random", "complex", 4), ("random", "real", 3)],
)
def test_fewer_coefficients_than_unknowns_give_an_infinite_exact_bound(
    rng: np.random.Generator, kind: str, fisher: Fisher, least: int
) -> None:
    # P = 3 and M0: 4 complex unknowns, or 5 real ones in K complex coefficients; FISP has one axis of the plane only
    signal, jac = random_data(rng) if kind == "random" else fisp_data()
    for rank in range(1, 6):
        phi = np.linalg.qr(rng.standard_normal((signal.shape[1], rank)))[0]
        found = crb.bounds(signal, jac, phi, fisher=fisher)
        assert np.isinf(found.exact).all() if rank < least else np.isfinite(found.exact).all()
        assert np.isfinite(found.approximate).all()
        loss = crb.crb_loss(found.uncompressed, found.exact)
        assert np.all(loss == 1) if rank < least else np.all(loss < 1)


def test_losses_of_nothing_and_of_everything(rng: np.random.Generator) -> None:
    signal = gaussian(rng, 3, 8)
    basis = np.linalg.qr(gaussian(rng, 8, 8))[0]
    assert np.abs(crb.energy_loss(signal, basis)).max() < 1e-14
    expected = np.linalg.norm(signal - signal @ basis[:, :3].conj() @ basis[:, :3].T, axis=1) ** 2
    np.testing.assert_allclose(crb.energy_loss(signal, basis[:, :3]), expected / np.linalg.norm(signal, axis=1) ** 2)
    loss = crb.crb_loss(np.array([1.0, 1.0, 1.0, np.inf]), np.array([1.0, 4.0, np.inf, np.inf]))
    np.testing.assert_array_equal(loss, [0, 0.75, 1, np.nan])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s, j: (s[:-1], j, "real"), r"\(5, 11\) and jac \(6, 3, 11\) do not fit"),
        (lambda s, j: (s, j[..., :-1], "real"), "do not fit"),
        (lambda s, j: (s[0], j, "real"), "do not fit"),
        (
            lambda s, j: (s, np.where(np.arange(6)[:, None, None] == 4, np.nan, j), "real"),
            "1 atoms, the first being atom 4",
        ),
        (lambda s, j: (np.where(np.arange(6)[:, None] == 2, np.inf, s), j, "real"), "first being atom 2"),
        (lambda s, j: (s, np.where(j.real > 0, j, j * 1e200), "real"), "squared, is not finite for 6 atoms"),
        (lambda s, j: (s, j, "Complex"), "fisher is 'Complex', expected 'real' or 'complex'"),
    ],
)
def test_bad_input_is_refused(rng: np.random.Generator, change: Any, match: str) -> None:
    signal, jac, fisher = change(*random_data(rng))
    with pytest.raises(ValueError, match=match):
        crb.orthogonalise(signal, jac, fisher=fisher)


@pytest.mark.parametrize("targets", [[0, 0], [3], [-1]])
def test_targets_are_distinct_parameters(rng: np.random.Generator, targets: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected distinct numbers below 3"):
        crb.orthogonalise(*random_data(rng), targets=targets)


def test_phi_that_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    for phi in (np.eye(10, 3), np.eye(11, 0), np.ones(11)):
        with pytest.raises(ValueError, match=r"expected \(T, K\) with T = 11"):
            crb.bounds(*random_data(rng), phi)
