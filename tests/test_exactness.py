"""Every rank, weight and weighting against a dense SVD in float64, at the sizes of real dictionaries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fold_case import Array, complex_normal, sine

from crbsvd_plugin import crb, models
from crbsvd_plugin.batches import iter_batches
from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.model import Batch, Parameter
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.weighting import Kind

# at 0 and 0.5 the two weightings are the same
WEIGHTINGS: tuple[tuple[float, Kind], ...] = (
    (0.0, "svd"), (0.3, "svd"), (0.5, "svd"), (0.9, "svd"), (0.3, "loss"), (0.9, "loss"),
)  # fmt: skip


@dataclass(frozen=True)
class Dictionary:
    """Batches of a model."""

    parameters: tuple[Parameter, ...]
    batches: tuple[Batch, ...]


@functools.cache
def fisp() -> Dictionary:
    """Return some thousand atoms of Table I, 1040 frames; signals are purely imaginary."""
    model = models.build({"name": "mrf-fisp", "slice_positions": 1})
    prior = PRESETS["mao-mrf-table1"].thinned(2500, model.parameters)
    return Dictionary(model.parameters, tuple(iter_batches(model, prior, batch_size=700)))


@functools.cache
def precession() -> Dictionary:
    """Return recovering and decaying signals of two frequencies, 700 frames, which are complex."""
    rng = np.random.default_rng(5)
    t = np.arange(1, 701) * 5e-3
    batches = []
    for label, low, high in (("a", 0.5, 4.0), ("b", 2.0, 20.0)):
        r1, r2, w = rng.uniform(0.3, 3, (900, 1)), rng.uniform(low, high, (900, 1)), rng.uniform(-9, 9, (900, 1))
        decay = np.exp((1j * w - r2) * t + 0.4j)
        one = (1 - 1.7 * np.exp(-r1 * t)) * decay
        signal = one + 0.4 * np.exp((1j * w + 40j - 3) * t)
        jac = np.stack([1.7 * t * np.exp(-r1 * t) * decay, -t * one, 1j * t * signal], axis=1)
        theta = np.concatenate([r1, r2, w], axis=1)
        batches += [Batch(theta[i::3], signal[i::3], jac[i::3], label, 1.5) for i in range(3)]
    return Dictionary((
        Parameter("R1", "1/s", 0, 9), Parameter("R2", "1/s", 0, 99), Parameter("w", "rad/s", -9, 9, nuisance=True),
    ), tuple(batches))  # fmt: skip


def blocks_of(dictionary: Dictionary, fisher: crb.Fisher, conjugate: bool) -> dict[str, Array]:
    """Return a square root L (T, T) of every block's sum of d d^H, over classes: D_b = L Q^H.

    QR first is what LAPACK does with such a matrix anyway, and backward stable, other than a Gram matrix. A column
    and its conjugate, by half each, are its real and its imaginary part, rotated.
    """
    targets = crb.interesting(dictionary.parameters)
    names = ["signal", *(dictionary.parameters[i].name for i in targets)]
    rows: dict[str, list[Array]] = {name: [] for name in names}
    for batch in dictionary.batches:
        assert batch.jac is not None
        unit = crb.orthogonalise(batch.signal, batch.jac, targets=targets, fisher=fisher).unit
        for name, block in zip(names, (batch.signal, *np.moveaxis(unit, 1, 0)), strict=True):
            halves = [block.real, block.imag] if conjugate or not block.real.any() else [block]
            rows[name] += [np.sqrt(batch.weight) * half for half in halves]
    return {name: np.linalg.qr(np.concatenate(parts), mode="r").T for name, parts in rows.items()}


def dense(blocks: dict[str, Array], weight: float, kind: Kind) -> tuple[Array, Array]:
    power = 1.0 if kind == "svd" else 0.5
    scaled = [((1 - weight) if name == "signal" else weight) ** power * block for name, block in blocks.items()]
    rows = np.concatenate(scaled, axis=1).T
    u, s, _ = np.linalg.svd(np.linalg.qr(rows, mode="r").T)
    return u, s


def losses(blocks: dict[str, Array], phi: Array) -> dict[str, Array]:
    """Return what the first 1, 2, .. columns lose of every block."""
    return {
        name: 1 - np.cumsum(np.linalg.norm(phi.conj().T @ block, axis=1) ** 2) / np.linalg.norm(block) ** 2
        for name, block in blocks.items()
    }


def check(blocks: dict[str, Array], accumulator: BasisAccumulator, weight: float, kind: Kind) -> None:
    u, s = dense(blocks, weight, kind)
    rank = int(np.count_nonzero(s > 1e-4 * s[0]))
    basis = accumulator.finish(rank, weight, weighting=kind)
    # Weyl: off by what was dropped, 1e-8 of the norm at most
    np.testing.assert_allclose(basis.singular_values[:rank], s[:rank], rtol=1e-6)
    expected, found = losses(blocks, u[:, :rank]), losses(blocks, basis.phi)
    for name in blocks:
        limit = 1e-10 if name == "signal" else 1e-7
        assert np.abs(found[name] - expected[name]).max() < limit
        assert abs(basis.info["losses"]["all"][name] - expected[name][-1]) < limit
    n_checked = 0
    for k in range(1, rank + 1):
        if (s[k - 1] - s[k]) / s[k - 1] > 1e-4:
            assert sine(u[:, :k], basis.phi[:, :k]) < 1e-6, (k, s[k - 1] / s[0], s[k] / s[k - 1])
            n_checked += 1
    assert n_checked > 0.9 * rank


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dictionary", "fisher", "conjugate"),
    [
        (fisp, "real", False), (fisp, "complex", True),
        (precession, "real", False), (precession, "real", True),
        (precession, "complex", False), (precession, "complex", True),
    ],
)  # fmt: skip
def test_all_ranks_and_weights(dictionary: Callable[[], Dictionary], fisher: crb.Fisher, conjugate: bool) -> None:
    made = dictionary()
    n_frames = made.batches[0].signal.shape[1]
    accumulator = BasisAccumulator(made.parameters, n_frames, fisher=fisher, conjugate=conjugate)
    for batch in made.batches:
        accumulator.update(batch)
    # or else nothing is tested but a Gram matrix
    assert accumulator.subspace.dimension < n_frames / 2
    assert 0 < max(accumulator.outside.values()) <= 1e-16
    blocks = blocks_of(made, fisher, conjugate)
    for weight, kind in WEIGHTINGS:
        check(blocks, accumulator, weight, kind)


@dataclass(frozen=True)
class Designed:
    """Rows whose singular values fall by 1e-10 over `n_modes` dimensions, one gap being 2e-4 at 2e-4 of the first."""

    rows: Array
    u: Array
    s: Array
    rank: int

    @classmethod
    def make(cls, rng: np.random.Generator, kind: str, n_modes: int = 60, n_frames: int = 300) -> Designed:
        normal = complex_normal if kind == "complex" else np.random.Generator.standard_normal
        shape = (lambda *sizes: normal(rng, *sizes)) if kind == "complex" else (lambda *sizes: normal(rng, sizes))
        q, v = (np.linalg.qr(shape(n, n_modes))[0] for n in (n_frames, 400))
        s = np.logspace(0, -10, n_modes)
        at = int(np.argmin(np.abs(np.log(s / 2e-4))))
        s[at : at + 2] = 2e-4, 2e-4 * (1 - 2e-4)
        return cls((v * s) @ q.T, q, s, at + 1)

    def fold(self, **options: Any) -> BasisAccumulator:
        accumulator = BasisAccumulator((Parameter("a", "s", 0, 1),), len(self.u), **options)
        for part in np.array_split(self.rows, 5):
            accumulator.add("wm", [part, part])
        return accumulator


@pytest.mark.parametrize(
    ("kind", "tolerance", "limit"),
    [
        # Rounding: eps |C u| |C v| / (sigma_K^2 - sigma_K+1^2) (see `BasisAccumulator`). Rows of a real dictionary
        # are graded, |C u| is about 60^(1/2) sigma_K: 60 eps / 4e-4 = 3e-11, here found: 1.5e-11.
        ("real", 0, 1e-9),
        # Those of a complex one are not: |C u| is about |q_K^T q_1| sigma_1 = (60 / 300)^(1/2) sigma_1 by chance,
        # eps / 5 / (4e-8 * 4e-4) = 3e-6 at worst; found: 2e-7.
        ("complex", 0, 3e-6),
        # Dropped: e <= (1e-17)^(1/2) |D| (the fold grows at a tenth of its tolerance), |D| = 1.7 sigma_1, of which
        # e / sigma_K = 2.7e-5 may be missing from u_K; beside it the part inside, e^2 / (sigma_K^2 - sigma_K+1^2)
        # = 1.8e-6. Found: 8e-7 and 2.3e-6.
        ("real", 1e-16, 2.7e-5),
        ("complex", 1e-16, 3e-5),
        # it falls with the root of the tolerance, down to the rounding
        ("real", 1e-20, 2.7e-7),
        ("complex", 1e-20, 3.3e-6),
    ],
)
def test_a_gap_of_2e_4_at_2e_4_of_the_first(
    rng: np.random.Generator, kind: str, tolerance: float, limit: float
) -> None:
    designed = Designed.make(rng, kind)
    accumulator = designed.fold(tolerance=tolerance)
    basis = accumulator.finish(designed.rank + 1, 0)
    for rank in (designed.rank, designed.rank + 1):
        found = sine(designed.u[:, :rank], basis.phi[:, :rank])
        assert found < limit
