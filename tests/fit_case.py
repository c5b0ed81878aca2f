"""A short sequence with a complex basis, for the tests of least-squares fits."""

from __future__ import annotations

from functools import cache

import numpy as np

from crbsvd_plugin import models
from crbsvd_plugin.dictionary import Dictionary
from crbsvd_plugin.fit.box import Box
from crbsvd_plugin.fit.emulator import Emulator, emulate
from crbsvd_plugin.fit.forward import CompressedModel, Simulated
from crbsvd_plugin.fit.result import Maps

LOW, HIGH = (0.3, 0.02, 0.8), (3.0, 0.3, 1.2)


@cache
def simulated(*, b1: bool = False, rank: int = 5) -> Simulated:
    """MRF-FISP with quadratic RF phases, so that signals are complex, in the span of its largest singular vectors."""
    n = 60
    at = np.arange(n)
    model = models.build({
        "name": "mrf-fisp", "flip_angles": np.deg2rad(10 + 50 * np.abs(np.sin(at * np.pi / 25))),
        "phases": np.deg2rad(3) * at**2, "tr": 0.02, "b1": b1, "recovery": None, "accuracy": 0.0,
    })  # fmt: skip
    p = len(model.parameters)
    box = Box(model.parameters, np.array(LOW[:p]), np.array(HIGH[:p]))
    rng = np.random.default_rng(3)
    signals = model.signal(box.theta(rng.uniform(-1, 1, (400, p))))
    vectors = np.linalg.svd(signals.T, full_matrices=False)[0][:, :rank]
    # any unitary mixture is as good a basis, and none of its columns is real
    mixture = np.linalg.qr(rng.standard_normal((rank, rank)) + 1j * rng.standard_normal((rank, rank)))[0]
    return Simulated(model, vectors @ mixture, box)


@cache
def emulated(*, b1: bool = False, rank: int = 5) -> Emulator:
    return emulate(simulated(b1=b1, rank=rank), tolerances=[1e-5])


def gridded(n: int) -> Dictionary:
    """Return a dictionary of n x n atoms of the short sequence, in a complex basis."""
    forward = emulated()
    even = np.linspace(-1, 1, n)
    theta = forward.box.theta(np.stack(np.meshgrid(even, even, indexing="ij"), axis=-1).reshape(-1, 2))
    coeff, _ = forward.value_and_jacobian(theta)
    norm = np.linalg.norm(coeff, axis=1)
    unit = (coeff / norm[:, None]).astype(np.complex64)
    return Dictionary(forward.box.parameters, theta, unit, norm.astype(np.float32), norm < 0, "digest")


def starts(forward: CompressedModel, u: np.ndarray) -> Maps:
    """Return starts for all voxels, at coordinates u (*X, P)."""
    theta = np.moveaxis(forward.box.theta(u), -1, 0).astype(np.float32)
    empty = np.zeros(u.shape[:-1], bool)
    return Maps(forward.box.parameters, theta, empty.astype(np.complex64), empty, ~empty)


def voxels(
    forward: CompressedModel, u: np.ndarray, m0: np.ndarray, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Return noisy coefficients (B, K) of coordinates u (B, P); sigma is per real component."""
    clean = m0[:, None] * forward.value_and_jacobian(forward.box.theta(u))[0]
    return clean + sigma * complex_normal(rng, *clean.shape)


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def phases(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.exp(2j * np.pi * rng.random(n))
