"""Runs over a prior: what they fold, interrupted or not, in one piece or merged in a tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fold_case import EPS, Array, sine

from crbsvd_plugin import crb, models
from crbsvd_plugin.batches import iter_batches
from crbsvd_plugin.checkpoint import Checkpoint
from crbsvd_plugin.cluster import Pool
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.model import Batch, Parameter
from crbsvd_plugin.presets import PRESETS
from crbsvd_plugin.prior import Atoms
from crbsvd_plugin.training import Training, compute_basis

T, SIZE = 61, 16
COUNTS = {"a": 150, "b": 1, "c": 77}


class Decay:
    """Two decaying exponentials of two frequencies: complex, with two parameters of interest."""

    parameters = (Parameter("R1", "1/s", 0, 99), Parameter("R2", "1/s", 0, 99), Parameter("w", "rad/s", 0, 9, True))
    n_frames = T

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "decay", "n_frames": T}

    def signal(self, theta: Array) -> Array:
        return self.signal_and_jacobian(theta)[0]

    def signal_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
        t = np.arange(1, T + 1) / T
        r1, r2, w = theta.T[:, :, None]
        turn = np.exp(1j * w * t)
        one, two = np.exp(-r1 * t) * turn, 0.3 * np.exp((9j - r2) * t) * turn
        signal = one + two
        return signal, np.stack([-t * one, -t * two, 1j * t * signal], axis=1)


@pytest.fixture
def training(rng: np.random.Generator, frozen: Callable[..., Array], monkeypatch: pytest.MonkeyPatch) -> Training:
    """Return a run of 16 batches of at most 16 atoms, in three classes."""
    monkeypatch.setattr("crbsvd_plugin.training.batch_size", lambda n_frames, n_parameters: SIZE)
    low, high = np.array([0.3, 3, 0]), np.array([3, 30, 9])
    atoms = tuple(Atoms(label, frozen(rng.uniform(low, high, (n, 3))), 1.0 + n / 100) for label, n in COUNTS.items())
    return Training(model=Decay(), atoms=atoms)


def assert_same(found: BasisAccumulator, expected: BasisAccumulator) -> None:
    """Bit for bit."""
    (values, arrays), (other, others) = found.state(), expected.state()
    assert values == other
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])


def dense(batches: list[Batch], weight: float) -> tuple[Array, Array]:
    columns = []
    for batch in batches:
        assert batch.jac is not None
        unit = crb.orthogonalise(batch.signal, batch.jac, targets=[0, 1]).unit
        root = np.sqrt(batch.weight)
        columns += [(1 - weight) * root * batch.signal.T, *(weight * root * np.moveaxis(unit, (1, 2), (0, 1)))]
    u, s, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    return u, s


@pytest.mark.parametrize("pool", [None, Pool()])
def test_a_run_equals_the_dense_svd(training: Training, pool: Pool | None) -> None:
    accumulator = training.run(pool=pool)
    assert accumulator.n_atoms == COUNTS
    assert training.size == sum(COUNTS.values())
    model = training.model
    batches = [Batch(a.theta, *model.signal_and_jacobian(a.theta), a.label, a.weight) for a in training.atoms]
    u, s = dense(batches, 0.4)
    # what was dropped (merged three levels deep, so (3 + 1)^2 / 10 of the tolerance at most) over the gap, by Wedin,
    # and rounding of squares by Davis and Kahan
    lost = 1.6**0.5 * 1e-8 * np.linalg.norm(s)
    limit = 2 * lost / (s[3] - s[4]) + 100 * EPS * s[0] ** 2 / (s[3] ** 2 - s[4] ** 2)
    assert limit < 1e-5
    assert sine(u[:, :4], accumulator.finish(4, 0.4).phi) < limit


def test_a_run_is_the_fold_of_its_batches(training: Training) -> None:
    expected = BasisAccumulator(training.model.parameters, T)
    for batch in iter_batches(training.model, training.atoms, batch_size=SIZE):
        expected.update(batch)
    assert_same(training.run(), expected)


@pytest.mark.parametrize(("pool", "steps"), [(None, (1, 2, 9, 16)), (Pool(), (1, 2))])
def test_an_interrupted_run_ends_bit_for_bit(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Pool | None, steps: tuple[int, ...]
) -> None:
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    whole = training.run(pool=pool)
    for step in steps:
        path, done, again = tmp_path / f"{step}.checkpoint", list[int](), list[int]()

        def interrupt(n_atoms: int, step: int = step, done: list[int] = done) -> None:
            done.append(n_atoms)
            if len(done) == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            training.run(checkpoint=path, pool=pool, progress=interrupt)
        # the step that was interrupted is not saved; all that was done before is told at once
        assert path.exists() is (step > 1)
        assert_same(training.run(checkpoint=path, pool=pool, progress=again.append), whole)
        assert again[0] == (sum(done[:-1]) if step > 1 else done[0])
        assert sum(again) == training.size
    # a run that had ended is there at once: nothing is simulated
    monkeypatch.setattr("crbsvd_plugin.training.simulate", None)
    done = []
    assert_same(training.run(checkpoint=path, pool=pool, progress=done.append), whole)
    assert done == [training.size]


def test_progress_counts_every_atom_once(training: Training) -> None:
    for pool in (None, Pool()):
        done: list[int] = []
        training.run(pool=pool, progress=done.append)
        assert sum(done) == training.size
        assert len(done) == (16 if pool is None else 2)


def test_a_checkpoint_belongs_to_one_run(training: Training, tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    training.run(checkpoint=path)
    before = path.read_bytes()
    moved = training.atoms[0].theta.copy()
    moved[17, 1] = np.nextafter(moved[17, 1], 99)
    others = [
        replace(training, fisher="complex"),
        replace(training, conjugate=True),
        replace(training, tolerance=1e-15),
        replace(training, atoms=training.atoms[:2]),
        replace(training, atoms=(training.atoms[1], training.atoms[0], training.atoms[2])),
        replace(training, atoms=(replace(training.atoms[0], weight=7.0), *training.atoms[1:])),
        replace(training, atoms=(replace(training.atoms[0], theta=moved), *training.atoms[1:])),
    ]
    keys = [repr(sorted(run.key.items())) for run in (training, *others)]
    assert len(set(keys)) == len(keys)
    for other in others:
        with pytest.raises(UserError, match="checkpoint") as e:
            other.run(checkpoint=path)
        assert "\n" not in str(e.value)
    assert path.read_bytes() == before


def test_what_is_not_finite_is_said_with_its_parameters(training: Training, tmp_path: Path) -> None:
    class Broken(Decay):
        def signal_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
            signal, jac = super().signal_and_jacobian(theta)
            signal[theta[:, 0] > 2.9] = np.nan
            return signal, jac

    with pytest.raises(UserError, match=r"not finite, the first at R1 = 2\.9"):
        replace(training, model=Broken()).run(checkpoint=tmp_path / "c")
    with pytest.raises(UserError, match="is the prior empty"):
        replace(training, atoms=()).run().finish(1, 0.3)


def test_fisp_is_real_and_equals_the_dense_svd() -> None:
    flips = models.build({"name": "mrf-fisp"}).spec["flip_angles"][::8]
    model = models.build({"name": "mrf-fisp", "flip_angles": flips, "b1": True})
    prior = PRESETS["mao-mrf-table1"].thinned(150, model.parameters)
    done: list[int] = []
    basis = compute_basis(model, prior, rank=3, crb_weight=0.5, progress=done.append)
    assert sum(done) == prior.size(model.parameters) == sum(basis.info["n_atoms"].values())
    assert basis.phi.dtype == np.float64
    assert basis.info["model"] == model.spec
    assert basis.info["prior"] == prior.spec
    u, s = dense(list(iter_batches(model, prior, batch_size=10_000)), 0.5)
    # Wedin, of what a tolerance of 1e-16 lets go, and Davis and Kahan
    limit = 2e-8 * np.linalg.norm(s) / (s[2] - s[3]) + 100 * EPS * s[0] ** 2 / (s[2] ** 2 - s[3] ** 2)
    assert limit < 1e-5
    assert sine(u[:, :3], basis.phi) < limit
    with pytest.raises(UserError, match="crb weight is 2"):
        compute_basis(model, prior, rank=3, crb_weight=2)
