"""Golden-angle spokes, and the three units in which trajectories come."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from crbsvd_plugin.encoding import SubspaceOperator
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.trajectory import GOLDEN_ANGLE, centre, radial, recentred, to_cycles_per_fov

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


@pytest.mark.parametrize(("units", "edge"), [("cycles/fov", None), ("cycles/pixel", 0.5), ("rad/pixel", np.pi)])
def test_units(units: str, edge: float | None, frozen: Callable[..., np.ndarray]) -> None:
    shape = (48, 64)
    half = np.array(shape) / 2
    expected = np.random.default_rng(0).uniform(-1, 1, (3, 50, 2)) * half
    expected[0, 0] = -half
    given = frozen(expected if edge is None else expected / half * edge)
    converted = to_cycles_per_fov(given, units=units, shape=shape)
    np.testing.assert_allclose(converted, expected, rtol=EXACT)
    assert converted.flags.writeable


@pytest.mark.parametrize("truth", ["cycles/fov", "cycles/pixel", "rad/pixel"])
@pytest.mark.parametrize("said", ["cycles/fov", "cycles/pixel", "rad/pixel"])
def test_wrong_unit_is_recognised(said: str, truth: str) -> None:
    shape = (192, 192)
    size = {"cycles/fov": 1.0, "cycles/pixel": 1 / 192, "rad/pixel": 2 * np.pi / 192}[truth]
    traj = radial(30, 192) * size
    if said == truth:
        to_cycles_per_fov(traj, units=said, shape=shape)
        return
    with pytest.raises(UserError, match=f"{said}.*looks like {truth}") as caught:
        to_cycles_per_fov(traj, units=said, shape=shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("traj", "units", "message"),
    [
        (np.ones((2, 3, 2)), "1/m", "unit '1/m' is unknown"),
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
        to_cycles_per_fov(traj, units=units, shape=(192, 192))


def test_smaller_k_space_than_the_image_is_allowed() -> None:
    traj = radial(20, 64)
    np.testing.assert_array_equal(to_cycles_per_fov(traj, units="cycles/fov", shape=(192, 192)), traj)


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
