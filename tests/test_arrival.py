"""Which readouts of a stream are whose, what came twice or too late, what is missing, and when an image is complete."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import ismrmrd
import numpy as np
import pytest
from mrd_stream import header, readout, spokes

from crbsvd_plugin import arrival
from crbsvd_plugin.arrival import Arrival, Arrivals
from crbsvd_plugin.ends import ENDS
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.positions import Source
from crbsvd_plugin.roles import Roles

T, N = 5, 8


def arrivals(*ends: Any, head: Any = None, n_frames: int = T, **roles: Any) -> Arrivals:
    chosen = Roles.named(roles.get("frame", "contrast"), roles.get("shots"), roles.get("groups"))
    told = head or header((N, N, 1), T, slice=3)
    return Arrivals(Source(told), n_frames=n_frames, roles=chosen, ends=ends)


def slices(rng: np.random.Generator, n: int, *, n_shots: int = 3) -> list[Any]:
    """Return slices one after the other, numbered throughout, each with the flag of its last readout."""
    items = [item for i in range(n) for item in spokes(rng, T, N, n_shots=n_shots, slice=i)]
    for number, item in enumerate(items):
        item.scan_counter = 10 + number
        if (number + 1) % (n_shots * T) == 0:
            item.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    items[-1].set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    return items


def taken(items: Iterable[Any], counted: list[int]) -> Iterator[Any]:
    """Yield the items, and append how many have been asked for to a list."""
    for number, item in enumerate(items, 1):
        counted.append(number)
        yield item


def done(found: list[Arrival]) -> list[tuple[int, dict[str, int]]]:
    """Return the slices that are complete, and what is said of them."""
    return [(one.image.key["slice"], one.received) for one in found if one.complete]


def numbers(found: list[Arrival], number: int) -> list[int]:
    """Return the numbers of the readouts of a slice."""
    return [int(n) for one in found if one.image.key["slice"] == number for batch in one.box for n in batch.number]


def told(used: int, *, twice: int = 0, missing: int = 0, partial: int = 0) -> dict[str, int]:
    return {"used": used, "twice": twice, "missing": missing, "partial": partial}


@pytest.mark.parametrize(
    ("ends", "asked_for"),
    [((), [45, 45, 45]), (("slice",), [15, 30, 45]), (("next",), [16, 31, 45]), (("measurement",), [45, 45, 45])],
)
def test_an_image_is_complete_as_soon_as_it_is_said_to_be(
    rng: np.random.Generator, ends: Any, asked_for: list[int]
) -> None:
    """And nothing is asked for before it has been given away."""
    counted: list[int] = []
    found = arrivals(*ends).sorted(taken(slices(rng, 3), counted))
    at = [(one.image.key["slice"], counted[-1], one.received) for one in found if one.complete]
    assert at == [(i, asked_for[i], told(15)) for i in range(3)]


def test_interleaved_images_end_with_their_own_flags(rng: np.random.Generator) -> None:
    one, other = slices(rng, 2)[:15], slices(rng, 2)[15:]
    items = [item for pair in zip(one, other, strict=True) for item in pair]
    for number, item in enumerate(items):
        item.scan_counter = number
    counted: list[int] = []
    found = [(a.image.key["slice"], counted[-1]) for a in arrivals("slice").sorted(taken(items, counted)) if a.complete]
    assert found == [(0, 29), (1, 30)]


def test_the_flag_of_a_group_counter_ends_all_images_with_its_value(rng: np.random.Generator) -> None:
    items = [item for i in range(2) for s in range(2) for item in spokes(rng, T, N, slice=i, set=s)]
    for number, item in enumerate(items):
        item.scan_counter = number
    items[9].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)  # slice 0, set 1
    counted: list[int] = []
    found = [
        ((one.image.key["slice"], one.image.key["set"]), counted[-1])
        for one in arrivals("slice", head=header((N, N, 1), T, slice=1, set=1)).sorted(taken(items, counted))
        if one.complete
    ]
    assert found == [((0, 0), 10), ((0, 1), 10), ((1, 0), 20), ((1, 1), 20)]


def test_readouts_that_are_late_are_waited_for(rng: np.random.Generator) -> None:
    """The last one of slice 0 comes second, another one when slice 1 has begun."""
    items = slices(rng, 2)
    order = [0, 14, *range(1, 7), *range(8, 14), 15, 16, 7, *range(17, 30)]
    counted: list[int] = []
    found = [
        (one.image.key["slice"], counted[-1], one.received)
        for one in arrivals("slice").sorted(taken([items[i] for i in order], counted))
        if one.complete
    ]
    assert found == [(0, 17, told(15)), (1, 30, told(15))]


def test_any_order_gives_every_image_its_readouts(rng: np.random.Generator) -> None:
    """Once the first number is known, of a noise scan for example."""
    first, *items = slices(rng, 3)
    for _ in range(5):
        shuffled = [first, *(items[i] for i in rng.permutation(len(items)))]
        found = list(arrivals("slice", "measurement").sorted(shuffled))
        assert sorted(done(found)) == [(i, told(15)) for i in range(3)]
        for i in range(3):
            assert sorted(numbers(found, i)) == list(range(10 + 15 * i, 25 + 15 * i))


def test_what_is_lost_is_waited_for_as_long_as_gaps_are_filled_and_then_told(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(arrival, "_PATIENCE", 4)
    items = slices(rng, 2)
    kept = [item for i, item in enumerate(items) if i not in (3, 8, 20)]
    counted: list[int] = []
    found = [
        (one.image.key["slice"], counted[-1], one.received)
        for one in arrivals("slice").sorted(taken(kept, counted))
        if one.complete
    ]
    # the flag is the 13th
    assert found == [(0, 13 + 4, told(13, missing=2)), (1, 27, told(14, missing=1))]
    assert "13 readouts; 0 that came twice are left out, 2 between the first and the last are missing" in caplog.text


def test_a_readout_that_comes_twice_counts_once(rng: np.random.Generator, caplog: pytest.LogCaptureFixture) -> None:
    items = slices(rng, 2)
    twice = [*items[:8], items[3], items[7], *items[8:16], items[3], *items[16:]]
    found = list(arrivals("slice").sorted(twice))
    assert done(found) == [(0, told(15, twice=2)), (1, told(15))]
    assert numbers(found, 0) == list(range(10, 25))
    assert "2 that came twice are left out" in caplog.text


def test_readouts_without_numbers_are_told_apart_by_their_samples(rng: np.random.Generator) -> None:
    """The same counters mean another shot where the samples differ; there are no gaps to be known."""
    items = [*spokes(rng, T, N), *spokes(rng, T, N)]
    for item in items:
        item.scan_counter = 0
    found = list(arrivals().sorted([*items, items[2]]))
    assert done(found) == [(0, told(2 * T, twice=1))]


def test_what_comes_after_its_image_is_left_out_and_told(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    items = slices(rng, 1)
    more = spokes(rng, T, N, scan_counter=99)
    found = list(arrivals("measurement").sorted([*items, *more]))
    assert done(found) == [(0, told(15))]
    assert "5 readouts came after their image was complete, and are left out" in caplog.text
    assert done(list(arrivals().sorted([*items, *more]))) == [(0, told(20, missing=74))]


@pytest.mark.parametrize("limit", ["BLOCK_BYTES", "_WAITING"])
def test_batches_are_cut_where_they_are_large_enough(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Four readouts of one image, or of all of them, of which the largest is taken."""
    items = slices(rng, 2)
    monkeypatch.setattr(arrival, limit, 4 * items[0].data.nbytes)
    order = [0, 1, 2, 15, 3, 4, 5, *range(6, 15), *range(16, 30)]
    found = list(arrivals().sorted([items[i] for i in order]))
    sizes = [(one.image.key["slice"], len(batch.frame)) for one in found for batch in one.box]
    assert sizes[0] == ((0, 4) if limit == "BLOCK_BYTES" else (0, 3))
    assert max(n for _, n in sizes) == 4
    for i in range(2):
        assert numbers(found, i) == list(range(10 + 15 * i, 25 + 15 * i))
    monkeypatch.undo()
    whole = list(arrivals().sorted(items))
    for i in range(2):
        (batch,) = next(one.box for one in whole if one.image.key["slice"] == i)
        parts = [part for one in found if one.image.key["slice"] == i for part in one.box]
        np.testing.assert_array_equal(np.concatenate([part.ksp for part in parts], axis=1), batch.ksp)
        np.testing.assert_array_equal(np.concatenate([part.traj for part in parts]), batch.traj)


