"""The factor by which the NUFFT's own grid is finer: accurate enough, and no multiple of 64 where that can be."""

from __future__ import annotations

import itertools

import finufft
import numpy as np
import pytest

from crbsvd_plugin.fine_grid import size, upsampling

# published with FINUFFT: even numbers without prime factors above 5
SMOOTH = [n for n in range(2, 2000, 2) if 2**10 * 3**10 * 5**10 % n == 0]


def test_a_size_is_the_next_even_number_without_large_primes() -> None:
    for n, factor in itertools.product((16, 17, 75, 241, 256, 384), (1.5, 1.75, 2.0)):
        assert size(n, factor) == next(one for one in SMOOTH if one >= int(factor * n))


@pytest.mark.parametrize("least", [1.5, 1.75, 2.0])
def test_no_axis_is_a_multiple_of_64(least: float) -> None:
    shapes = [(n,) for n in range(16, 700)] + [(512, 512), (320, 300, 240), (192, 256), (160, 256, 320)]
    for modes in shapes:
        factor = upsampling(modes, least)
        assert least <= factor <= 1.2 * least + 1e-12
        assert all(size(n, factor) % 64 for n in modes)


def test_what_is_fast_already_stays() -> None:
    assert upsampling((480,), 1.5) == 1.5  # 720
    assert upsampling((192, 240, 200), 1.5) == 1.5  # 288, 360, 300
    assert size(512, upsampling((512,), 1.5)) == 800  # 768


def test_where_some_are_slow_they_are_the_fewest() -> None:
    modes = tuple(range(300, 364))

    def n_slow(factor: float) -> int:
        return sum(size(n, factor) % 64 == 0 for n in modes)

    assert 0 < n_slow(upsampling(modes, 1.5)) <= min(n_slow(factor) for factor in np.linspace(1.5, 1.8, 500))


@pytest.mark.parametrize("modes", [(48, 64), (15, 128)])
@pytest.mark.parametrize(("dtype", "least", "eps"), [("complex64", 1.5, 1e-5), ("complex128", 2.0, 1e-10)])
def test_transforms_are_right(
    modes: tuple[int, ...], dtype: str, least: float, eps: float, rng: np.random.Generator
) -> None:
    real = np.zeros(0, dtype).real.dtype
    x, y = rng.uniform(-np.pi, np.pi, (2, 50)).astype(real)
    strength = (rng.standard_normal(50) + 1j * rng.standard_normal(50)).astype(dtype)
    plan = finufft.Plan(1, modes, eps=eps, dtype=dtype, upsampfac=upsampling(modes, least))
    plan.setpts(x, y)
    a, b = (np.arange(n) - n // 2 for n in modes)
    waves = np.exp(1j * (a[:, None, None] * x.astype(float) + b[:, None] * y.astype(float)))
    expected = waves @ strength
    # ten times its accuracy, and the rounding of positions times 64 modes
    limit = 10 * eps + 64 * 3 * float(np.finfo(real).eps)
    assert np.linalg.norm(plan.execute(strength) - expected) < limit * np.linalg.norm(expected)
