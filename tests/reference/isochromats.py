"""Bloch simulation of spoiled trains by isochromats: rotations of real 3-vectors, nothing else.

The voxel is a set of J isochromats. The unbalanced gradient at the end of a repetition turns isochromat
j by 2 pi j / J about z, so that the mean over j of exp(2 pi i j k / J) is zero unless J divides k. A train
of N pulses reaches dephasings below N only: with J >= N the sum *is* the integral over the voxel, and with
a dummy repetition before it, whose longitudinal modulations survive the recovery, J >= 2 N does it.

Magnetisation is M = (Mx, My, Mz) with M0 = 1, signals are Mx + i My turned back by the pulse phase. Rotations
follow the right-hand rule: a pulse of angle a and phase 0 takes Mz to -i sin(a). T1, T2 and times are in
seconds, angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TIME_BANDWIDTH = 4.0
"""Of the slice-selective sinc: 4 kHz times 1 ms, hence zero crossings at +-1/4 and +-1/2 of the duration."""


@dataclass(frozen=True)
class Train:
    """A train of T pulses, in the words of the model specification.

    Parameters
    ----------
    flip_angles, phases, tr : array (T,)
        Nominal angle and phase of each pulse [rad], time from each pulse to the next [s].
    te : float
        Time from each pulse to its readout [s].
    ti : float or None
        Time from the inversion to the first pulse [s]; None: no inversion.
    efficiency : float
        The inversion takes Mz to -efficiency Mz, and no transverse magnetisation survives it.
    recovery : float or None
        None: thermal equilibrium before the train. A number: the train is played twice, `recovery` seconds
        apart, transverse magnetisation being spoiled in between, and the second time is recorded. What
        modulation of Mz the first leaves along the voxel survives, as the Bloch equations have it.
    """

    flip_angles: Array
    phases: Array
    tr: Array
    te: float
    ti: float | None
    efficiency: float
    recovery: float | None


def hard_pulses(train: Train, b1: Array) -> Array:
    """Rotation matrices (T, A, 1, 3, 3) of ideal pulses for relative transmit fields b1 (A,).

    Rodrigues' formula R = c I + (1 - c) u u^T + s [u]_x with u = (cos phase, sin phase, 0).
    """
    angle = train.flip_angles[:, None, None, None, None] * b1[None, :, None, None, None]
    axis = np.stack([np.cos(train.phases), np.sin(train.phases), np.zeros_like(train.phases)], axis=-1)
    cross = np.zeros((len(axis), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2] = -axis[:, 2], axis[:, 1]
    cross[:, 1, 0], cross[:, 1, 2] = axis[:, 2], -axis[:, 0]
    cross[:, 2, 0], cross[:, 2, 1] = -axis[:, 1], axis[:, 0]
    outer = axis[:, :, None] * axis[:, None, :]
    c, s = np.cos(angle), np.sin(angle)
    matrices: Array = c * np.eye(3) + (1 - c) * outer[:, None, None] + s * cross[:, None, None]
    return matrices


def sinc_pulse(angle: Array, position: Array, *, n_steps: int = 1000) -> Array:
    """Rotation matrices (*angle.shape, Z, 3, 3) of the slice-selective sinc of phase 0.

    The unapodised sinc of time-bandwidth product 4 is cut into `n_steps` hard pulses about x; between them
    the magnetisation turns about z by the constant gradient, half a step before and half a step after each,
    and the rephaser after the pulse takes back half of the gradient's moment. There is no relaxation meanwhile.

    Parameters
    ----------
    angle : array
        Flip angle on resonance at the middle of the slice, B1 included [rad].
    position : array (Z,)
        Distance from the middle of the slice in slice thicknesses (one thickness = 4 kHz of the gradient).
    """
    time = (np.arange(n_steps) + 0.5) / n_steps - 0.5
    shape = np.sinc(TIME_BANDWIDTH * time)
    part = shape / shape.sum()
    full_moment = 2 * np.pi * TIME_BANDWIDTH * position[:, None]
    half_c, half_s = np.cos(full_moment / n_steps / 2), np.sin(full_moment / n_steps / 2)
    turn_c, turn_s = np.cos(full_moment / n_steps), np.sin(full_moment / n_steps)
    # x, y, z hold the three rows of the product so far, (..., Z, 3 columns)
    x, y, z = (np.broadcast_to(row, (*angle.shape, len(position), 3)) for row in np.eye(3))
    x, y = half_c * x - half_s * y, half_s * x + half_c * y
    for step in range(n_steps):
        if step:
            x, y = turn_c * x - turn_s * y, turn_s * x + turn_c * y
        c, s = (f(part[step] * angle)[..., None, None] for f in (np.cos, np.sin))
        y, z = c * y - s * z, s * y + c * z
    # what is left of the gradient, and the rephaser, are one rotation about z
    rest_c, rest_s = np.cos(full_moment * (0.5 / n_steps - 0.5)), np.sin(full_moment * (0.5 / n_steps - 0.5))
    x, y = rest_c * x - rest_s * y, rest_s * x + rest_c * y
    return np.stack([x, y, z], axis=-2)


def slice_pulses(train: Train, b1: Array, position: Array, *, n_steps: int = 1000) -> Array:
    """Rotation matrices (T, A, Z, 3, 3) of the slice-selective sinc, turned by the pulse phases."""
    matrices = sinc_pulse(train.flip_angles[:, None] * b1, position, n_steps=n_steps)
    turn = np.zeros((len(train.phases), 1, 1, 3, 3))
    turn[:, 0, 0, 0, 0] = turn[:, 0, 0, 1, 1] = np.cos(train.phases)
    turn[:, 0, 0, 1, 0] = np.sin(train.phases)
    turn[:, 0, 0, 0, 1] = -np.sin(train.phases)
    turn[:, 0, 0, 2, 2] = 1
    return turn @ matrices @ turn.swapaxes(-1, -2)


def midpoints(half_width: float, n: int) -> Array:
    """Middles (n,) of n equal cells between -half_width and half_width."""
    return half_width * ((2 * np.arange(n) + 1) / n - 1)


def small_tip_mean(position: Array, *, n_steps: int = 1000) -> float:
    """Mean over the positions of the small-tip profile (1 at the middle of the slice).

    From the same stepwise pulse at 1e-6 rad, where sin(a) = a to 2e-13.
    """
    tip = 1e-6
    matrices = sinc_pulse(np.array(tip), position, n_steps=n_steps)
    profile = matrices[:, 0, 2] + 1j * matrices[:, 1, 2]
    return float(np.real(np.mean(profile) / (-1j * tip)))


def signal(
    train: Train,
    theta: Array,
    *,
    n_isochromats: int | None = None,
    position: Array | None = None,
    n_steps: int = 1000,
) -> Array:
    """Signals (A, T), complex128, of theta (A, 2 or 3) = T1 [s], T2 [s] and optionally relative B1.

    Parameters
    ----------
    n_isochromats : int, optional
        Isochromats J of the spoiler; by default twice the number of pulses and one, which is exact.
    position : array (Z,), optional
        Positions across the slice in thicknesses: the pulses are the slice-selective sinc, the signal is the
        mean over positions divided by the mean of the small-tip profile. Default: ideal pulses.
    """
    n_frames = len(train.flip_angles)
    n_iso = 2 * n_frames + 1 if n_isochromats is None else n_isochromats
    t1, t2 = theta[:, 0, None, None], theta[:, 1, None, None]
    b1 = theta[:, 2] if theta.shape[1] == 3 else np.ones(len(theta))
    if position is None:
        pulses, scale = hard_pulses(train, b1), 1.0
    else:
        pulses, scale = slice_pulses(train, b1, position, n_steps=n_steps), small_tip_mean(position, n_steps=n_steps)
    spoil_c = np.cos(2 * np.pi * np.arange(n_iso) / n_iso)
    spoil_s = np.sin(2 * np.pi * np.arange(n_iso) / n_iso)

    def relax(m: Array, time: float) -> None:
        m[..., :2, :] *= np.exp(-time / t2)[..., None]
        m[..., 2, :] = 1 + (m[..., 2, :] - 1) * np.exp(-time / t1)

    m = np.zeros((len(theta), pulses.shape[2], 3, n_iso))
    m[..., 2, :] = 1
    out = np.empty((len(theta), n_frames), dtype=np.complex128)
    for _repetition in range(1 if train.recovery is None else 2):
        if _repetition:
            m[..., :2, :] = 0
            relax(m, float(train.recovery or 0.0))
        if train.ti is not None:
            m[..., :2, :] = 0
            m[..., 2, :] *= -train.efficiency
            relax(m, train.ti)
        for n in range(n_frames):
            m = pulses[n] @ m
            relax(m, train.te)
            mean = m[..., :2, :].mean(axis=(1, 3))
            out[:, n] = (mean[:, 0] + 1j * mean[:, 1]) * np.exp(-1j * train.phases[n]) / scale
            relax(m, train.tr[n] - train.te)
            x, y = m[..., 0, :].copy(), m[..., 1, :].copy()
            m[..., 0, :] = spoil_c * x - spoil_s * y
            m[..., 1, :] = spoil_s * x + spoil_c * y
    return out


RELATIVE_STEPS = (2e-3, 2e-3, 3e-4)
"""Of `jacobian`, as a share of T1, T2 and B1.

