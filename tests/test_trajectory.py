"""Golden-angle spokes, and the units in which trajectories come."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.trajectory import GOLDEN_ANGLE, UNITS, centre, radial, recentred, to_cycles_per_fov, within

EXACT = 1e-12


def test_golden_angle_in_degrees() -> None:
    assert np.rad2deg(GOLDEN_ANGLE) == pytest.approx(111.24611797498108, rel=1e-15)


@pytest.mark.parametrize("matrix", [8, 9])
def test_spoke_runs_through_the_centre(matrix: int) -> None:
    traj = radial(5, matrix)
    assert traj.shape == (5, 2 * matrix, 2)
    np.testing.assert_array_equal(traj[:, matrix], 0)
    radius = np.hypot(traj[..., 0], traj[..., 1])
    np.testing.assert_allclose(radius, np.tile(np.abs(np.arange(2 * matrix) - matrix) / 2, (5, 1)), atol=EXACT)
    # the first spoke lies along x, towards +x
    np.testing.assert_allclose(traj[0, :, 1], (np.arange(2 * matrix) - matrix) / 2, atol=EXACT)


def test_angle_turns_from_x_to_y() -> None:
    y, x = radial(2, 8)[1, -1]
    assert np.arctan2(y, x) == pytest.approx(np.deg2rad(111.24611797498108), rel=1e-14)


def test_angle_goes_on() -> None:
    all_spokes, later = radial(3 * 1040, 4), radial(1040, 4, first=2080)
    # positions of up to 2; the angle is computed modulo 2 pi from up to 6056 rad: an error of 6056 eps
    np.testing.assert_allclose(later, all_spokes[2080:], atol=2 * 6056 * np.finfo(float).eps)
    ends = all_spokes[:, 0]
    distance = np.linalg.norm(ends[:, None] - ends[None], axis=-1)[np.triu_indices(len(ends), 1)]
    assert distance.min() > 1e-4  # no two spokes are the same


def edges(shape: tuple[int, ...], fov: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Return where the edge of k-space lies: half a turn from one voxel to the next, in every unit."""
    voxel = np.array(fov) / 1e3 / shape
    return {
        "cycles/fov": np.array(fov) / 1e3 / (2 * voxel),
        "cycles/pixel": np.full(len(shape), 0.5),
        "rad/pixel": np.full(len(shape), np.pi),
        "1/m": 1 / (2 * voxel),
        "rad/m": np.pi / voxel,
    }


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize(("shape", "fov"), [((48, 64), (240.0, 200.0)), ((16, 33, 64), (80.0, 200.0, 300.0))])
def test_units(units: str, shape: tuple[int, ...], fov: tuple[float, ...], frozen: Callable[..., np.ndarray]) -> None:
    half = np.array(shape) / 2
    expected = np.random.default_rng(0).uniform(-1, 1, (3, 50, len(shape))) * half
    expected[0, 0] = -half
    given = frozen(expected / half * edges(shape, fov)[units])
    converted = to_cycles_per_fov(given, units=units, shape=shape, fov=fov)
    np.testing.assert_allclose(converted, expected, rtol=EXACT)
    assert converted.flags.writeable


