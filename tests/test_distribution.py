"""Distributions against scipy.stats, and the evenness of the points that are pushed through them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import qmc

from crbsvd_plugin.distribution import Grid, Normal, Reciprocal, Uniform, even_points, fixed
from crbsvd_plugin.errors import UserError

Array = NDArray[Any]
INSIDE = np.concatenate([[1e-12, 1e-6], np.arange(1, 64) / 64, [1 - 1e-6, 1 - 1e-12]])
ENDS = [2.0**-53, 1 - 2.0**-53]


def test_grids_are_half_open() -> None:
    np.testing.assert_allclose(Grid(1, 3, 4).values, [1, 1.5, 2, 2.5])
    np.testing.assert_allclose(Grid(1, 16, 4, "log").values, [1, 2, 4, 8])
    np.testing.assert_array_equal(Grid(0.7, 0.7, 1).values, [0.7])
    np.testing.assert_array_equal(Grid(0.7, 5, 1, "log").values, [0.7])
    assert fixed(0.7) == Grid(0.7, 0.7, 1)


@given(
    low=st.floats(1e-3, 10),
    ratio=st.floats(1.01, 1e3),
    n=st.integers(2, 50),
    spacing=st.sampled_from(["linear", "log"]),
)
def test_shifted_grids_lie_within_the_steps(low: float, ratio: float, n: int, spacing: Any) -> None:
    grid = Grid(low, low * ratio, n, spacing)
    edges = np.append(grid.values, grid.high)
    points = grid.shifted().values
    share = np.log(points / edges[:-1]) / np.log(edges[1:] / edges[:-1])
    if spacing == "linear":
        share = (points - edges[:-1]) / np.diff(edges)
    # differences of the logarithms of numbers that are 1 % / 50 apart at the least
    np.testing.assert_allclose(share, 0.6180339887498949, atol=1e-10)
    assert Grid(low, low * ratio, 1, spacing).shifted() == Grid(low, low * ratio, 1, spacing)


@pytest.mark.parametrize("grid", [Grid(1, 3, 5), Grid(1, 16, 7, "log"), fixed(-2.5)])
def test_a_grid_gives_value_number_floor_u_n(grid: Grid, frozen: Callable[..., Array]) -> None:
    u = frozen([[0, 0.1, 0.199999], [0.2, 0.5, 0.999999], [1, *ENDS]])
    found = grid.quantile(u)
    expected = [grid.values[min(int(value * grid.n), grid.n - 1)] for value in u.ravel().tolist()]
    np.testing.assert_array_equal(found.ravel(), expected)
    assert found.shape == u.shape


def test_uniform_quantiles(frozen: Callable[..., Array]) -> None:
    u = frozen(INSIDE)
    # one rounding each of a difference, a product and a sum; the power of 250 has log 250 times that of its exponent
    np.testing.assert_allclose(Uniform(-3, 5).quantile(u), scipy.stats.uniform.ppf(u, -3, 8), rtol=0, atol=4e-15)
    found = Uniform(0.02, 5, "log").quantile(u)
    np.testing.assert_allclose(found, scipy.stats.loguniform.ppf(u, 0.02, 5), rtol=1e-14)
    np.testing.assert_allclose(np.median(found), np.sqrt(0.02 * 5), rtol=1e-14)


@pytest.mark.parametrize(
    ("mean", "sd", "low", "high"),
    [
        (0.8, 0.1, -np.inf, np.inf), (0.8, 0.1, 0.5, 1.2), (0.8, 0.1, 0.7, np.inf), (-20.0, 30.0, -np.inf, 100.0),
        (0.0, 1.0, 3.0, 5.0), (0.0, 1.0, 6.5, np.inf), (1.0, 0.1, -np.inf, 0.4), (1.0, 2.0, 0.999, 1.001),
    ],
)  # fmt: skip
def test_normal_quantiles(mean: float, sd: float, low: float, high: float) -> None:
    made = Normal(mean, sd, low, high)
    reference = scipy.stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)
    found = made.quantile(INSIDE)
    # Of a probability of the half that it is computed in, 1e-16 is rounded, 1e-14 of it in scipy's logarithms: in the
    # tails dz = dlog(p) / z or less, and in the middle dz = 2.5 dp
    tolerance = 1e-13 * sd + 1e-15 * abs(mean)
    # scipy's own upper tail is off by up to 1e-7 sd; its lower one is not
    mirrored = scipy.stats.truncnorm((mean - high) / sd, (mean - low) / sd, -mean, sd)
    expected = np.where(INSIDE <= 0.5, reference.ppf(INSIDE), -mirrored.ppf(1 - INSIDE))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    # the inverse, tail by tail; the density turns the error of the value into one of the probability
    np.testing.assert_allclose(reference.cdf(found[:40]), INSIDE[:40], atol=tolerance * reference.pdf(found).max())
    np.testing.assert_allclose(reference.sf(found[-40:]), 1 - INSIDE[-40:], atol=tolerance * reference.pdf(found).max())
    assert np.all(np.diff(found) > 0)
    ends = made.quantile(ENDS)
    assert np.isfinite(ends).all()
    assert low <= ends[0] <= ends[1] <= high


def test_reciprocal_quantiles() -> None:
    """The u-quantile of a rate is one over the (1 - u)-quantile of its time, which scipy's truncated normal has."""
    made = Reciprocal(Normal(3.0, 2.0, 0.5, 9.0))
    time = scipy.stats.truncnorm((0.5 - 3) / 2, (9 - 3) / 2, 3, 2)
    np.testing.assert_allclose(made.quantile(INSIDE), 1 / time.ppf(1 - INSIDE), rtol=1e-9)
    assert (np.diff(made.quantile(INSIDE)) > 0).all()
    assert made.spec == {"kind": "reciprocal-normal", "mean": 3.0, "sd": 2.0, "low": 0.5, "high": 9.0}


