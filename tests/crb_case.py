"""Random and simulated signals with derivatives, for the tests of Cramer-Rao bounds."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crbsvd_plugin import models

Array = NDArray[Any]
Fisher = Literal["real", "complex"]
FISHERS: tuple[Fisher, Fisher] = ("real", "complex")
SCALES = (4e4, 2e-3, 1.0)  # of the derivatives of the qMT model


def gaussian(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def random_data(rng: np.random.Generator, n: int = 6, p: int = 3, t: int = 11) -> tuple[Array, Array]:
    return gaussian(rng, n, t), gaussian(rng, n, p, t) * np.resize(SCALES, p)[:, None]


def fisp_data() -> tuple[Array, Array]:
    model = models.build({"name": "mrf-fisp", "flip_angles": np.linspace(0.1, 1.1, 41), "recovery": None, "b1": True})
    theta = np.array([[0.8, 0.05, 1.0], [1.3, 0.1, 0.9], [4.0, 2.0, 1.1], [0.38, 0.1, 1.2]])
    return model.signal_and_jacobian(theta)


def as_real(columns: Array) -> Array:
    """Stack real and imaginary parts of columns (T, n)."""
    return np.concatenate([columns.real, columns.imag])
