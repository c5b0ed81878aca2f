"""From MRD readouts to problems: roles of counters, what is left out, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import ismrmrd
import numpy as np
import pytest
from mrd_stream import header, readout, spokes

from crbsvd_plugin.arrival import Arrivals
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.positions import Source
from crbsvd_plugin.readouts import Group, is_imaging
from crbsvd_plugin.roles import Roles
from crbsvd_plugin.trajectory import UNITS, radial

T, N = 5, 8


def sorted_out(
    items: Any, head: Any = None, *, n_frames: int = T, units: str = "cycles/fov", **roles: Any
) -> list[Group]:
    """Return the images of a stream, each with all of its readouts."""
    chosen = Roles.named(roles.get("frame", "contrast"), roles.get("shots"), roles.get("groups"))
    arrivals = Arrivals(Source(head or header((N, N, 1), T), units), n_frames=n_frames, roles=chosen)
    found = list(arrivals.sorted(items))
    assert all(arrival.complete for arrival in found)
    return [group for arrival in found for group in arrival.box]


def test_one_group_is_the_stack_of_its_readouts(rng: np.random.Generator) -> None:
    items = spokes(rng, T, N, n_shots=3)
    (group,) = sorted_out(iter(items))
    np.testing.assert_array_equal(group.ksp, np.stack([item.data for item in items], axis=1))
    assert group.ksp.dtype == np.complex64
    np.testing.assert_allclose(group.traj, radial(3 * T, N), atol=1e-6)  # y, x again, to float32
    np.testing.assert_array_equal(group.frame, np.tile(np.arange(T), 3))
    assert group.key == {"slice": 0, "set": 0, "phase": 0}
    assert group.shape == (N, N)
    assert group.dwell == 5.0


def test_shots_are_summed_and_groups_are_apart(rng: np.random.Generator) -> None:
    items = [
        item
        for number in (1, 0)  # the later slice first
        for item in spokes(rng, T, N, n_shots=2, slice=number, position=(0, 0, 10.0 * number))
    ]
    told = header((N, N, 1), T, slice=1, repetition=1)
    scan = sorted_out(items, told)
    assert [group.key["slice"] for group in scan] == [0, 1]
    assert [group.geometry.position[2] for group in scan] == [0, 10]
    assert [group.ksp.shape[1] for group in scan] == [2 * T, 2 * T]
    apart = sorted_out(items, told, groups=["slice", "repetition"])
    assert [tuple(group.key.values()) for group in apart] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    np.testing.assert_array_equal(apart[3].ksp, scan[1].ksp[:, T:])


def test_another_counter_can_be_the_frame(rng: np.random.Generator) -> None:
    items = spokes(rng, T, N)
    for item in items:
        item.idx.kspace_encode_step_1, item.idx.contrast = item.idx.contrast, 0
    told = header((N, N, 1), 1, kspace_encoding_step_1=T - 1)
    (group,) = sorted_out(items, told, frame="kspace_encode_step_1")
    np.testing.assert_array_equal(group.frame, np.arange(T))


def test_the_order_of_the_readouts_does_not_matter(rng: np.random.Generator) -> None:
    items = spokes(rng, T, N, n_shots=2) + spokes(rng, T, N, slice=1)
    told = header((N, N, 1), T, slice=1)
    straight = sorted_out(items, told)
    shuffled = sorted_out([items[i] for i in rng.permutation(len(items))], told)
    for one, other in zip(straight, shuffled, strict=True):
        # a readout is known by its first sample
        order = [int(np.flatnonzero(other.ksp[0, :, 0] == first)[0]) for first in one.ksp[0, :, 0]]
        np.testing.assert_array_equal(other.ksp[:, order], one.ksp)
        np.testing.assert_array_equal(other.traj[order], one.traj)
        np.testing.assert_array_equal(other.frame[order], one.frame)


def test_readouts_know_when_they_were_recorded(rng: np.random.Generator) -> None:
    """By time stamp; in the order of the scan within a tick, and where there is none, or it goes back at midnight."""
    items = spokes(rng, T, N, n_shots=2)
    count = np.arange(2 * T)
    np.testing.assert_array_equal(sorted_out(items)[0].time, count)
    stamps = 7 + count // 2 + 5 * (count >= T)
    for item, stamp in zip(items, stamps, strict=True):
        item.acquisition_time_stamp = int(stamp)
    (group,) = sorted_out(items)
    np.testing.assert_array_equal(np.floor(group.time), stamps)
    assert (np.diff(group.time) > 0).all()
    order = rng.permutation(2 * T)
    np.testing.assert_array_equal(sorted_out([items[i] for i in order])[0].time, group.time[order])
    items[-1].acquisition_time_stamp = 0
    np.testing.assert_array_equal(sorted_out(items)[0].time, count)


@pytest.mark.parametrize(
    "flag",
    [
        ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_IS_PHASECORR_DATA,
        ismrmrd.ACQ_IS_HPFEEDBACK_DATA, ismrmrd.ACQ_IS_DUMMYSCAN_DATA, ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
        ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA, ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION,
    ],
)  # fmt: skip
def test_readouts_that_are_no_part_of_the_image_are_left_out(rng: np.random.Generator, flag: int) -> None:
    items = spokes(rng, T, N)
    other = readout(np.full((2, 3), np.nan), flag=flag, contrast=99)
    assert not is_imaging(other)
    assert sorted_out([other, *items, other])[0].ksp.shape[1] == T


@pytest.mark.parametrize(
    "flag",
    [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING, ismrmrd.ACQ_LAST_IN_MEASUREMENT, ismrmrd.ACQ_FIRST_IN_SLICE],
)
def test_other_flags_leave_a_readout_in_the_image(rng: np.random.Generator, flag: int) -> None:
    items = spokes(rng, T, N)
    items[2].set_flag(flag)
    assert sorted_out(items)[0].ksp.shape[1] == T


def test_samples_to_discard_are_left_out(rng: np.random.Generator) -> None:
    items = spokes(rng, T, N)
    for item in items:
        item.discard_pre, item.discard_post = 3, 2
        item.data[:, :3], item.data[:, -2:] = np.nan, np.nan
    (group,) = sorted_out(items)
    assert group.ksp.shape == (2, T, 2 * N - 5)
    np.testing.assert_allclose(group.traj, radial(T, N)[:, 3:-2], atol=1e-6)


def test_a_trajectory_that_comes_with_backward_samples_goes_with_them(rng: np.random.Generator) -> None:
    items = spokes(rng, T, N)
    items[2].data[:], items[2].traj[:] = items[2].data[:, ::-1].copy(), items[2].traj[::-1].copy()
    (before,) = sorted_out(items)
    items[2].set_flag(ismrmrd.ACQ_IS_REVERSE)
    (group,) = sorted_out(items)
    np.testing.assert_array_equal(group.ksp, before.ksp)
    np.testing.assert_array_equal(group.traj, before.traj)
    np.testing.assert_allclose(group.traj[2], radial(T, N)[2, ::-1], atol=1e-6)


@pytest.mark.parametrize("units", UNITS)
def test_units_are_those_of_the_header_s_image(rng: np.random.Generator, units: str) -> None:
    shape, voxel = np.array([8, 6, 4]), np.array([2e-3, 2e-3, 5e-3])  # x, y, z; metres, see `header`
    traj = rng.uniform(-0.5, 0.5, (T, 9, 3)) * shape
    scale = {"cycles/fov": 1, "cycles/pixel": 1 / shape, "rad/pixel": 2 * np.pi / shape}
    scale |= {"1/m": 1 / (shape * voxel), "rad/m": 2 * np.pi / (shape * voxel)}
    items = [readout(rng.standard_normal((2, 9)), traj[i] * scale[units], contrast=i) for i in range(T)]
    (group,) = sorted_out(items, header((8, 6, 4), T), units=units)
    np.testing.assert_allclose(group.traj, traj[..., ::-1], atol=1e-6)
    assert group.weights is None


def test_samples_beyond_the_edge_of_k_space_have_no_weight(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    items = spokes(rng, T, N)
    assert sorted_out(items)[0].weights is None
    (group,) = sorted_out(items, header((4, N, 1), T))
    traj = radial(T, N)
    assert group.weights is not None
    np.testing.assert_array_equal(group.weights, np.abs(traj[..., 1]) <= 1.02 * 2)
    np.testing.assert_allclose(group.traj, traj, atol=1e-6)
    assert "samples beyond that are left out" in caplog.text


def test_a_volume_takes_three_columns(rng: np.random.Generator) -> None:
    shape = (8, 6, 4)  # x, y, z
    traj = rng.uniform(-0.5, 0.5, (T, 9, 3)) * shape
    items = [readout(rng.standard_normal((2, 9)), traj[i], contrast=i) for i in range(T)]
    (group,) = sorted_out(items, header(shape, T))
    assert group.shape == (4, 6, 8)
    np.testing.assert_allclose(group.traj, traj[..., ::-1], atol=1e-6)


def test_a_third_column_of_zeros_is_no_dimension(rng: np.random.Generator) -> None:
    items = spokes(rng, T, N)
    three = [readout(i.data, np.pad(i.traj, ((0, 0), (0, 1))), contrast=i.idx.contrast) for i in items]
    np.testing.assert_array_equal(sorted_out(three)[0].traj, sorted_out(items)[0].traj)


def test_missing_last_frames_are_a_warning_where_the_header_is_silent(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    silent = header((N, N, 1), T)
    silent.encoding[0].encodingLimits = None
    with caplog.at_level(logging.WARNING):
        sorted_out(spokes(rng, T - 1, N), silent)
    assert "readouts of 4 frames only, the basis has 5" in caplog.text


def _nan(items: list[Any]) -> list[Any]:
    items[3].data[1, 7], items[3].data[0, 9], items[4].data[0, 0] = np.nan, np.inf, np.nan
    return items


def _step_2(items: list[Any]) -> list[Any]:
    items[1].idx.kspace_encode_step_2 = 3
    return items


def _noise(items: list[Any], *coils: int) -> list[Any]:
    flag = ismrmrd.ACQ_IS_NOISE_MEASUREMENT
    return [*(readout(np.ones((n, 30)), flag=flag) for n in coils), *items]


def _changed(items: list[Any], data: np.ndarray, traj: np.ndarray | None) -> list[Any]:
    return [*items[:-1], readout(data, traj, contrast=T - 1, scan_counter=T - 1)]


def _moved(items: list[Any], change: Any) -> list[Any]:
    return [readout(item.data, change(item.traj), contrast=item.idx.contrast) for item in items]


def _empty(items: list[Any]) -> list[Any]:
    return [*items[:3], readout(np.ones((0, 0)), scan_counter=3), *items[3:]]


def _discard(items: list[Any]) -> list[Any]:
    for item in items:
        item.discard_pre = 2 * N
    return items


SPOKE = np.ones((2, 2 * N))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda items: items, {"n_frames": 7}, r"data have 5 frames \(counter 'contrast'\), the basis has 7.*--frame"),
        (lambda items: items, {"n_frames": 3}, r"raw data have 5 frames \(counter 'contrast'\), the basis has 3"),
        (lambda items: items, {"frame": "repetition"}, r"have 1 frames \(counter 'repetition'\), the basis has 5"),
        (lambda items: items, {"frame": "kspace_encode_step_1"}, r"raw data have 10 frames .*encode_step_1.* has 5"),
        (lambda items: [], {}, r"no imaging readouts \(0 noise readouts\)"),
        (lambda items: _noise([], 2), {}, r"no imaging readouts \(1 noise readouts\)"),
        (_step_2, {"shots": ["repetition"]}, r"'kspace_encode_step_2' takes 2 values .*no role: name it among"),
        (_nan, {}, r"hold 3 non-finite samples, the first in readout 3, coil 0, sample 9: leave"),
        (lambda items: _noise(items, 3), {}, r"readouts have \[2, 3\] coils, noise scan included"),
        (lambda items: _noise(items, 2, 3), {}, r"readouts have \[2, 3\] coils, noise scan included"),
        (lambda items: _changed(items, SPOKE, None), {}, r"readout 4 has no trajectory \(and 1 of 5 readouts\)"),
        (lambda items: _changed(items, np.ones((3, 2 * N)), radial(1, N)[0]), {}, r"readouts have \[2, 3\] coils"),
        (
            lambda items: _changed(items, SPOKE, np.ones((2 * N, 3))), {},
            r"trajectories of one image have \[2, 3\] dimensions",
        ),
        (lambda items: _moved(items, lambda k: k[:, :1]), {}, r"1 dimensions, the image 2"),
        (
            lambda items: _moved(items, lambda k: np.pad(k, ((0, 0), (0, 1)), constant_values=1)), {},
            r"trajectory has 3 dimensions, the image 2 \(8 x 8\): .*never negative: .* say --traj-third density",
        ),
        (lambda items: _moved(items, lambda k: 0 * k), {}, r"zero everywhere"),
        (lambda items: _moved(items, lambda k: k * np.nan), {}, r"NaN or infinite"),
        (lambda items: _moved(items, lambda k: k * 1e4), {}, r"no unit fits"),
        (lambda items: items, {"units": "rad/m"}, r"it looks like cycles/fov: say --traj-units cycles/fov"),
        (_empty, {}, r"readout 3 holds no samples; the file is damaged"),
        (_discard, {}, r"\(2, 0\) coils and samples without those to discard"),
    ],
)  # fmt: skip
def test_what_cannot_be_reconstructed_is_refused_in_one_line(
    rng: np.random.Generator, change: Any, options: dict[str, Any], message: str
) -> None:
    items = change(spokes(rng, T, N))
    with pytest.raises(UserError, match=message) as caught:
        sorted_out(items, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"frame": "echo"}, r"frame: MRD has no counter 'echo', expected one of: kspace_encode_step_1"),
        ({"shots": ("average", "spoke")}, r"shots: MRD has no counter 'spoke'"),
        ({"groups": ("",)}, r"groups: MRD has no counter ''"),
        ({"frame": "repetition"}, r"counter 'repetition' has two roles, frame and shots: give it one"),
        ({"shots": ("slice",)}, r"counter 'slice' has two roles, shots and groups"),
        ({"shots": ("average", "average")}, r"counter 'average' has two roles, shots and shots"),
    ],
)
def test_a_counter_has_one_role(roles: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Roles(**roles)


def test_counters_that_were_not_named_keep_their_role_if_it_is_free() -> None:
    named = Roles.named("repetition", None, ["average"])
    assert named.frame == "repetition"
    assert named.shots == ("segment", "kspace_encode_step_1", "kspace_encode_step_2")
    assert named.groups == ("average",)
    with pytest.raises(UserError, match="'repetition' has two roles"):
        Roles.named("repetition", ["repetition"], None)
    assert Roles.named("contrast", None, None) == Roles()
