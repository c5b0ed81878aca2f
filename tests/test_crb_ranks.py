"""Bounds and energies of all ranks against least squares, rank by rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from crb_case import FISHERS, Array, Fisher, as_real, fisp_data, gaussian, random_data

from crbsvd_plugin import crb


def rest(signal: Array, jac: Array, target: int, fisher: Fisher) -> float:
    """Return how much of a derivative of norm 1 is outside of the span of all others, by least squares."""
    columns = [signal, *np.delete(jac, target, axis=0)] + ([1j * signal] if fisher == "real" else [])
    a, b = np.stack([c / np.linalg.norm(c) for c in columns], axis=1), jac[target] / np.linalg.norm(jac[target])
    if fisher == "real":
        a, b = as_real(a), as_real(b[:, None])[:, 0]
    return float(np.linalg.norm(b - a @ np.linalg.lstsq(a, b, rcond=1e-12)[0]))


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("kind", ["random", "real phi", "fisp", "dependent"])
def test_bounds_of_every_rank_by_least_squares(
    rng: np.random.Generator, frozen: Callable[..., Array], kind: str, fisher: Fisher
) -> None:
    signal, jac = fisp_data() if kind == "fisp" else random_data(rng, n=3)
    if kind == "dependent":
        jac[:, 2] = 5 * jac[:, 1]
    n = signal.shape[1]
    phi = np.linalg.qr(rng.standard_normal((n, 7)) if kind in ("real phi", "fisp") else gaussian(rng, n, 7))[0]
    signal, jac, phi = frozen(signal), frozen(jac), frozen(phi)
    found = crb.bounds_by_rank(signal, jac, phi, fisher=fisher)
    assert found.exact.shape == found.approximate.shape == found.uncompressed.shape == (7, len(signal), 3)
    unit = crb.orthogonalise(signal, jac, fisher=fisher).unit
    for k in range(1, 8):
        s, j = signal @ phi[:, :k].conj(), jac @ phi[:, :k].conj()
        with np.errstate(divide="ignore"):
            approximate = found.uncompressed[k - 1] / np.linalg.norm(unit @ phi[:, :k].conj(), axis=-1) ** 2
        np.testing.assert_allclose(found.approximate[k - 1], approximate, rtol=1e-12)
        for atom in range(len(signal)):
            for i in range(3):
                left = rest(s[atom], j[atom], i, fisher)
                # least squares leaves 1e-15 of a dependent column; all others here leave more than 1e-5
                assert left < 1e-13 or left > 1e-5
                expected = np.inf if left < 1e-13 else 1 / (left * np.linalg.norm(j[atom, i])) ** 2
                # its error is about 1e-15 / left, and the bound has twice that
                assert np.isclose(found.exact[k - 1, atom, i], expected, rtol=1e-14 / max(left, 1e-14), atol=0)
    last = crb.bounds(signal, jac, phi, fisher=fisher)
    for one, every in ((last.exact, found.exact), (last.approximate, found.approximate)):
        np.testing.assert_array_equal(one, every[-1])


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("kind", ["random", "fisp"])
def test_bounds_fall_with_the_rank(rng: np.random.Generator, kind: str, fisher: Fisher) -> None:
    signal, jac = random_data(rng, n=50) if kind == "random" else fisp_data()
    found = crb.bounds_by_rank(signal, jac, np.linalg.qr(gaussian(rng, signal.shape[1], 9))[0], fisher=fisher)
    assert np.all(np.diff(found.approximate, axis=0) <= 0)
    finite = np.isfinite(found.exact)
    assert np.all(finite[1:] >= finite[:-1])
    # a distance above DEPENDENT = 1e-8 is known to 1e-15 / 1e-8, and a bound to twice that
    assert np.all((found.exact[1:] <= found.exact[:-1] * (1 + 1e-6))[finite[:-1]])
    assert np.all(found.uncompressed <= found.approximate * (1 + 1e-12))
    assert np.all(found.approximate <= found.exact * (1 + 1e-6))


def test_coefficients_and_energy_of_every_rank(rng: np.random.Generator, frozen: Callable[..., Array]) -> None:
    signal, jac = map(frozen, random_data(rng))
    for phi in (np.linalg.qr(rng.standard_normal((11, 5)))[0], np.linalg.qr(gaussian(rng, 11, 5))[0]):
        np.testing.assert_allclose(crb.coefficients(signal, phi), (phi.conj().T @ signal.T).T, atol=1e-14)
        expected = np.einsum("bpt,tk->bpk", jac, phi.conj())
        assert np.abs(crb.coefficients(jac, phi) - expected).max() < 1e-15 * np.linalg.norm(jac, axis=-1).max()
        found = crb.energy_loss_by_rank(signal, phi)
        for k in range(1, 6):
            outside = signal.T - phi[:, :k] @ (phi[:, :k].conj().T @ signal.T)
            share = np.linalg.norm(outside, axis=0) ** 2 / np.linalg.norm(signal, axis=1) ** 2
            np.testing.assert_allclose(found[k - 1], share, atol=1e-14)
        np.testing.assert_array_equal(crb.energy_loss(signal, phi), found[-1])
    assert not crb.coefficients(1j * signal.imag, rng.standard_normal((11, 2))).real.any()