def test_impatience_cuts_what_is_there(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks with every look at it, once at the beginning and once a readout."""
    ticks = itertools.count()
    monkeypatch.setattr(arrival.time, "monotonic", lambda: float(next(ticks)))
    found = list(arrivals().sorted(slices(rng, 2), patience=5.5))
    urgent = [one for one in found if one.urgent]
    assert [one.image.key["slice"] for one in urgent][:3] == [0, 0, 0]
    assert all(len(batch.frame) <= 6 for one in urgent for batch in one.box)
    assert len(urgent) > 4
    assert numbers(found, 0) + numbers(found, 1) == list(range(10, 40))
    assert not any(one.urgent for one in arrivals().sorted(slices(rng, 2)))


def _more_frames(items: list[Any]) -> None:
    items[4].idx.contrast = T


def _segment(items: list[Any]) -> None:
    items[4].idx.segment = 1


def _nan_noise(items: list[Any]) -> None:
    items[4] = readout(np.full((2, 9), np.nan), flag=ismrmrd.ACQ_IS_NOISE_MEASUREMENT)


def _coils(items: list[Any]) -> None:
    items[4] = readout(np.ones((3, 2 * N)), items[4].traj, scan_counter=14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_more_frames, r"raw data have 6 frames \(counter 'contrast'\), the basis has 5"),
        (_segment, r"counter 'segment' takes 2 values or more .* has no role"),
        (_nan_noise, "noise scan holds 18 non-finite values"),
        (_coils, r"readouts have \[2, 3\] coils, noise scan included"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_comes(rng: np.random.Generator, change: Any, message: str) -> None:
    """Not at the end of the scan."""
    items, counted = slices(rng, 1), []
    change(items)
    silent = header((N, N, 1), T)
    silent.encoding[0].encodingLimits = None
    stream = arrivals(head=silent, shots=["repetition"]).sorted(taken(items, counted))
    with pytest.raises(UserError, match=message):
        list(stream)
    assert counted[-1] == 5


def test_all_flags_for_the_last_readout_are_known(rng: np.random.Generator) -> None:
    for end in ENDS:
        if end == "next":
            continue
        items = slices(rng, 1)
        flag = getattr(ismrmrd, f"ACQ_LAST_IN_{end.upper()}")
        items[-1].clear_all_flags()
        items[-1].set_flag(flag)
        counted: list[int] = []
        found = arrivals(end).sorted(taken([*items, *spokes(rng, T, N, slice=1)], counted))
        first = next(one for one in found if one.complete)
        assert (first.image.key["slice"], counted[-1]) == (0, 15), end


def test_notes_of_images_are_logged_once(rng: np.random.Generator, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list(arrivals("slice").sorted(slices(rng, 2)))
    assert not caplog.records


def unnumbered(items: list[Any], number: int = 0) -> list[Any]:
    for item in items:
        item.scan_counter = number
    return items


@pytest.mark.parametrize("number", [0, 7])
def test_gaps_in_a_stream_without_numbers_are_frames_and_shots_without_a_readout(
    rng: np.random.Generator, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    told_of = header((N, N, 1), T, repetition=2, slice=1)
    items = unnumbered(spokes(rng, T, N, n_shots=3) + spokes(rng, T, N, n_shots=3, slice=1), number)
    assert done(list(arrivals(head=told_of).sorted(items))) == [(i, told(15)) for i in range(2)]
    lost = {2, 7, 8, 17}
    kept = [item for i, item in enumerate(items) if i not in lost]
    found = done(list(arrivals(head=told_of).sorted([*kept, kept[3]])))
    assert found == [(0, told(12, twice=1, missing=3)), (1, told(14, missing=1))]
    assert "12 readouts; 1 that came twice are left out, 3 that frames and shots should have are missing" in caplog.text


def test_what_the_header_does_not_tell_is_not_missed(rng: np.random.Generator) -> None:
    """Without limits there is the length of the basis alone; encoding steps need not go through all frames."""
    silent = header((N, N, 1), T)
    silent.encoding[0].encodingLimits = None
    items = unnumbered(spokes(rng, T, N, n_shots=2))
    assert done(list(arrivals(head=silent).sorted(items[:7]))) == [(0, told(7))]
    assert done(list(arrivals(head=silent).sorted(items[:3]))) == [(0, told(3, missing=2))]
    steps = header((N, N, 1), T, kspace_encoding_step_1=99, segment=3)
    assert done(list(arrivals(head=steps).sorted(items[:T]))) == [(0, told(T))]
    # a repetition that is a group of its own is no shot
    apart = header((N, N, 1), T, repetition=1, slice=1)
    found = list(arrivals(head=apart, groups=["slice", "repetition"]).sorted(items[: T + 2]))
    assert [one.received for one in found if one.complete] == [told(T), told(2, missing=3)]


def test_late_readouts_without_numbers_are_waited_for_too(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "_PATIENCE", 4)
    told_of = header((N, N, 1), T, repetition=2, slice=1)
    one, other = (unnumbered(spokes(rng, T, N, n_shots=3, slice=i)) for i in range(2))
    for items in (one, other):
        items[-1].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    # the flagged one before three others, which come between those of the next slice
    late = [
        *one[:4],
        *one[5:9],
        one[14],
        *one[10:14],
        other[0],
        other[1],
        one[9],
        other[2],
        other[3],
        one[4],
        *other[4:],
    ]
    counted: list[int] = []
    found = [
        (a.image.key["slice"], counted[-1], a.received)
        for a in arrivals("slice", head=told_of).sorted(taken(late, counted))
        if a.complete
    ]
    assert found == [(0, late.index(one[4]) + 1, told(15)), (1, 30, told(15))]
    # lost ones are given up
    lost = [item for item in late if item is not one[4]]
    counted.clear()
    found = [
        (a.image.key["slice"], counted[-1], a.received)
        for a in arrivals("slice", head=told_of).sorted(taken(lost, counted))
        if a.complete
    ]
    assert found == [(0, lost.index(one[9]) + 1 + 4, told(14, missing=1)), (1, 29, told(15))]


@pytest.mark.parametrize("number", [4, 65535])
def test_images_beyond_the_limits_of_the_header_are_refused_when_they_begin(
    rng: np.random.Generator, number: int
) -> None:
    items, counted = slices(rng, 4), []
    items[20].idx.slice = number
    message = rf"readout 30 has slice {number}, the limits in the header are 0 to 3: mend one of them"
    with pytest.raises(UserError, match=message):
        list(arrivals().sorted(taken(items, counted)))
    assert counted[-1] == 21
    silent = header((N, N, 1), T)
    silent.encoding[0].encodingLimits = None
    assert number in [key for key, _ in done(list(arrivals(head=silent).sorted(items)))]