The stencil has the truncation error h^4 f5 / 30 and, the signals being rounded to e, the rounding error 1.5 e / h.
In ln T a relaxing signal is exp(-t / T): its fifth derivative is below 3.2, and where t << T, where the first
derivative is small, it equals that. So 2e-3 truncates at 3e-12 of a derivative of order 1, and e = 1e-14 (hundreds of
roundings of 1e-16) gives a rounding error of 8e-12: 1e-6 is attainable for derivatives down to 1e-5 of the signal.
In B1 a coherence turns by the sum a of the flip angles it meets before it has decayed, f5 / f1 = a^4: with a = 70 rad
3e-4 truncates at (3e-4 * 70)^4 / 30 = 6e-9.
"""


def jacobian(
    train: Train,
    theta: Array,
    *,
    relative_steps: tuple[float, float, float] = RELATIVE_STEPS,
    n_isochromats: int | None = None,
    position: Array | None = None,
) -> Array:
    """Derivatives (A, P, T) of `signal` with respect to the P columns of theta (A, P).

    Central differences of fourth order, (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h.
    """
    n_atoms, n_parameters = theta.shape
    weights = {-2: 1.0, -1: -8.0, 1: 8.0, 2: -1.0}
    out = np.zeros((n_atoms, n_parameters, len(train.flip_angles)), dtype=np.complex128)
    for p in range(n_parameters):
        step = relative_steps[p] * theta[:, p]
        for k, weight in weights.items():
            moved = theta.copy()
            moved[:, p] += k * step
            taken = (moved[:, p] - theta[:, p]) / k  # the step that the rounded parameter really made
            moved_signal = signal(train, moved, n_isochromats=n_isochromats, position=position)
            out[:, p] += weight * moved_signal / (12 * taken[:, None])
    return out
