"""Spokes of a koosh ball: golden means, frames that cover the half sphere evenly, small steps between them."""

from __future__ import annotations

import numpy as np
import pytest

from crbsvd_plugin import koosh


def test_directions_are_those_of_the_golden_means() -> None:
    # printed with four digits by Chan et al. (2009)
    assert pytest.approx((0.4656, 0.6823), abs=5e-5) == koosh.GOLDEN_MEANS
    found = koosh.directions(1000)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=4 * np.finfo(float).eps)
    number = np.arange(1000)
    np.testing.assert_allclose(found[:, 0], (0.46557123 * number) % 1, atol=1e-5)
    turn = np.angle(found[:, 2] + 1j * found[:, 1])[1:]  # of the pole there is none
    np.testing.assert_allclose(np.exp(1j * turn), np.exp(2j * np.pi * 0.68232780 * number[1:]), atol=1e-4)
    # even over the half sphere: of directions u evenly spread, the mean of u u^T is 1/3 of the unit matrix
    np.testing.assert_allclose(found.T @ found / 1000, np.eye(3) / 3, atol=0.01)


@pytest.mark.parametrize(("n_frames", "n_shots"), [(60, 7), (5, 1), (1, 4)])
def test_reshuffling_keeps_the_spokes_of_a_frame_and_makes_steps_small(n_frames: int, n_shots: int) -> None:
    spokes = koosh.directions(n_frames * n_shots)
    found = koosh.reshuffled(spokes, n_frames)
    assert found.shape == (n_shots, n_frames, 3)
    for t in range(n_frames):
        # the same up to the sign: every spoke has its own one
        along = np.abs(found[:, t] @ spokes[t * n_shots : (t + 1) * n_shots].T)
        np.testing.assert_allclose(np.sort(along.max(axis=0)), 1, atol=1e-14)
        assert len(set(along.argmax(axis=1))) == n_shots
    if n_frames > 1 and n_shots > 1:
        steps = (found[:, 1:] * found[:, :-1]).sum(axis=2)
        assert steps.min() >= 0  # none of more than a right angle
        plain = spokes.reshape(n_frames, n_shots, 3)
        assert np.arccos(steps).mean() < 0.5 * np.arccos((plain[1:] * plain[:-1]).sum(axis=2)).mean()


def test_samples_lie_evenly_on_spokes_through_the_centre() -> None:
    traj = koosh.koosh_ball(6, 3, 5)
    assert traj.shape == (3, 6, 10, 3)
    np.testing.assert_array_equal(traj[:, :, 5], 0)
    np.testing.assert_allclose(np.linalg.norm(traj[:, :, 0], axis=-1), 2.5, rtol=1e-14)
    np.testing.assert_allclose(np.diff(traj, axis=2), np.diff(traj, axis=2)[:, :, :1].repeat(9, axis=2), atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(np.diff(traj, axis=2), axis=-1), 0.5, rtol=1e-13)
