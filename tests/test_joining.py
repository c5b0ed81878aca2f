"""Readouts in pieces and short ones, against the whole ones that they are parts of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd
from mrd_stream import header, readout, spokes
from test_arrival import taken
from test_pipeline import SIGNAL, C, N, T, error, head, scan, write_basis

from crbsvd_plugin import arrival, coils, threads
from crbsvd_plugin.arrival import Arrivals
from crbsvd_plugin.basis import Basis
from crbsvd_plugin.config import Config
from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.group import Reconstruction
from crbsvd_plugin.joining import Joining
from crbsvd_plugin.pipeline import reconstruct_stream
from crbsvd_plugin.positions import Source
from crbsvd_plugin.readouts import Group, bridged
from crbsvd_plugin.recon import reconstruct
from crbsvd_plugin.roles import Roles

EDGES = (0, 5, 16, 2 * N)  # of three pieces, unequal ones


def pieces(item: Any, number: int | None = None, edges: tuple[int, ...] = EDGES) -> list[Any]:
    """Return a readout in pieces, numbered from `number` on; None: not numbered."""
    found = []
    for place, (start, stop) in enumerate(itertools.pairwise(edges)):
        one = readout(item.data[:, start:stop], item.traj[start:stop])
        for name, _ in type(item.idx)._fields_:
            setattr(one.idx, name, getattr(item.idx, name))
        one.idx.segment, one.sample_time_us = place, item.sample_time_us
        one.position[:] = item.position[:]
        one.scan_counter = 0 if number is None else number + place
        found.append(one)
    return found


def split(items: list[Any], numbers: str = "own") -> list[Any]:
    """Return all imaging readouts in pieces, which have numbers of their own, share them, or have none."""
    found, number = [], 1
    for item in items:
        if item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            found.append(item)
            continue
        found += pieces(item, number if numbers != "none" else None)
        if numbers == "shared":
            for one in found[-3:]:
                one.scan_counter = number
        number += 3 if numbers == "own" else 1
    return found


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads.limit(1):
        yield


@pytest.fixture
def name(rng: np.random.Generator, tmp_path: Path) -> str:
    return write_basis(rng, tmp_path)


def images(items: list[Any], name: str, told: Any = None, **options: Any) -> list[Reconstruction]:
    config = Config(**{"basis": name, "lam": 0.5, "iterations": 8, "fit": False, **options})
    return list(reconstruct_stream(told or head(), items, config))


def headed(n_pieces: int) -> Any:
    return header((N, N, 1), T, repetition=4, slice=1, segment=n_pieces - 1)


@pytest.mark.parametrize("numbers", ["own", "shared", "none"])
def test_pieces_are_the_readouts_that_they_make(rng: np.random.Generator, name: str, numbers: str) -> None:
    """The very numbers in the very order, so the very images; also where pieces come backwards, or two by two."""
    items = scan(rng)
    whole = images(items, name)
    parts = split(items, numbers)
    orders = [parts, [parts[0], *(parts[i] for k in range(1, len(parts), 3) for i in (k + 2, k, k + 1))]]
    for order in orders:
        found = images(order, name, headed(3), pieces=3)
        for one, other in zip(found, whole, strict=True):
            assert one.coeff.tobytes() == other.coeff.tobytes()
            assert one.readouts == {"used": 30, "twice": 0, "missing": 0, "partial": 0}


def test_shuffled_pieces_find_each_other_by_their_numbers(rng: np.random.Generator, name: str) -> None:
    noise, *rest = split(scan(rng, n_slices=1))
    (whole,) = images([noise, *rest], name, pieces=3, told=headed(3))
    # as far as a scanner may mix them up; one comes twice
    order = sorted(range(len(rest)), key=lambda i: i + 40 * rng.random())
    (found,) = images([noise, *(rest[i] for i in order), rest[7]], name, pieces=3, told=headed(3))
    assert found.readouts == {"used": 30, "twice": 1, "missing": 0, "partial": 0}
    assert error(found.coeff, whole.coeff) < 1e-5  # sums in another order, as in test_stream


@pytest.mark.parametrize("numbers", ["own", "shared", "none"])
def test_what_is_there_of_a_readout_is_used(
    rng: np.random.Generator, name: str, numbers: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Against the operator of the samples that came; the first, an inner and the last piece of a readout are lost."""
    items = scan(rng, n_slices=1, noise=False)
    lost = {(3, 0), (11, 1), (20, 2), (21, 0), (21, 1)}
    parts = split(items, numbers)
    kept = [one for i, one in enumerate(parts) if divmod(i, 3) not in lost]
    (found,) = images(kept, name, headed(3), pieces=3)
    used, partial = 30, 4
    missing = len(lost) if numbers == "own" else 0  # pieces that share a number leave no gap
    assert found.readouts == {"used": used, "twice": 0, "missing": missing, "partial": partial}
    assert "4 have fewer samples than others" in caplog.text
    phi = Basis.load(name).phi
    ksp = np.stack([item.data for item in items], axis=1)
    traj = np.stack([item.traj for item in items])[..., ::-1].astype(float)
    frame = np.array([item.idx.contrast for item in items])
    weights = np.ones((30, 2 * N))
    for number, place in lost:
        weights[number, EDGES[place] : EDGES[place + 1]] = 0
    ksp = ksp * weights
    sens = coils.estimate_sensitivities(ksp, traj, frame=frame, phi=phi, shape=(N, N), weights=weights)
    operator = SubspaceOperator(traj, frame=frame, phi=phi, sens=sens, weights=weights)
    assert error(found.coeff, reconstruct(operator, ksp, lam=0.5, iterations=8)) < 1e-4


