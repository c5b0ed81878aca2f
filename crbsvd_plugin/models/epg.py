"""Extended phase graphs: one engine of operators, with tangents, for every sequence.

A sequence is a *schedule*, a list of operators that act on the configuration states of one
tissue. States are written in a frame that is turned by 90 degrees about z,

    g_k = i F_k,   h_k = -i conj(F_-k),   z_k,        k = 0 .. N-1,

in which a pulse with the Cayley-Klein parameters (a, b) acts as

    g' =  conj(a)^2 g  -      b^2 h  + 2 conj(a) b z
    h' = -conj(b)^2 g  +      a^2 h  + 2 a conj(b) z
    z' = -conj(a b) g  -     a b  h  + (|a|^2 - |b|^2) z.

For a hard pulse of angle alpha and phase 0, a = cos(alpha/2) and b = sin(alpha/2) are real: then
all states are real, and the same source is compiled to real arithmetic. The signal is -i g_0,
turned back by the receiver's phase. A gradient that dephases by 2 pi per voxel moves g_k to
g_(k+1) and h_(k+1) to h_k; the new g_0 is conj(h_0) (F+0 is the conjugate of F-0).

Off resonance, g turns by exp(i w0 t) in the time t and h by exp(-i w0 t), as F_k and conj(F_-k) do.
A tangent row holds the derivative of all states with respect to one parameter; pulses, shifts
and relaxation act on it linearly, with a source term where the operator depends on the parameter.

How many states: an order k >= N was transverse for at least N shifts on its way out and as
many on its way back, so leaving it out changes the signal by about exp(-2 N tau / T2), where
tau is the shortest time between shifts. Orders that no pathway has reached yet, or that cannot
come back before the end, are skipped; that is exact.

References
----------
Weigel, J Magn Reson Imaging 41:266 (2015), doi 10.1002/jmri.24619.
Pauly et al., IEEE Trans Med Imaging 10:53 (1991), doi 10.1109/42.75611 (Cayley-Klein parameters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import threads
from ..jit import kernel, prange
from .schedule import INVERT, PREPARE, PULSE, READ, RELAX, SHIFT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..model import Parameter
    from .pulses import PulseTable

T1, T2, B1, W0 = range(4)
COLUMNS = ("T1", "T2", "B1", "w0")
"""Columns of theta that the engine knows, in this order."""


def tangents(parameters: Sequence[Parameter]) -> list[int]:
    """Return the columns of the engine's theta that a model's parameters are."""
    return [COLUMNS.index(parameter.name) for parameter in parameters]


def columns(theta: NDArray[np.float64], parameters: Sequence[Parameter], t1: float = np.inf) -> NDArray[np.float64]:
    """Return the engine's theta (B, 4) of a model's (B, P); what it lacks is `t1`, no decay by T2, B1 = 1, w0 = 0."""
    full = np.tile([t1, np.inf, 1.0, 0.0], (len(theta), 1))
    full[:, tangents(parameters)] = theta
    return full


def n_states(schedule: NDArray[np.float64], t2: NDArray[np.float64], accuracy: float) -> NDArray[np.int64]:
    """Return how many orders each tissue needs, exp(-2 N tau / T2) <= accuracy.

    Parameters
    ----------
    schedule : array (n, 3)
        Operators.
    t2 : array (B,)
        T2 [s].
    accuracy : float
        Wanted error of a signal of M0 = 1; 0 keeps every order that can come back.

    Returns
    -------
    array (B,)
        At most one more than half of the number of shifts: orders above cannot come back.
    """
    codes = schedule[:, 0].astype(int)
    largest = int(np.count_nonzero(codes == SHIFT)) // 2 + 1
    shifts = np.flatnonzero(codes == SHIFT)
    if accuracy <= 0 or len(shifts) < 2:
        return np.full(len(t2), largest)
    elapsed = np.cumsum(np.where(codes == RELAX, schedule[:, 1], 0.0))[shifts]
    tau = np.diff(elapsed).min()
    if tau <= 0:
        return np.full(len(t2), largest)
    wanted = np.ceil(-np.log(accuracy) * t2 / (2 * tau)).astype(np.int64) + 1
    return np.minimum(wanted, largest)


def simulate(
    schedule: NDArray[np.float64],
    pulses: PulseTable,
    theta: NDArray[np.float64],
    *,
    tangents: Sequence[int],
    accuracy: float,
) -> NDArray[Any]:
    """Return signals and tangents of a batch of tissues.

    Parameters
    ----------
    schedule : array (n, 3)
        Operators, see `schedule`.
    pulses : PulseTable
        Rotation of the pulses; the signal is the weighted sum over its positions.
    theta : array (B, 4)
        T1 [s], T2 [s], B1, w0 [rad/s].
    tangents : sequence of D ints
        Columns of theta to differentiate with respect to.
    accuracy : float
        See `n_states`.

    Returns
    -------
    array (B, 1 + D, T)
        Row 0 the signal, the others its derivatives in the order of `tangents`. Times i: real where the states are.
    """
    phases = schedule[np.isin(schedule[:, 0], (PULSE, READ)), 2]
    on_resonance = W0 not in tangents and not theta[:, W0].any()
    real = on_resonance and np.isrealobj(pulses.nodes) and bool(np.all(np.abs(np.sin(phases)) < 1e-15))
    n_frames = int(np.count_nonzero(schedule[:, 0] == READ))
    dtype = np.float64 if real else np.complex128
    turns = np.cos(schedule[:, 2]) if real else np.exp(1j * schedule[:, 2])
    out = np.zeros((len(theta), 1 + len(tangents), n_frames), dtype)
    row_of = np.zeros(theta.shape[1], np.int64)
    row_of[list(tangents)] = np.arange(1, 1 + len(tangents))
    unit = np.zeros(1, dtype)[0] if real else np.complex128(1j)
    states = n_states(schedule, theta[:, T2], accuracy)
    # every thread takes an equal run of `order`: deal tissues out so that each gets as many long ones
    by_length = np.argsort(states, kind="stable")
    order = np.concatenate([by_length[start :: threads.count()] for start in range(threads.count())])
    table = (pulses.nodes.astype(dtype), pulses.step, pulses.weights)
    _run_batch(schedule, turns, *table, theta, row_of, unit, order, states, out)
    return out


@kernel(inline=True, fastmath={"contract"})
def _rotate(g, h, z, a, b):  # type: ignore[no-untyped-def]
    ac, bc = np.conj(a), np.conj(b)
    gg, gh, gz = ac * ac, -b * b, 2 * ac * b
    hg, hh, hz = -bc * bc, a * a, 2 * a * bc
    zg, zh, zz = -ac * bc, -a * b, ac * a - bc * b
    for k in range(len(z)):
        x, y, w = g[k], h[k], z[k]
        g[k] = gg * x + gh * y + gz * w
        h[k] = hg * x + hh * y + hz * w
        z[k] = zg * x + zh * y + zz * w


@kernel(inline=True, fastmath={"contract"})
def _add_turned(dg, dh, dz, g, h, z, a, b, da, db):  # type: ignore[no-untyped-def]
    """Add the derivative of the rotation, applied to the states before it."""
    ac, bc, dac, dbc = np.conj(a), np.conj(b), np.conj(da), np.conj(db)
    gg, gh, gz = 2 * ac * dac, -2 * b * db, 2 * (dac * b + ac * db)
    hg, hh, hz = -2 * bc * dbc, 2 * a * da, 2 * (da * bc + a * dbc)
    zg, zh = -(dac * bc + ac * dbc), -(da * b + a * db)
    zz = dac * a + ac * da - dbc * b - bc * db
    for k in range(len(z)):
        x, y, w = g[k], h[k], z[k]
        dg[k] += gg * x + gh * y + gz * w
        dh[k] += hg * x + hh * y + hz * w
        dz[k] += zg * x + zh * y + zz * w


@kernel(inline=True, fastmath={"contract"})
def _scale(x, factor):  # type: ignore[no-untyped-def]
    for k in range(len(x)):
        x[k] *= factor


@kernel(inline=True, fastmath={"contract"})
def _add_scaled(y, x, factor):  # type: ignore[no-untyped-def]
    for k in range(len(x)):
        y[k] += factor * x[k]


@kernel(inline=True)
def _hermite(nodes, step, angle):  # type: ignore[no-untyped-def]
    """Return a, b and their derivatives; a is even and b odd in the angle."""
    position = abs(angle) / step
    j = min(int(position), nodes.shape[0] - 2)
    u = position - j
    p0, p1 = (1 + 2 * u) * (1 - u) ** 2, u * u * (3 - 2 * u)
    m0, m1 = u * (1 - u) ** 2 * step, u * u * (u - 1) * step
    q1 = 6 * u * (1 - u) / step
    n0, n1 = (1 - u) * (1 - 3 * u), u * (3 * u - 2)
    left, right = nodes[j], nodes[j + 1]
    a = p0 * left[0] + p1 * right[0] + m0 * left[2] + m1 * right[2]
    b = p0 * left[1] + p1 * right[1] + m0 * left[3] + m1 * right[3]
    da = q1 * (right[0] - left[0]) + n0 * left[2] + n1 * right[2]
    db = q1 * (right[1] - left[1]) + n0 * left[3] + n1 * right[3]
    if angle < 0:
        return a, -b, -da, db
    return a, b, da, db


@kernel(inline=True)
def _run(schedule, turns, nodes, step, weight, theta, row_of, unit, g, h, z, out):  # type: ignore[no-untyped-def]
    """Run a schedule for one tissue and position; add the weighted signals to out.

    Orders 0 .. n-1 of g lie at g[:, at_g : at_g + n], those of h at h[:, at_h : at_h + n]:
    a shift only moves the two windows, into memory that is still zero. A tangent's row is `row_of` its column, or 0,
    which is the signal's; `unit` is i, or 0 where all is real.
    """
    t1, t2, b1, w0 = theta[0], theta[1], theta[2], theta[3]
    of_t1, of_t2, of_b1, of_w0 = row_of[0], row_of[1], row_of[2], row_of[3]
    rows, limit = z.shape[0], z.shape[1]
    g[:] = 0
    h[:] = 0
    z[:] = 0
    z[0, 0] = 1
    at_g, at_h = g.shape[1] - limit, 0
    to_come = 0
    for i in range(schedule.shape[0]):
        to_come += int(schedule[i, 0]) == SHIFT
    reached, frame = 1, 0
    for i in range(schedule.shape[0]):
        code, x = int(schedule[i, 0]), schedule[i, 1]
        n = min(reached, to_come + 1)
        if code == PULSE:
            a, b, da, db = _hermite(nodes, step, x * b1)
            b, da, db = b * turns[i], da * x, db * x * turns[i]
            for row in range(rows - 1, -1, -1):
                gr, hr, zr = g[row, at_g : at_g + n], h[row, at_h : at_h + n], z[row, :n]
                _rotate(gr, hr, zr, a, b)
                if row > 0 and row == of_b1:
                    g0, h0 = g[0, at_g : at_g + n], h[0, at_h : at_h + n]
                    _add_turned(gr, hr, zr, g0, h0, z[0, :n], a, b, da, db)
        elif code == RELAX:
            e1, e2, turn = np.exp(-x / t1), np.exp(-x / t2), np.cos(w0 * x) + unit * np.sin(w0 * x)
            eg, eh = e2 * turn, e2 * np.conj(turn)
            for row in range(rows - 1, -1, -1):
                gr, hr, zr = g[row, at_g : at_g + n], h[row, at_h : at_h + n], z[row, :n]
                _scale(gr, eg)
                _scale(hr, eh)
                _scale(zr, e1)
                if row == 0:
                    continue
                g0, h0 = g[0, at_g : at_g + n], h[0, at_h : at_h + n]
                if row == of_t1:
                    _add_scaled(zr, z[0, :n], e1 * x / (t1 * t1))
                    zr[0] -= e1 * x / (t1 * t1)
                elif row == of_t2:
                    _add_scaled(gr, g0, eg * x / (t2 * t2))
                    _add_scaled(hr, h0, eh * x / (t2 * t2))
                elif row == of_w0:
                    _add_scaled(gr, g0, eg * unit * x)
                    _add_scaled(hr, h0, -eh * unit * x)
            z[0, 0] += 1 - e1
        elif code == SHIFT:
            at_g -= 1
            at_h += 1
            to_come -= 1
            reached = min(reached + 1, limit)
            for row in range(rows):
                g[row, at_g] = np.conj(h[row, at_h])
        elif code == READ:
            turn = np.cos(w0 * x) + unit * np.sin(w0 * x)
            back = weight * np.exp(-x / t2) * turn * np.conj(turns[i])
            for row in range(rows):
                out[row, frame] += back * g[row, at_g]
            if of_t2 > 0:
                out[of_t2, frame] += back * x / (t2 * t2) * g[0, at_g]
            if of_w0 > 0:
                out[of_w0, frame] += back * unit * x * g[0, at_g]
            frame += 1
        else:
            for row in range(rows):
                g[row, at_g : at_g + n] = 0
                h[row, at_h : at_h + n] = 0
                if code == INVERT:
                    _scale(z[row, :n], -x)
                elif code == PREPARE:
                    _scale(z[row, :n], np.exp(-x / t2))
            if code == PREPARE and of_t2 > 0:
                _add_scaled(z[of_t2, :n], z[0, :n], x / (t2 * t2))


@kernel(parallel=True)
def _run_batch(schedule, turns, nodes, step, weights, theta, row_of, unit, order, states, out):  # type: ignore[no-untyped-def]
    shifts = np.count_nonzero(schedule[:, 0] == SHIFT)
    rows = out.shape[1]
    for i in prange(len(order)):
        atom = order[i]
        n = states[atom]
        g = np.empty((rows, n + shifts), out.dtype)
        h = np.empty((rows, n + shifts), out.dtype)
        z = np.empty((rows, n), out.dtype)
        for q in range(len(weights)):
            _run(schedule, turns, nodes[q], step, weights[q], theta[atom], row_of, unit, g, h, z, out[atom])