@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("truth", UNITS)
@pytest.mark.parametrize("said", UNITS)
def test_wrong_unit_is_recognised(said: str, truth: str, share: float, caplog: pytest.LogCaptureFixture) -> None:
    shape, fov = (192, 192), (300.0, 300.0)
    traj = radial(30, 192) * share * edges(shape, fov)[truth] / 96
    if said == truth or (said, truth) == ("1/m", "cycles/fov"):
        # cycles/fov as 1/m are what a scan with 0.3 of the resolution would have: possible, but not likely
        to_cycles_per_fov(traj, units=said, shape=shape, fov=fov)
        assert ("--traj-units cycles/fov" in caplog.text) == (said != truth and share == 1)
        return
    with pytest.raises(UserError, match=f"{said}.*looks like {truth}: say --traj-units {truth}$") as caught:
        to_cycles_per_fov(traj, units=said, shape=shape, fov=fov)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("traj", "units", "message"),
    [
        (np.ones((2, 3, 2)), "1/cm", "unit '1/cm' is unknown"),
        (np.ones((2, 3, 3)), "cycles/fov", "3 dimensions, expected 2"),
        (np.full((2, 3, 2), np.nan), "cycles/fov", "12 values that are NaN"),
        (np.zeros((2, 3, 2)), "cycles/fov", "zero everywhere"),
        (np.zeros((0, 3, 2)), "cycles/fov", "zero everywhere"),
        (np.full((2, 3, 2), 1e4), "cycles/fov", "no unit fits"),
        (1.0, "cycles/fov", "0 dimensions"),
    ],
)
def test_bad_trajectory_is_refused(traj: object, units: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_cycles_per_fov(traj, units=units, shape=(192, 192), fov=(240.0, 240.0))


@pytest.mark.parametrize(
    ("matrix", "shape", "warning"),
    [
        (192, (192, 192), None),
        (154, (192, 192), None),  # 80 % of k-space
        (64, (192, 192), "it covers 33 % of an axis"),
        (240, (192, 192), "samples beyond that are left out"),
        (384, (192, 192), "samples beyond that are left out"),
        (96, (192, 384), "it covers 25 % of an axis"),
    ],
)
def test_another_resolution_than_that_of_the_image_is_taken(
    matrix: int, shape: tuple[int, int], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    traj = radial(20, matrix)
    converted = to_cycles_per_fov(traj, units="cycles/fov", shape=shape, fov=(240.0, 240.0))
    np.testing.assert_array_equal(converted, traj)
    assert [warning in record.getMessage() for record in caplog.records] == [True] * (warning is not None)
    assert "--traj-units" not in caplog.text


def test_a_unit_that_would_end_at_the_edge_is_hinted_at(caplog: pytest.LogCaptureFixture) -> None:
    """In a small image rad/pixel could also be a part of k-space in cycles/fov."""
    traj = radial(20, 24) * np.pi / 12
    to_cycles_per_fov(traj, units="cycles/fov", shape=(24, 24), fov=(240.0, 240.0))
    assert "if it is in rad/pixel, say --traj-units rad/pixel" in caplog.text


def test_samples_within_the_edge_of_k_space() -> None:
    traj = np.array([[[4.0, -5.0], [4.2, 0.0], [0.0, 5.2], [-4.0, 5.0]]])
    np.testing.assert_array_equal(within(traj, (8, 10)), [[True, False, False, True]])


@pytest.mark.parametrize("shape", [(64, 64), (20, 64), (13, 9)])
def test_centre_is_the_k_space_of_a_small_image(shape: tuple[int, int], frozen: Callable[..., np.ndarray]) -> None:
    traj = frozen(radial(7, 64))
    small, kept, weights = centre(traj, shape)
    assert small == tuple(min(24, n) for n in shape)
    inside = (np.abs(traj) < np.array(small) / 2).all(axis=2)
    np.testing.assert_array_equal(weights, inside[:, kept])
    assert weights.sum() == inside.sum()
    assert weights[:, 0].any()
    assert weights[:, -1].any()
    given = frozen(np.random.default_rng(0).uniform(0, 2, traj.shape[:2]) * (np.arange(128) % 3 > 0))
    _, kept, weights = centre(traj, shape, weights=given)
    np.testing.assert_array_equal(weights, (given * inside)[:, kept])


def test_centre_of_a_volume_is_smaller_and_must_be_there() -> None:
    traj = np.random.default_rng(0).uniform(-32, 32, (40, 9, 3))
    assert centre(traj, (64, 10, 64))[0] == (16, 10, 16)
    with pytest.raises(UserError, match=r"no sample lies in the centre of k-space \(16 x 16 x 16\)"):
        centre(np.maximum(traj, 8), (64, 64, 64))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("offset", [(3 / 20, -2 / 31), (0.123, 0.456), (1.7, 0.0), (0.1, 0.2, -0.3)])
def test_recentred_data_are_those_of_an_object_seen_from_there(
    frozen: Callable[..., np.ndarray], offset: tuple[float, ...], dtype: type
) -> None:
    """Gaussians, whose transform is known between voxels too: what lies at x lies at x - offset."""
    traj = frozen(np.random.default_rng(0).uniform(-20, 20, (9, 8, len(offset))))

    def data(places: np.ndarray) -> np.ndarray:
        blur = np.exp(-1e-2 * (traj**2).sum(axis=-1))
        return np.stack([blur * np.exp(-2j * np.pi * traj @ place) for place in places]).astype(dtype)

    places = np.random.default_rng(1).uniform(-0.4, 0.4, (2, len(offset)))
    moved = recentred(frozen(data(places)), traj, offset)
    assert moved.dtype == dtype
    np.testing.assert_allclose(moved, data(places - offset), atol=10 * np.finfo(dtype).eps * 40)


def test_whole_voxels_are_counted(rng: np.random.Generator) -> None:
    shape = (9, 12)
    traj, coeff = rng.uniform(-4, 4, (6, 7, 2)), np.zeros((2, *shape), complex)
    coeff[:, 4:6, 5:9] = rng.standard_normal((2, 2, 4)) + 1j * rng.standard_normal((2, 2, 4))
    phi = np.linalg.qr(rng.standard_normal((6, 2)) + 1j * rng.standard_normal((6, 2)))[0]
    operator = SubspaceOperator(
        traj, frame=np.arange(6), phi=phi, sens=np.ones((1, *shape)), dtype=np.complex128
    )  # fmt: skip
    # two voxels down and three to the left, and the object moves the other way
    moved = recentred(operator.forward(coeff), traj, (2 / 9, -3 / 12))
    expected = operator.forward(np.roll(coeff, (-2, 3), axis=(1, 2)))
    assert np.linalg.norm(moved - expected) < 1e-8 * np.linalg.norm(expected)  # the NUFFT has 1e-10