def test_what_a_piece_discards_is_missing_in_the_readout(rng: np.random.Generator) -> None:
    (item,) = spokes(rng, 1, N)
    parts = pieces(item, 1)
    for one in parts:
        one.discard_pre, one.discard_post = 1, 2
        one.data[:, 0], one.data[:, -2:], one.traj[0] = np.nan, np.nan, np.nan
        one.center_sample = 7
    parts[2].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    joining = Joining(3)
    assert joining.add(parts[1]) == joining.add(parts[2]) == []
    ((whole, present),) = joining.add(parts[0])
    inside = np.concatenate([np.arange(a + 1, b - 2) for a, b in itertools.pairwise(EDGES)])
    np.testing.assert_array_equal(np.flatnonzero(present), inside)
    np.testing.assert_array_equal(whole.data[:, inside], item.data[:, inside])
    np.testing.assert_array_equal(whole.traj[inside], item.traj[inside])
    assert np.isfinite(whole.data).all()
    assert np.isfinite(whole.traj).all()
    assert whole.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE)
    assert (whole.scan_counter, whole.idx.segment, whole.center_sample, whole.number_of_samples) == (3, 0, 7, 2 * N)
    assert not joining.rest()


def test_an_image_is_complete_with_the_last_piece_of_its_last_readout(rng: np.random.Generator) -> None:
    """Whether all pieces of that readout have the flag or one, and in any order of them."""
    for flagged, order in itertools.product(((0,), (2,), (0, 1, 2)), itertools.permutations(range(3))):
        items = [one for number, item in enumerate(spokes(rng, T, N)) for one in pieces(item, 1 + 3 * number)]
        last = items[-3:]
        for place in flagged:
            last[place].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
        other = [one for item in spokes(rng, T, N, slice=1) for one in pieces(item, 100)]
        for number, one in enumerate(other):
            one.scan_counter = 100 + number
        asked: list[int] = []
        stream = taken([*items[:-3], *(last[i] for i in order), *other], asked)
        arrivals = Arrivals(
            Source(header((N, N, 1), T, slice=1, segment=2)), n_frames=T, roles=Roles(),
            ends=("slice",), n_pieces=3,
        )  # fmt: skip
        first = next(one for one in arrivals.sorted(stream) if one.complete)
        assert len(asked) == 3 * T
        assert first.received == {"used": T, "twice": 0, "missing": 0, "partial": 0}


