"""The bias of least squares to second order that an example shows: against a change of parameter, and against fits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fit_case import complex_normal, emulated, simulated, voxels
from numpy.typing import NDArray

from crbsvd_plugin.fit.nlls import Stopping, minimise

SOURCE = Path(__file__).parent.parent / "examples" / "_second_order.py"
Array = NDArray[Any]


def curvature() -> Any:
    spec = importlib.util.spec_from_file_location("_second_order", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Curvature


TIME = np.linspace(0.1, 2, 11)


def decays(theta: Array) -> tuple[Array, Array]:
    """Decaying oscillations with a phase that depends on the decay: complex, and curved in both parameters."""
    r, w = theta[:, :1], theta[:, 1:]
    signal = np.exp(-r * TIME + 1j * ((w + 0.2 * w**2) * TIME + 0.3 * r**2))
    return signal, np.stack([(-TIME + 0.6j * r) * signal, 1j * (1 + 0.4 * w) * TIME * signal], axis=1)


def squared(theta: Array) -> tuple[Array, Array]:
    """The same by q = r^2, so r = q^(1/2)."""
    r = np.sqrt(theta[:, :1])
    signal, jac = decays(np.concatenate([r, theta[:, 1:]], axis=1))
    return signal, np.stack([jac[:, 0] / (2 * r), jac[:, 1]], axis=1)


def test_another_parameter_adds_its_own_curvature(rng: np.random.Generator) -> None:
    """E[q^] - q = 2 r bias(r) + var(r) for q = r^2, to second order; the other parameter's bias is what it was."""
    phi = np.linalg.qr(complex_normal(rng, 11, 4))[0]
    theta, steps = np.array([0.9, 2.0]), np.array([1e-4, 1e-4])
    at = curvature().at(decays, theta, steps)
    one = at.bias(phi)
    other = curvature().at(squared, np.array([0.81, 2.0]), steps).bias(phi)
    first = at.first @ phi.conj()
    real = np.concatenate([first.real, first.imag], axis=1)
    variance = np.linalg.inv(real @ real.T)[2, 2]
    # steps h are off by h^2 / 6 of a third derivative, at most (2 * 1.8)^2 times the first: 2e-8
    np.testing.assert_allclose(other, [2 * 0.9 * one[0] + variance, one[1]], rtol=1e-6)
    assert abs(variance) > 0.1 * abs(one[0])


def test_fits_are_biased_by_it(rng: np.random.Generator) -> None:
    """Means of 40,000 fits with noise of opposite signs, which takes out what is odd in it.

    Noise-free coefficients are those of the emulator that fits them, which is quick; the derivatives are the model's.
    """
    forward, exact = emulated(), simulated()
    box, n, sigma = forward.box, 20_000, 2e-3
    u = np.zeros((1, 2))
    theta = box.theta(u)[0]
    at = curvature().at(exact.model.signal_and_jacobian, theta, 1e-4 * theta)
    expected = sigma**2 * at.bias(exact.phi)
    clean = voxels(forward, u, np.ones(1), 0.0, rng)
    noise = sigma * complex_normal(rng, n, forward.rank)
    limits = np.array([[-1.0, -1.0], [1.0, 1.0]])
    pairs = [
        box.theta(minimise(clean + sign * noise, forward, np.zeros((n, 2)), limits, stopping=Stopping()).u)
        for sign in (1, -1)
    ]
    means = (pairs[0] + pairs[1]) / 2 - theta
    error = means.std(axis=0) / np.sqrt(n)
    # four standard errors, and for fourth order and the emulator a few percent
    assert np.all(np.abs(means.mean(axis=0) - expected) < 4 * error + 0.05 * np.abs(expected))
    assert np.all(np.abs(expected) > 8 * error)
