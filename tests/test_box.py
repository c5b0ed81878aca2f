"""Scaled coordinates of parameters."""

from __future__ import annotations

import numpy as np
import pytest

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.model import Parameter

PARAMETERS = (
    Parameter("T1", "s", 1e-3, 20.0), Parameter("B1", "", 0.1, 2.0), Parameter("w0", "rad/s", -500, 500),
    Parameter("x", "", 0.0, 1.0),
)  # fmt: skip


def box() -> Box:
    return Box(PARAMETERS, np.array([0.1, 0.7, -300, 0.25]), np.array([5.5, 1.3, 200, 0.25]))


def test_coordinates_and_back(rng: np.random.Generator) -> None:
    u = rng.uniform(-1, 1, (20, 4))
    u[:, 3] = 0
    theta = box().theta(u)
    np.testing.assert_allclose(box().unit(theta), u, atol=1e-13)
    # T1 over a factor of 55 in its logarithm, the others as they are
    np.testing.assert_allclose(theta[:, 0], 0.1 * 55 ** ((u[:, 0] + 1) / 2), rtol=1e-13)
    np.testing.assert_allclose(theta[:, 2], -50 + 250 * u[:, 2], rtol=1e-12)
    np.testing.assert_array_equal(box().free, [True, True, True, False])


def test_the_ends_are_exact() -> None:
    np.testing.assert_array_equal(box().theta(np.array([[-1.0, -1, -1, -1], [1, 1, 1, 1]])), [box().low, box().high])


def test_slopes_are_derivatives(rng: np.random.Generator) -> None:
    u, h = rng.uniform(-0.9, 0.9, (20, 4)), 1e-5
    numeric = (box().theta(u + h) - box().theta(u - h)) / (2 * h)
    # h^2/6 of a third derivative (2^3 of theta for T1), and rounding of 300 / h
    np.testing.assert_allclose(box().slope(box().theta(u)), numeric, rtol=1e-8, atol=1e-8)


def test_around_and_narrowed() -> None:
    theta = np.array([[1.0, 1, 0, 0.5], [2.0, 1, 3, 0.5], [0.5, 1, -3, 0.5]])
    found = Box.around(PARAMETERS, theta)
    np.testing.assert_array_equal([found.low, found.high], [[0.5, 1, -3, 0.5], [2, 1, 3, 0.5]])
    narrow = found.narrowed({"T1": (0.6, 1)})
    np.testing.assert_array_equal([narrow.low[0], narrow.high[0]], [0.6, 1])
    np.testing.assert_array_equal(narrow.low[1:], found.low[1:])


@pytest.mark.parametrize("low", [1e-4, np.nan, 30.0])
def test_what_the_model_does_not_know_is_refused(low: float) -> None:
    with pytest.raises(UserError, match=r"bounds of T1 are .* expected a range within that of the model, 0\.001 to 20"):
        Box(PARAMETERS, np.array([low, 1, 0, 0.5]), np.array([5.0, 1, 0, 0.5]))