def test_readouts_that_wait_for_pieces_are_few(rng: np.random.Generator) -> None:
    joining, given = Joining(2), 0
    for item in spokes(rng, 1, N, n_shots=200):
        one, _ = pieces(item, 2 * given, (0, N, 2 * N))
        one.scan_counter, given = 2 * given, given + 1
        over = joining.add(one)
        assert len(over) == (given > 64)
        for whole, present in over:
            assert whole.scan_counter == 2 * (given - 65)
            assert present is None  # of the second piece nobody knows how long it is
    assert len(joining.rest()) == 64


def _fourth(parts: list[Any]) -> None:
    parts[4].idx.segment = 3


def _longer(parts: list[Any]) -> None:
    parts[4] = readout(np.ones((C, 2)), np.ones((2, 2)), scan_counter=5, segment=1)


def _flat(parts: list[Any]) -> None:
    parts[1] = readout(np.ones((C, 11)), np.ones((11, 1)), scan_counter=2, segment=1)


def _number(parts: list[Any]) -> None:
    parts[1].scan_counter, parts[3].scan_counter, parts[5].scan_counter = 2, 7, 7


@pytest.mark.parametrize(
    ("change", "told", "options", "message"),
    [
        (_fourth, 3, {}, r"readout 5 is piece 3 \(counter 'segment'\), expected 0 to 2: .*--pieces"),
        (_longer, 3, {}, "readout 5, piece 1 of one, has 2 samples, others have 11"),
        (_flat, 3, {}, r"pieces of a readout have trajectories of \[1, 2\] dimensions"),
        (_number, 3, {}, "pieces of readouts share the number 7, but not the first two"),
        (lambda _: None, 4, {}, "come in 3 pieces, but the header has segments up to 3: say --pieces 4"),
        (lambda _: None, 3, {"groups": ("segment",)}, "'segment' tells pieces of readouts, it cannot be"),
    ],
)  # fmt: skip
def test_pieces_that_make_no_readout_are_refused(
    rng: np.random.Generator, name: str, change: Any, told: int, options: dict[str, Any], message: str
) -> None:
    parts = split(scan(rng, n_slices=1, noise=False))
    change(parts)
    with pytest.raises(UserError, match=message):
        images(parts, name, headed(told), pieces=3, **options)


def test_a_readout_longer_than_any_is_refused(rng: np.random.Generator) -> None:
    joining = Joining(2)
    one, other = (readout(np.ones((1, 40000)), segment=i, scan_counter=i) for i in range(2))
    joining.add(one)
    with pytest.raises(UserError, match="80000 samples in its pieces, expected at most 65535"):
        joining.add(other)


def cut_short(items: list[Any], numbers: dict[int, int]) -> list[Any]:
    """Return readouts of which those of some numbers have fewer samples."""
    found = list(items)
    for number, n_samples in numbers.items():
        item = items[number]
        made = readout(item.data[:, :n_samples], item.traj[:n_samples], sample_time_us=5.0)
        for name, _ in type(item.idx)._fields_:
            setattr(made.idx, name, getattr(item.idx, name))
        made.scan_counter = item.scan_counter
        found[number] = made
    return found


