"""Is a signal model right? Shapes, numbers, determinism, units, and derivatives against differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from . import derivatives
from .model import Parameter, SignalModel
from .prior import Prior

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-4
"""Largest error of a derivative, relative to the largest entry of that derivative of that atom."""

_SAME = 1e-10
_NOT_SI = {"ms": "s", "us": "s", "min": "s", "deg": "rad", "Hz": "rad/s or 1/s", "kHz": "rad/s or 1/s", "1/ms": "1/s"}
_NOT_SI |= {"%": "a share, with no unit", "mT": "T", "uT": "T", "mm": "m"}


@dataclass(frozen=True)
class Findings:
    """What a check has found.

    Parameters
    ----------
    problems : list of str
        What is wrong, a line each.
    errors : dict of str to float
        Of every parameter the largest error of its derivative, relative to the derivative's largest entry.
    """

    problems: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)


def examine(model: SignalModel, theta: NDArray[np.float64]) -> Findings:
    """Check a model at theta (B, P), which is inside of the ranges of its parameters.

    Derivatives are compared with differences of five points with the best of several steps. A model that adapts its
    accuracy to theta must be asked for full accuracy, see `models.smooth`.
    """
    found = Findings(units(model.parameters))
    (b, p), t = theta.shape, model.n_frames
    given = theta.copy()
    signal, jac = (np.asarray(array) for array in model.signal_and_jacobian(given))
    again = np.asarray(model.signal(given))
    for what, array, shape in (
        ("signal_and_jacobian gives signals", signal, (b, t)),
        ("signal_and_jacobian gives derivatives", jac, (b, p, t)),
        ("signal gives signals", again, (b, t)),
    ):
        if array.shape != shape:
            found.problems.append(f"{what} of shape {array.shape}, expected {shape}")
        elif not np.isfinite(array).all():
            where = theta[np.argwhere(~np.isfinite(array))[0, 0]].tolist()
            found.problems.append(f"{what} that are not finite, first at theta = {where}")
    if not np.array_equal(given, theta):
        found.problems.append("it changes theta in place, expected to leave it as it is")
    if found.problems:
        return found
    _compare_signals(model, theta, signal, again, found)
    if not found.problems:
        _compare_derivatives(model, theta, jac, found)
    return found


def units(parameters: Sequence[Parameter]) -> list[str]:
    """Return what is wrong with the units of parameters."""
    return [f"{p.name} is in {p.unit!r}, expected SI units: {_NOT_SI[p.unit]}" for p in parameters if p.unit in _NOT_SI]


def inside(prior: Prior, parameters: Sequence[Parameter], n: int) -> NDArray[np.float64]:
    """Return about n fingerprints (B, P) of a prior, moved 1 % of the range away from the ends of the ranges."""
    theta = np.concatenate([part.theta for part in prior.thinned(n, parameters).atoms(parameters)])
    low, high = (np.array([getattr(p, end) for p in parameters]) for end in ("low", "high"))
    margin = 0.01 * np.minimum(high - low, np.maximum(np.abs(low), 1e-3 * (high - low)))
    return np.clip(theta, low + margin, high - margin)


def _compare_signals(
    model: SignalModel, theta: NDArray[Any], signal: NDArray[Any], again: NDArray[Any], found: Findings
) -> None:
    size = float(np.abs(signal).max())
    if not size:
        found.problems.append("all signals are zero")
    if not np.array_equal(again, model.signal(theta)):
        found.problems.append("it gives another signal when it is called again: expected the same for the same theta")
        return
    for what, other in (
        ("signal and signal_and_jacobian", signal),
        ("the signals of a batch and of one atom", np.concatenate([model.signal(row[None]) for row in theta])),
    ):
        if (off := float(np.abs(other - again).max())) > _SAME * size:
            found.problems.append(f"{what} differ by {off / size:.1e} of the largest signal, expected the same")


def _compare_derivatives(model: SignalModel, theta: NDArray[Any], jac: NDArray[Any], found: Findings) -> None:
    numeric = derivatives.differences(model.signal, theta, model.parameters)
    # a derivative next to none is compared on the scale on which the parameter changes the signal at all
    scale = np.abs(model.signal(theta)).max(axis=1)[:, None] / [max(abs(q.low), abs(q.high)) for q in model.parameters]
    size = np.maximum(np.abs(numeric).max(axis=2), 1e-6 * scale)
    errors = np.abs(jac - numeric).max(axis=2) / size
    for i, parameter in enumerate(model.parameters):
        worst = int(errors[:, i].argmax())
        found.errors[parameter.name] = float(errors[worst, i])
        if errors[worst, i] > TOLERANCE:
            true, stated = numeric[worst, i], jac[worst, i]
            ratio = np.vdot(true, stated).real / max(np.vdot(true, true).real, np.finfo(float).tiny)
            found.problems.append(
                f"d/d{parameter.name} is off by {errors[worst, i]:.2g} of its largest entry (it is about "
                f"{ratio:.4g} times what differences give), expected {TOLERANCE:g}, at theta = {theta[worst].tolist()}"
            )