def test_the_upper_tail_is_the_mirrored_lower_one() -> None:
    u = np.arange(1, 1024) / 1024  # 1 - u is exact
    for low, high in ((-np.inf, np.inf), (-1.5, 2.0), (4.0, 6.0), (6.9, np.inf)):
        above, below = Normal(0, 1, low, high).quantile(u), Normal(0, 1, -high, -low).quantile(1 - u)
        np.testing.assert_allclose(above, -below, rtol=2e-15, atol=1e-15)


@given(mean=st.floats(-2, 2), sd=st.floats(1e-3, 5), low=st.floats(-3, 3), width=st.floats(1e-3, 5), u=st.floats(0, 1))
def test_no_value_lies_outside_of_the_range(mean: float, sd: float, low: float, width: float, u: float) -> None:
    uniform = Uniform(low, low + width).quantile([0, u, 1])
    assert np.all((low <= uniform) & (uniform <= low + width))
    log = Uniform(width, 3 * width, "log").quantile([0, u, 1])
    assert np.all((width <= log) & (log <= 3 * width))
    if scipy.stats.norm(mean, sd).cdf(low + width) - scipy.stats.norm(mean, sd).cdf(low) > 1e-10:
        normal = Normal(mean, sd, low, low + width).quantile([0, u, 1])
        assert np.all((low <= normal) & (normal <= low + width))


@pytest.mark.parametrize(
    ("made", "reference"),
    [
        (Uniform(-3, 5), scipy.stats.uniform(-3, 8)),
        (Uniform(0.02, 5, "log"), scipy.stats.loguniform(0.02, 5)),
        (Normal(0.8, 0.1, 0.5, 1.0), scipy.stats.truncnorm(-3, 2, 0.8, 0.1)),
        (Normal(-4, 2), scipy.stats.norm(-4, 2)),
    ],
)
def test_moments(made: Uniform | Normal, reference: Any) -> None:
    n = 200_000
    values = made.quantile((np.arange(n) + 0.5) / n)
    # The midpoint rule: exact but for the curvature of the quantile, which for an unbounded normal distribution leaves
    # out what the outermost 1 / 2n hold: less than 30 sd^2 / n
    assert abs(values.mean() - reference.mean()) < 1e-4 * reference.std()
    assert abs(values.std() / reference.std() - 1) < 1e-4
    assert abs(scipy.stats.skew(values) - reference.stats("s")) < 1e-3


def bound(n: int, quotient: int) -> float:
    """Niederreiter's bound of the discrepancy of n multiples of a number with partial quotients up to this one."""
    return (3 + (1 / np.log((1 + 5**0.5) / 2) + quotient / np.log(quotient + 1)) * np.log(n)) / n