@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("cut", [False, True])
def test_short_readouts_are_used_as_far_as_they_go(
    rng: np.random.Generator, name: str, first: int, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they come, the first one too, and however the stream is cut."""
    if cut:
        monkeypatch.setattr(arrival, "BLOCK_BYTES", 4 * C * 2 * N * 8)
    items = scan(rng, n_slices=1, noise=False)
    short = {first: 17, 11: 25, 12: 25, 29: 30}
    (found,) = images(cut_short(items, short), name)
    assert found.readouts == {"used": 30, "twice": 0, "missing": 0, "partial": 4}
    for number, n_samples in short.items():
        items[number].data[:, n_samples:] = 0
    weights = np.array([[s < short.get(i, 2 * N) for s in range(2 * N)] for i in range(30)]).astype(float)
    phi = Basis.load(name).phi
    ksp = np.stack([item.data for item in items], axis=1)
    traj = np.stack([item.traj for item in items])[..., ::-1].astype(float)
    frame = np.array([item.idx.contrast for item in items])
    sens = coils.estimate_sensitivities(ksp, traj, frame=frame, phi=phi, shape=(N, N), weights=weights)
    operator = SubspaceOperator(traj, frame=frame, phi=phi, sens=sens, weights=weights)
    assert error(found.coeff, reconstruct(operator, ksp, lam=0.5, iterations=8)) < 1e-4


def test_phases_and_delays_are_found_without_the_samples_that_are_missing(rng: np.random.Generator, name: str) -> None:
    """Delays of spokes of which a third end just beyond the centre; missing samples as zeros would make 0.37 of it."""
    y, x = np.meshgrid(*2 * [(np.arange(N) - N // 2) / N], indexing="ij")
    items = scan(rng, n_slices=1, noise=False)
    traj = np.stack([item.traj for item in items])[..., ::-1].astype(float)
    late = traj + 0.3 * (traj[:, 1:2] - traj[:, :1])
    sens = np.ones((C, N, N)) * np.arange(1, C + 1)[:, None, None]
    operator = SubspaceOperator(late, frame=np.tile(np.arange(T), 5), phi=SIGNAL, sens=sens)
    for item, samples in zip(items, np.moveaxis(operator.forward(np.exp(-9 * (x**2 + y**2))[None]), 1, 0), strict=True):
        item.data[:] = samples
    short = dict.fromkeys(range(1, 30, 3), N + 1)
    for options in ({"gradient_delays": "estimate"}, {"gradient_delays": "estimate", "phase_drift": "steps"}):
        (whole,) = images(items, name, **options)
        (found,) = images(cut_short(items, short), name, **options)
        for axis in "xy":
            assert whole.calibration["gradient_delays"][axis] == pytest.approx(0.3, abs=0.02)
            assert found.calibration["gradient_delays"][axis] == pytest.approx(0.3, abs=0.02)


def test_lines_that_end_early_lie_where_whole_lines_do(rng: np.random.Generator) -> None:
    told = header((N, N, 1), T)
    told.encoding[0].trajectory = xsd.trajectoryType.CARTESIAN
    told.encoding[0].encodedSpace.matrixSize.x = N
    told.encoding[0].encodedSpace.fieldOfView_mm.x = told.encoding[0].reconSpace.fieldOfView_mm.x
    lengths = [N - 3, N, N - 5, N, N, N]
    items = [
        readout(np.ones((2, n)), contrast=i, center_sample=N // 2, kspace_encode_step_1=i, scan_counter=i)
        for i, n in enumerate(lengths)
    ]
    arrivals = Arrivals(Source(told), n_frames=T, roles=Roles())
    ((batch,),) = (one.box for one in arrivals.sorted(items))
    assert isinstance(batch, Group)
    np.testing.assert_allclose(batch.traj[..., 1], np.tile(np.arange(N) - N // 2, (T, 1)), atol=1e-12)
    assert batch.weights is not None
    np.testing.assert_array_equal(batch.weights.sum(axis=1), lengths)


def test_bridges_are_straight() -> None:
    line = np.arange(9.0)[:, None] * [1.0, -2.0] + 3
    for gaps in ([0, 1], [4], [3, 4, 8], [0, 1, 2, 5, 7, 8]):
        present = np.ones(9, bool)
        present[gaps] = False
        holes = np.where(present[:, None], line, 99)
        np.testing.assert_allclose(bridged(holes, present), line, atol=1e-12)
    np.testing.assert_array_equal(bridged(line, np.zeros(9, bool)), line)
