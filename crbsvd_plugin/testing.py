"""Checks that our own models and operators pass, for a user's own.

Each raises `AssertionError` with the figures that disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .model import SignalModel

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_model(model: SignalModel, theta: NDArray[Any], *, tolerance: float = 1e-6) -> None:
    """Check shapes, determinism and derivatives of a signal model.

    Derivatives are compared with five-point central differences of the signal, whose step
    h = 1e-3 theta (1e-5 of the parameter's range where theta is 0) has an error of about h^4/30
    times the fifth derivative. A model that adapts its accuracy to theta must be asked for full
    accuracy, or for a larger tolerance: its signal has small steps.

    Parameters
    ----------
    model : SignalModel
        What is checked.
    theta : array (B, P)
        Where; at least 0.2 % away from the ends of the parameters' ranges.
    tolerance : float
        Largest difference, relative to the largest entry of that derivative of that atom.

    Raises
    ------
    AssertionError
        Something disagrees.
    """
    theta = np.array(theta, dtype=np.float64)
    n, p, t = len(theta), len(model.parameters), model.n_frames
    assert theta.shape == (n, p), f"theta has shape {theta.shape}, expected (B, {p})"
    before = theta.copy()
    signal, jac = model.signal_and_jacobian(theta)
    again = model.signal(theta)
    assert np.array_equal(theta, before), "the model changed theta"
    assert signal.shape == (n, t), f"signal has shape {signal.shape}, expected {(n, t)}"
    assert jac.shape == (n, p, t), f"jacobian has shape {jac.shape}, expected {(n, p, t)}"
    assert again.shape == (n, t), f"signal() gives shape {again.shape}, expected {(n, t)}"
    largest = np.abs(signal).max()
    assert np.isfinite(signal).all(), "signal is not finite"
    assert np.isfinite(jac).all(), "jacobian is not finite"
    assert np.abs(again - signal).max() <= 1e-12 * largest, "signal() and signal_and_jacobian() disagree"
    assert np.array_equal(again, model.signal(theta)), "the model is not deterministic"
    for i, parameter in enumerate(model.parameters):
        step = np.where(theta[:, i] == 0, 1e-5 * (parameter.high - parameter.low), 1e-3 * np.abs(theta[:, i]))
        shifted = []
        for factor in (-2, -1, 1, 2):
            moved = theta.copy()
            moved[:, i] += factor * step
            shifted.append(model.signal(moved))
        a, b, c, d = shifted
        numeric = (a - 8 * b + 8 * c - d) / (12 * step[:, None])
        # what rounding of the signal makes of a derivative that is zero
        floor = 1e-13 * largest / step
        size = np.maximum(np.abs(jac[:, i]).max(axis=1), floor / tolerance)
        errors = np.abs(numeric - jac[:, i]).max(axis=1) / size
        worst = errors.argmax()
        assert errors[worst] <= tolerance, (
            f"d/d{parameter.name} is off by {errors[worst]:.2e} of its largest entry, expected {tolerance:.0e}, "
            f"at theta = {theta[worst].tolist()}"
        )


def check_adjoint(
    forward: Callable[[NDArray[Any]], NDArray[Any]],
    adjoint: Callable[[NDArray[Any]], NDArray[Any]],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    weights: NDArray[Any] | float = 1.0,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Check <A x, W y> = <x, A^H W y> for random complex x and y.

    Parameters
    ----------
    forward, adjoint : callable
        x -> A x and y -> A^H W y.
    input_shape, output_shape : tuple of int
        Shapes of x and of A x.
    weights : array or float
        W, if the adjoint is that of a weighted inner product.
    tolerance : float
        Largest difference, relative to ||A x|| ||W y||.
    seed : int
        Of the random numbers.

    Raises
    ------
    AssertionError
        The two numbers differ, or a shape is not as stated.
    """
    x, y = _random(seed, input_shape), _random(seed + 1, output_shape)
    ax, ahy = forward(x), adjoint(y)
    assert ax.shape == output_shape, f"forward gives shape {ax.shape}, expected {output_shape}"
    assert ahy.shape == input_shape, f"adjoint gives shape {ahy.shape}, expected {input_shape}"
    left, right = np.vdot(ax, weights * y), np.vdot(x, ahy)
    size = np.linalg.norm(ax) * np.linalg.norm(weights * y)
    assert abs(left - right) <= tolerance * size, f"<Ax, y> = {left:.8g}, <x, A^H y> = {right:.8g}: not adjoint"


def check_normal(
    forward: Callable[[NDArray[Any]], NDArray[Any]],
    adjoint: Callable[[NDArray[Any]], NDArray[Any]],
    normal: Callable[[NDArray[Any]], NDArray[Any]],
    input_shape: tuple[int, ...],
    *,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> None:
    """Check that `normal` is `adjoint` of `forward`, for a random complex x.

    Parameters
    ----------
    forward, adjoint, normal : callable
        The three operators.
    input_shape : tuple of int
        Shape of x.
    tolerance : float
        Largest relative difference in the 2-norm.
    seed : int
        Of the random numbers.

    Raises
    ------
    AssertionError
        They differ.
    """
    x = _random(seed, input_shape)
    explicit = adjoint(forward(x))
    error = np.linalg.norm(normal(x) - explicit) / np.linalg.norm(explicit)
    assert error <= tolerance, f"normal differs from adjoint(forward) by {error:.2e}, expected at most {tolerance:.0e}"


def _random(seed: int, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