@pytest.mark.parametrize("stride", [1, 2, 3, 6, 12, 70])
@pytest.mark.parametrize("n", [1, 7, 20_000])
def test_points_are_even_whatever_is_left_out(n: int, stride: int) -> None:
    points = even_points(n * stride, 4, start=0.2)[::stride]
    assert points.shape == (n, 4)
    assert np.all((points > 0) & (points < 1))
    for column, quotient in zip(points.T, (2, 24, 20, 4), strict=True):
        distance = scipy.stats.kstest(column, "uniform").statistic if n > 1 else 1.0
        # taking every q-th multiplies the largest quotient by no more than q, but for one of them only
        assert distance <= min(1.0, bound(n, quotient * stride))
    if n > 7:
        # random points have 0.87 / sqrt(n) on the average
        assert all(scipy.stats.kstest(column, "uniform").statistic < 0.3 / np.sqrt(n) for column in points.T)


def test_every_pair_of_dimensions_is_filled() -> None:
    points = even_points(4000, 8, start=0.7)
    # the square root of the mean square of n random points
    random = np.sqrt((1 / 4 - 1 / 9) / 4000)
    found = [qmc.discrepancy(points[:, pair], method="L2-star") for pair in combinations(range(8), 2)]
    assert max(found) < 0.5 * random
    assert np.mean(found) < 0.2 * random


def test_points_are_the_same_again_and_can_be_extended() -> None:
    points = even_points(1000, 5, start=0.3)
    np.testing.assert_array_equal(even_points(17, 5, start=0.3), points[:17])
    np.testing.assert_array_equal(even_points(1000, 3, start=0.3), points[:, :3])
    assert not np.isin(even_points(1000, 5, start=0.4), points).any()
    # the formula, at one index
    np.testing.assert_allclose(points[41, 2], (0.3 + 42 * np.sqrt(103)) % 1, rtol=1e-13)
    assert even_points(3, 0).shape == (3, 0)


@pytest.mark.parametrize("made", [Grid(1, 2, 3), fixed(5.0), Uniform(1, 2), Uniform(1, 2, "log"), Normal(0, 1, high=3)])
def test_a_distribution_as_plain_values(made: Any) -> None:
    spec = json.loads(json.dumps(made.spec, allow_nan=False))
    kind, log = spec.pop("kind"), {"spacing": "log"} if made == Uniform(1, 2, "log") else {}
    assert kind == ("log-uniform" if log else type(made).__name__.lower())
    assert type(made)(**{key: value for key, value in spec.items() if value is not None}, **log) == made


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Reciprocal(Normal(3, 2)), "expected low above 0"),
        (lambda: Grid(1, 2, 0), "grid has n = 0, expected at least 1"),
        (lambda: Grid(2, 1, 3), "grid from 2 to 1, expected finite limits, the lower one first"),
        (lambda: Grid(1, np.inf, 3), "grid from 1 to inf"),
        (lambda: Grid(0, 1, 3, "log"), "grid from 0 to 1 with logarithmic spacing, expected positive limits"),
        (lambda: Grid(0, 1, 3, "lin"), "grid has spacing 'lin', expected 'linear' or 'log'"),  # type: ignore[arg-type]
        (lambda: fixed(np.nan), "fixed value is nan, expected a finite number"),
        (lambda: Uniform(1, 1), "uniform distribution from 1 to 1, expected finite limits"),
        (lambda: Uniform(np.nan, 1), "uniform distribution from nan to 1"),
        (lambda: Grid(1e-200, 1e200, 3, "log"), "grid from 1e-200 to 1e.200, expected limits that are less far apart"),
        (lambda: Uniform(-1e308, 1e308), "expected limits that are less far apart"),
        (lambda: Uniform(-1, 1, "log"), "uniform distribution from -1 to 1 with logarithmic spacing"),
        (lambda: Normal(1, 0), "mean 1 and standard deviation 0, expected a finite mean and a finite, positive dev"),
        (lambda: Normal(1, np.inf), "standard deviation inf, expected"),
        (lambda: Normal(np.nan, 1), "mean nan and"),
        (lambda: Normal(1, 1, 3, 2), "from 3 to 2, expected the lower limit first"),
        (lambda: Normal(1, 1, np.nan), "from nan to inf, expected the lower limit first"),
        (lambda: Normal(1, 1, np.inf), "from inf to inf, expected"),
        (lambda: Normal(1, 0.1, 2, 3), "mean 1 and standard deviation 0.1 has next to nothing from 2 to 3; widen the"),
        (lambda: Normal(1, 0.1, high=0.2), "next to nothing from -inf to 0.2"),
        (lambda: even_points(3, 17), "17 parameters vary, expected at most 16"),
    ],
)  # fmt: skip
def test_distributions_that_make_no_sense(make: Callable[[], object], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        make()
    assert "\n" not in str(error.value)
