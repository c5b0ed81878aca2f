"""Exact losses of bases and their gradients, against `crb` in time and against differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from crb_case import FISHERS, Array, Fisher, fisp_data, gaussian, random_data

from crbsvd_plugin import crb, exact
from crbsvd_plugin.exact import ExactLoss, Reduced, reduced
from crbsvd_plugin.model import Batch
from crbsvd_plugin.weighting import Block

N, P, T, R, K = 13, 3, 23, 17, 5
TARGETS, NAMES = [0, 2], ["a", "b"]
FACTORS: dict[Block, float] = {
    ("wm", "signal"): 0.02, ("wm", "a"): 0.5, ("wm", "b"): 0.7,
    ("csf", "signal"): 0.1, ("csf", "a"): 0.3, ("csf", "b"): 2,
}  # fmt: skip
WEIGHTS = 0.6, 0.4
CASES = [
    pytest.param(data, basis, fisher, id=f"{data} data, {basis} basis, {fisher} Fisher")
    for data, basis, fisher in itertools.product(("real", "imaginary", "complex"), ("real", "complex"), FISHERS)
]


pytestmark = pytest.mark.usefixtures("one_thread")


def price(energy: float, crb_loss: float) -> tuple[float, float, float]:
    """A price whose slopes depend on where it is."""
    return WEIGHTS[0] * energy + WEIGHTS[1] * crb_loss**2, WEIGHTS[0], 2 * WEIGHTS[1] * crb_loss


def batches(rng: np.random.Generator, data: str) -> list[Batch]:
    """Two classes of unequal size and weight, whose derivatives differ by 2e7."""
    found = []
    for label, size, weight in (("wm", N, 1.0), ("csf", 4, 2.5)):
        signal, jac = random_data(rng, size, P, T)
        if data != "complex":
            signal, jac = (rows.real * (1j if data == "imaginary" else 1) for rows in (signal, jac))
        found.append(Batch(np.zeros((size, P)), signal + 0j, jac + 0j, label, weight))
    return found


def orthonormal(rng: np.random.Generator, basis: str, n: int, k: int) -> Array:
    columns = gaussian(rng, n, k)
    return np.linalg.qr(columns if basis == "complex" else columns.real)[0]


def directions(rng: np.random.Generator) -> Array:
    return np.linalg.qr(rng.standard_normal((T, R)))[0]


def loss_of(
    made: list[Batch], columns: Array, fisher: Fisher, *, worst: bool = False, with_units: bool = False
) -> ExactLoss:
    parts = [reduced(b, columns, targets=TARGETS, fisher=fisher, with_units=with_units) for b in made]
    return ExactLoss(parts, FACTORS, NAMES, targets=TARGETS, fisher=fisher, worst=worst)


def expected(made: list[Batch], phi: Array, fisher: Fisher, figure: str = "exact") -> tuple[float, Array, Array]:
    """Return the energy loss, and losses (N, I) of all fingerprints with their weights, from the bounds in time."""
    lost, whole, losses, weights = 0.0, 0.0, [], []
    for b in made:
        assert b.jac is not None
        found = crb.bounds(b.signal, b.jac, phi, targets=TARGETS, fisher=fisher)
        losses.append(crb.crb_loss(found.uncompressed, getattr(found, figure)))
        weights.append(b.weight * np.tile([FACTORS[b.label, name] for name in NAMES], (len(b.signal), 1)))
        energy = FACTORS[b.label, "signal"] * b.weight * crb.energy(b.signal)
        lost, whole = lost + energy @ crb.energy_loss(b.signal, phi), whole + energy.sum()
    weight = np.concatenate(weights)
    return lost / whole, np.concatenate(losses), weight / weight.sum()


@pytest.mark.parametrize(("data", "basis", "fisher"), CASES)
def test_losses_are_those_of_the_bounds_in_time(
    rng: np.random.Generator, data: str, basis: str, fisher: Fisher
) -> None:
    made, columns, phi = batches(rng, data), directions(rng), orthonormal(rng, basis, R, K)
    energy, losses, weights = expected(made, columns @ phi, fisher)
    found = loss_of(made, columns, fisher).losses(phi)
    # rounding times the condition of a few random columns
    np.testing.assert_allclose(found, (energy, np.sum(weights * losses)), rtol=1e-11)


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize(("data", "basis", "fisher"), CASES)
def test_the_gradient_is_that_of_central_differences(
    rng: np.random.Generator, data: str, basis: str, fisher: Fisher, worst: bool
) -> None:
    loss = loss_of(batches(rng, data), directions(rng), fisher, worst=worst)
    phi = orthonormal(rng, basis, R, K)
    gradient = loss(phi, price)[1]
    assert gradient.dtype == phi.dtype
    for _ in range(3):
        change = gaussian(rng, R, K) if basis == "complex" else rng.standard_normal((R, K))
        change -= phi @ (phi.conj().T @ change)
        step = 1e-5 / np.linalg.norm(change)
        ends = [loss(np.linalg.qr(phi + sign * step * change)[0], price)[0] for sign in (1, -1)]
        # an error of 1e-10, the square of the step, of a cost of 1 that changes by about 1 over all of the Grassmannian
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(
            float(np.vdot(gradient, change).real), abs=1e-8 * np.linalg.norm(change)
        )


@pytest.mark.parametrize(("data", "basis", "fisher"), CASES)
def test_a_rotation_changes_nothing(rng: np.random.Generator, data: str, basis: str, fisher: Fisher) -> None:
    loss = loss_of(batches(rng, data), directions(rng), fisher)
    phi, turn = orthonormal(rng, basis, R, K), orthonormal(rng, basis, K, K)
    cost, gradient = loss(phi, price)
    turned_cost, turned_gradient = loss(phi @ turn, price)
    assert turned_cost == pytest.approx(cost, rel=1e-12)
    np.testing.assert_allclose(turned_gradient, gradient @ turn, atol=1e-11 * np.abs(gradient).max())
    # so within the span there is nothing to be gained: phi^H G is Hermitian
    inside = phi.conj().T @ gradient
    np.testing.assert_allclose(inside, inside.conj().T, atol=1e-11 * np.abs(gradient).max())


def test_the_worst_tenth_counts(rng: np.random.Generator) -> None:
    made, columns, phi = batches(rng, "complex"), directions(rng), orthonormal(rng, "real", R, K)
    _, losses, weights = expected(made, columns @ phi, "real")
    total = 0.0
    for column, weight in zip(losses.T, weights.T, strict=True):
        # every fingerprint in a thousand pieces, of which a tenth of the weight counts ten times
        pieces = sorted(zip(np.repeat(column, 1000), np.repeat(weight / 1000, 1000), strict=True), reverse=True)
        values, shares = np.array(pieces).T
        counted = np.cumsum(shares) <= 0.1 * shares.sum() * (1 + 1e-12)
        total += float(values[counted] @ shares[counted]) / 0.1
    # the piece at the edge, of a thousandth of one of seventeen weights
    assert loss_of(made, columns, "real", worst=True).losses(phi)[1] == pytest.approx(total, rel=1e-2)
    assert total > np.sum(weights * losses)


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("worst", [False, True])
def test_no_basis_costs_less_than_the_approximate_gram_leaves(
    rng: np.random.Generator, fisher: Fisher, worst: bool
) -> None:
    made, columns = batches(rng, "complex"), directions(rng)
    loss = loss_of(made, columns, fisher, worst=worst, with_units=True)
    at = orthonormal(rng, "complex", R, K)
    gram, whole = loss.approximate_gram(at, WEIGHTS)
    assert whole == pytest.approx(1)
    for phi in (at, *(orthonormal(rng, "complex", R, K) for _ in range(5))):
        energy, lost = loss.losses(phi)
        kept = float(np.trace(phi.conj().T @ gram @ phi).real)
        assert whole - kept < WEIGHTS[0] * energy + WEIGHTS[1] * lost
    if not worst:
        energy, losses, weights = expected(made, columns @ at, fisher, "approximate")
        kept = float(np.trace(at.conj().T @ gram @ at).real)
        assert whole - kept == pytest.approx(WEIGHTS[0] * energy + WEIGHTS[1] * np.sum(weights * losses), rel=1e-11)


def test_pieces_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, phi = loss_of(batches(rng, "complex"), directions(rng), "real"), orthonormal(rng, "complex", R, K)
    cost, gradient = loss(phi, price)
    monkeypatch.setattr(exact, "_PIECE", 4)
    other_cost, other_gradient = loss(phi, price)
    assert other_cost == pytest.approx(cost, rel=1e-13)
    np.testing.assert_allclose(other_gradient, gradient, atol=1e-13 * np.abs(gradient).max())


def test_too_few_coefficients_lose_everything(rng: np.random.Generator) -> None:
    made, columns = batches(rng, "real"), directions(rng)
    loss = loss_of(made, columns, "real")
    # M0 and three parameters
    phi = orthonormal(rng, "real", R, P)
    assert loss.losses(phi)[1] == pytest.approx(1, abs=1e-12)
    _, gradient = loss(phi, lambda energy, crb_loss: (crb_loss, 0.0, 1.0))
    assert not gradient.any()
    assert loss.losses(orthonormal(rng, "real", R, P + 1))[1] < 1


def test_what_cannot_be_estimated_counts_nothing(rng: np.random.Generator) -> None:
    signal, jac = random_data(rng, N, P, T)
    jac[3, 0] = 0
    jac[5, 1] = 0  # a nuisance
    jac[7, 2] = jac[7, 0] * 3
    made, columns = [Batch(np.zeros((N, P)), signal, jac, "wm")], directions(rng)
    phi = orthonormal(rng, "complex", R, K)
    _, losses, weights = expected(made, columns @ phi, "real")
    weights = np.where(np.isnan(losses), 0, weights)
    assert np.isnan(losses).sum() == 3
    wanted = np.sum(weights * np.nan_to_num(losses)) / weights.sum()
    assert loss_of(made, columns, "real").losses(phi)[1] == pytest.approx(wanted, rel=1e-10)


def test_fingerprints_of_a_sequence_take_half(rng: np.random.Generator) -> None:
    signal, jac = fisp_data()
    columns = np.linalg.qr(rng.standard_normal((signal.shape[1], 20)))[0]
    part = reduced(Batch(np.zeros((4, 3)), signal, jac, "wm"), columns, targets=[0, 1], fisher="real")
    # FISP signals are all imaginary
    assert part.columns.dtype == part.kept.dtype == np.float64
    assert part.columns.shape == (4, 4, 20)


def test_errors(rng: np.random.Generator) -> None:
    columns = directions(rng)
    with pytest.raises(ValueError, match="no fingerprints"):
        ExactLoss([], FACTORS, NAMES, targets=TARGETS, fisher="real")
    bare = Batch(np.zeros((1, P)), gaussian(rng, 1, T), None, "wm")
    with pytest.raises(ValueError, match="no derivatives"):
        reduced(bare, columns, targets=TARGETS, fisher="real")
    loss = loss_of(batches(rng, "real"), columns, "real")
    with pytest.raises(ValueError, match="with_units"):
        loss.approximate_gram(orthonormal(rng, "real", R, K), WEIGHTS)
    assert isinstance(reduced(batches(rng, "real")[0], columns, targets=TARGETS, fisher="real"), Reduced)
