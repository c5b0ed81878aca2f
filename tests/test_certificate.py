"""What the bases of a sweep cost with exact bounds, and the bound of any basis, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from crb_case import FISHERS, Array, Fisher, gaussian, random_data

from crbsvd_plugin import crb
from crbsvd_plugin.assess import Tally
from crbsvd_plugin.certificate import certificates
from crbsvd_plugin.model import Batch, Parameter
from crbsvd_plugin.weighting import Weighting

PARAMETERS = [Parameter("a", "s", 0, 1), Parameter("n", "", 0, 1, nuisance=True), Parameter("b", "1", 0, 1)]
TARGETS, T = [0, 2], 11
WEIGHTING = Weighting(0.4, "svd", {"b": 2.0}, {"y": 0.5, ("x", "a"): 3.0})


def batches(rng: np.random.Generator) -> list[Batch]:
    """Three batches of two classes; b of one atom cannot be estimated."""
    found = []
    for label, n, weight in (("x", 5, 1.0), ("y", 4, 2.5), ("x", 3, 1.0)):
        signal, jac = random_data(rng, n=n, t=T)
        if label == "y":
            jac[1, 2] = 0
        found.append(Batch(rng.random((n, 3)), signal, jac, label, weight))
    return found


def tallied(data: list[Batch], phis: list[Array], fisher: Fisher, directions: Array) -> Tally:
    """Tally every batch for itself, and merge, as on workers."""
    whole = Tally(PARAMETERS, phis, fisher=fisher, directions=directions)
    for batch in data:
        part = Tally(PARAMETERS, phis, fisher=fisher, directions=directions)
        part.update(batch)
        kept = Tally(PARAMETERS, phis, fisher=fisher, directions=directions)
        kept.restore(*part.state())
        whole.merge(kept)
    return whole


def cost(data: list[Batch], phi: Array, fisher: Fisher, figure: str = "exact") -> tuple[float, float]:
    """Return the weighted loss, and the weighted total, atom by atom."""
    lost, whole = 0.0, 0.0
    blocks = [(label, name) for label in ("x", "y") for name in ("signal", "a", "b")]
    factors = WEIGHTING.factors(blocks)
    for batch in data:
        assert batch.jac is not None
        found = crb.bounds(batch.signal, batch.jac, phi, targets=TARGETS, fisher=fisher)
        energy = batch.weight * factors[batch.label, "signal"] * crb.energy(batch.signal)
        lost, whole = lost + energy @ crb.energy_loss(batch.signal, phi), whole + energy.sum()
        for i, name in enumerate("ab"):
            factor = batch.weight * factors[batch.label, name]
            losses = crb.crb_loss(found.uncompressed[:, i], getattr(found, figure)[:, i])
            lost, whole = lost + factor * np.nansum(losses), whole + factor * np.isfinite(losses).sum()
    return lost, whole


@pytest.mark.parametrize("fisher", FISHERS)
def test_costs_and_bounds(rng: np.random.Generator, fisher: Fisher) -> None:
    data = batches(rng)
    phis = [np.linalg.qr(gaussian(rng, T, 6))[0], np.linalg.qr(rng.standard_normal((T, 4)))[0]]
    tally = tallied(data, phis, fisher, np.eye(T))
    for i, phi in enumerate(phis):
        found = list(certificates(tally, i, WEIGHTING, conjugate=False))
        assert len(found) == phi.shape[1]
        for rank, (value, bound) in enumerate(found, start=1):
            lost, whole = cost(data, phi[:, :rank], fisher)
            assert value == pytest.approx(lost / whole, rel=1e-10)
            # no basis costs less, not even with approximate bounds; the best of these has that cost
            assert bound < value
            for other in (phi[:, :rank], np.linalg.qr(gaussian(rng, T, rank))[0]):
                assert bound < cost(data, other, fisher, "approximate")[0] / whole
            blocks = [(label, name) for label in "xy" for name in ("signal", "a", "b")]
            gram = sum(factor * tally.gram(*key) for key, factor in WEIGHTING.factors(blocks).items())
            best = np.linalg.eigh(gram)[1][:, : -rank - 1 : -1]
            assert cost(data, best, fisher, "approximate")[0] / whole == pytest.approx(bound, rel=1e-9)


def test_what_is_outside_of_the_directions_counts_as_kept(rng: np.random.Generator) -> None:
    data, phi = batches(rng), np.linalg.qr(gaussian(rng, T, 4))[0]
    all_of_them = list(certificates(tallied(data, [phi], "real", np.eye(T)), 0, WEIGHTING, conjugate=False))
    few = list(certificates(tallied(data, [phi], "real", np.eye(T)[:, :8]), 0, WEIGHTING, conjugate=False))
    for (value, bound), (same, lower) in zip(all_of_them, few, strict=True):
        assert same == value
        assert 0 <= lower < bound


def test_conjugates_count_half_each(rng: np.random.Generator) -> None:
    data, phi = batches(rng), np.linalg.qr(rng.standard_normal((T, 4)))[0]
    both = [
        Batch(b.theta, s, j, b.label, b.weight / 2)
        for b in data
        for s, j in ((b.signal, b.jac), (b.signal.conj(), np.asarray(b.jac).conj()))
    ]
    found = list(certificates(tallied(data, [phi], "real", np.eye(T)), 0, WEIGHTING, conjugate=True))
    wanted = list(certificates(tallied(both, [phi], "real", np.eye(T)), 0, WEIGHTING, conjugate=False))
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
