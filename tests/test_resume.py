"""Runs that are broken off and gone on with: where the subspace grows late, on two threads, and more than once."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crbsvd_plugin import batches, threads, training
from crbsvd_plugin.batches import BATCH
from crbsvd_plugin.checkpoint import Checkpoint
from crbsvd_plugin.cluster import Pool
from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.model import Parameter
from crbsvd_plugin.prior import Atoms
from crbsvd_plugin.training import Training

T = 61


class Chirp:
    """Damped chirps exp(i w t^2 - r t), t from 0 to 1: the faster they turn, the more dimensions they fill."""

    parameters = (Parameter("r", "1/s", 0, 99), Parameter("w", "rad/s", -999, 999))

    def __init__(self, n_frames: int = T):
        self.n_frames = n_frames

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": "chirp", "n_frames": self.n_frames}

    def signal(self, theta: np.ndarray) -> np.ndarray:
        return self.signal_and_jacobian(theta)[0]

    def signal_and_jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = np.arange(1, self.n_frames + 1) / self.n_frames
        signal = np.exp((1j * theta[:, 1:] * t - theta[:, :1]) * t)
        return signal, np.stack([-t * signal, 1j * t**2 * signal], axis=1)


def drawn(rng: np.random.Generator, label: str, n: int, width: float, weight: float = 1.0) -> Atoms:
    return Atoms(label, np.stack([rng.uniform(0.5, 5, n), rng.uniform(-width, width, n)], axis=1), weight)


@pytest.fixture
def atoms(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> list[Atoms]:
    """21 batches: 20 of a class that fills few dimensions, and in their middle one that fills many more."""
    monkeypatch.setattr(batches, "BATCH", 16)
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "every", 0.0)
    return [drawn(rng, "slow", 315, 0.3), drawn(rng, "fast", 13, 30.0, 2.5)]


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Break simulation off after so many batches; give what has been simulated."""
    simulate = batches.simulate

    def after(n: int) -> list[int]:
        sizes: list[int] = []

        def simulated(model: Any, piece: Atoms) -> Any:
            if len(sizes) == n:
                raise KeyboardInterrupt
            sizes.append(len(piece.theta))
            return simulate(model, piece)

        monkeypatch.setattr(training, "simulate", simulated)
        return sizes

    return after


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with threads.limit(request.param):
        yield request.param


def bits(accumulator: BasisAccumulator) -> object:
    values, arrays = accumulator.state()
    return values, {name: (array.shape, array.tobytes()) for name, array in arrays.items()}


@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("options", [{}, {"conjugate": True, "fisher": "complex"}])
def test_broken_off_twice_it_ends_with_the_same_bits(
    atoms: list[Atoms], tmp_path: Path, breaking: Callable[[int], list[int]], options: dict[str, Any]
) -> None:
    plan, path = Training(model=Chirp(), atoms=atoms, **options), tmp_path / "run"
    dimensions: list[int] = []
    growing = plan._empty()
    for piece in batches.pieces(atoms, size=16):
        growing.update(batches.simulate(plan.model, piece))
        dimensions.append(growing.subspace.dimension)
    # or nothing would be tested here
    assert dimensions[9] < dimensions[11] < T
    whole = plan.run()
    assert bits(whole) == bits(growing)
    for first in (0, 9, 10, 20):
        again = min(3, 20 - first)
        for n in (first, again):
            breaking(n)
            with pytest.raises(KeyboardInterrupt):
                plan.run(checkpoint=path)
        told: list[int] = []
        sizes = breaking(-1)
        assert bits(plan.run(checkpoint=path, progress=told.append)) == bits(whole)
        assert len(sizes) == 21 - first - again
        assert sum(told) == 328
        path.unlink()


def test_groups_of_a_pool_are_done_again_from_their_beginning(
    atoms: list[Atoms], tmp_path: Path, breaking: Callable[[int], list[int]]
) -> None:
    plan, path = Training(model=Chirp(), atoms=atoms), tmp_path / "run"
    with threads.limit(1):
        whole = plan.run(pool=Pool())
        # groups of 4 times 2 batches: 8, 8 and 5
        for n, n_left in ((3, 21), (8, 13), (15, 13), (16, 5), (20, 5)):
            breaking(n)
            with pytest.raises(KeyboardInterrupt):
                plan.run(checkpoint=path, pool=Pool())
            sizes = breaking(-1)
            assert bits(plan.run(checkpoint=path, pool=Pool())) == bits(whole)
            assert len(sizes) == n_left
            path.unlink()


def test_chunks_are_those_of_the_whole_queue_after_a_break_too(
    atoms: list[Atoms], tmp_path: Path, breaking: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 21 batches in 7 chunks of 3; the 9 that are left after the first group would make chunks of 2
    monkeypatch.setattr(training, "_N_CHUNKS", 7)
    plan, path = Training(model=Chirp(), atoms=atoms), tmp_path / "run"
    with threads.limit(1):
        whole = plan.run(pool=Pool())
        breaking(13)
        with pytest.raises(KeyboardInterrupt):
            plan.run(checkpoint=path, pool=Pool())
        sizes = breaking(-1)
        assert bits(plan.run(checkpoint=path, pool=Pool())) == bits(whole)
        assert len(sizes) == 9


def test_what_is_finished_needs_no_place_to_write(
    atoms: list[Atoms], tmp_path: Path, breaking: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, path = Training(model=Chirp(), atoms=atoms), tmp_path / "run"
    whole = plan.run(checkpoint=path)
    for name in ("save", "check"):
        monkeypatch.setattr(Checkpoint, name, lambda *_: pytest.fail("it was written"))
    sizes = breaking(0)
    assert bits(plan.run(checkpoint=path)) == bits(whole)
    assert sizes == []


def test_a_place_is_checked_and_nothing_is_left_there(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "deep" / "run", {}).check()
    assert list(tmp_path.iterdir()) == []
    run = Checkpoint(tmp_path / "run", {})
    run.save({"done": 1}, {})
    run.check()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert run.load() == ({"done": 1}, {})


def test_what_travels_to_a_worker_is_its_own_atoms(rng: np.random.Generator) -> None:
    sent: list[int] = []

    class Spy(Pool):
        def reduce(self, function: Any, merge: Any, items: Sequence[Any], **options: Any) -> Iterator[Any]:  # type: ignore[override]
            sent.extend(len(pickle.dumps((function, item))) for item in items)
            sent.append(len(pickle.dumps(merge)))
            return super().reduce(function, merge, items, **options)

    Training(model=Chirp(9), atoms=[drawn(rng, "x", 3 * BATCH, 3.0)]).run(pool=Spy())
    # two batches of atoms of two numbers, one batch, and none; a few KB of names
    assert len(sent) == 3
    for size, n_atoms in zip(sent, (2 * BATCH, BATCH, 0), strict=True):
        assert 16 * n_atoms < size < 16 * n_atoms + 4000
