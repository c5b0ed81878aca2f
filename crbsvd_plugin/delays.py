"""Gradient delays of radial trajectories, found in the data themselves.

A delay that differs between the gradients moves every readout as a whole. One whose samples were
meant to lie s steps u apart lies at

    k(s) = s u + S u,    S symmetric, in samples

where u is the step from sample to sample: S_xx and S_yy are the delays of the gradients along x
and y in sampling intervals, S_xy their coupling in an oblique slice (Rosenzweig
et al., doi 10.1002/mrm.27506). Positive: the samples lie further along the readout than the
trajectory says.

S is that for which the subspace model explains the centre of k-space best:

    minimise over S and c   sum over coils   1/2 sum w |A(S) c - y|^2,

c the low-resolution coefficient images of one coil. The basis is part of the model, so that a
contrast which changes from readout to readout, as in fingerprinting, is no source of error; one
coil is enough, and three dimensions are like two. All coils tell the same, so the two virtual ones
that hold most energy are asked. It begins with the centres of energy of the
readouts, and goes on by Gauss-Newton steps in S with c eliminated (variable projection, Kaufman,
doi 10.1007/BF01932995).
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from .compression import central_coils
from .encoding import SubspaceOperator
from .errors import UserError
from .recon.cg import conjugate_gradients
from .trajectory import recentred

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_STRAIGHT = 0.01  # samples; single precision leaves 1e-4 of the positions of 1000
_COILS = 2
_ROUNDS = 10
_SETTLED = 1e-3  # samples
_ITERATIONS = 10


def estimate_delays(
    ksp: NDArray[Any],
    traj: NDArray[Any],
    *,
    frame: NDArray[np.intp],
    phi: NDArray[Any],
    shape: tuple[int, ...],
    fov: tuple[float, ...] | None = None,
    offset: ArrayLike = 0.0,
    weights: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Return the tensor S (ndim, ndim) of the gradient delays, in samples.

    Parameters
    ----------
    ksp, traj, frame, weights
        Radial readouts, as for `SubspaceOperator`.
    phi : array (T, K)
        Basis; a few columns are enough.
    shape : tuple of int
        Image size X.
    fov : tuple of float, optional
        Field of view along X in any unit; the same along all axes if not given.
    offset : array (ndim,)
        Where the centre of the image lies in these data, see `trajectory.recentred`.

    Returns
    -------
    float64 array
        In the order of X, so that S[-1, -1] is the delay along x.

    Raises
    ------
    UserError
        The readouts are not radial, point in too few directions, or tell no delay.
    """
    steps = _steps(traj)
    small, kept, present, samples = central_coils(ksp, traj, n_coils=_COILS, shape=shape, weights=weights)
    positions = traj[:, kept]
    units, offset = _units(len(shape)), np.broadcast_to(offset, len(shape))
    # how the readouts (R, ndim) move for a unit of every parameter
    moves = [_moves(steps, unit, fov) for unit in units]
    parameters = _from_energy(samples, positions, present, steps, moves)
    for _ in range(_ROUNDS):
        moved = positions + np.tensordot(parameters, moves, axes=1)[:, None]
        sens = np.ones((1, *small), np.complex64)
        operator = SubspaceOperator(moved, frame=frame, phi=phi, sens=sens, weights=present)
        change = _gauss_newton(operator, recentred(samples, moved, offset), moves, offset)
        parameters = parameters + change
        if np.abs(change).max() < _SETTLED:
            return np.asarray(np.tensordot(parameters, units, axes=1))
        if not np.abs(parameters).max() < ksp.shape[2]:
            break
    raise UserError(
        f"gradient delays are not to be found: they still change by {np.abs(change).max():.2g} samples, expected less "
        f"than {_SETTLED:g}; do without (--gradient-delays off)"
    )


def corrected(traj: NDArray[Any], tensor: NDArray[Any], *, fov: tuple[float, ...] | None = None) -> NDArray[np.float64]:
    """Return a radial trajectory (R, S, ndim) with gradient delays: every readout moved by S u.

    Parameters
    ----------
    traj : array (R, S, ndim)
        Positions without delays.
    tensor : array (ndim, ndim)
        S [samples], in the order of X.
    fov : tuple of float, optional
        Field of view along X in any unit; the same along all axes if not given.

    Raises
    ------
    UserError
        The readouts are not radial.
    """
    return np.asarray(traj + _moves(_steps(traj), tensor, fov)[:, None])


def named(tensor: NDArray[Any]) -> dict[str, float]:
    """Return the delays by name: x, y, xy, and in 3-D also z, xz, yz."""
    axes = "xyz"[: len(tensor)]
    turned = tensor[::-1, ::-1]
    found = {name: float(turned[i, i]) for i, name in enumerate(axes)}
    return found | {axes[i] + axes[j]: float(turned[i, j]) for i, j in combinations(range(len(axes)), 2)}


def _steps(traj: NDArray[Any]) -> NDArray[np.float64]:
    """Return the step u (R, ndim) from sample to sample of radial readouts."""
    n_samples = traj.shape[1]
    steps = np.asarray(traj[:, -1] - traj[:, 0], np.float64) / max(n_samples - 1, 1)
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    if n_samples < 2 or not length.all():
        raise UserError("gradient delays: a readout stays where it is, expected radial readouts; do without them")
    straight = traj[:, :1] + np.arange(n_samples)[:, None] * steps[:, None]
    bend = np.linalg.norm(traj - straight, axis=2).max(axis=1)
    # the sample of a readout next to the centre, which need not be a whole number
    nearest = np.clip(-(traj[:, 0] * steps).sum(axis=1, keepdims=True) / length**2, 0, n_samples - 1)
    miss = np.linalg.norm(traj[:, 0] + nearest * steps, axis=1)
    error = np.maximum(bend, miss) / length[:, 0]
    if error.max() > _STRAIGHT:
        raise UserError(
            f"gradient delays: readout {error.argmax()} is no straight line of equal steps through the centre of "
            f"k-space (off by {error.max():.2g} samples), expected radial readouts; do without them"
        )
    return steps


def _units(n_axes: int) -> NDArray[np.float64]:
    """Return the unit tensors (P, ndim, ndim) of the entries of a symmetric one."""
    rows, columns = np.triu_indices(n_axes)
    units = np.zeros((len(rows), n_axes, n_axes))
    units[range(len(rows)), rows, columns] = units[range(len(rows)), columns, rows] = 1
    return units


def _moves(steps: NDArray[Any], tensor: NDArray[Any], fov: tuple[float, ...] | None) -> NDArray[np.float64]:
    """Return S u (R, ndim) in cycles per field of view; S acts on u in cycles per length."""
    size = np.ones(steps.shape[1]) if fov is None else np.asarray(fov, dtype=np.float64)
    return np.asarray((steps / size) @ np.asarray(tensor).T * size)


def _from_energy(
    ksp: NDArray[Any],
    traj: NDArray[Any],
    weights: NDArray[Any],
    steps: NDArray[Any],
    moves: list[NDArray[Any]],
) -> NDArray[np.float64]:
    """Return the parameters from the centres of energy of the readouts: right to a tenth of a sample.

    The energy of a readout is greatest where it passes the peak of k-space, whatever the contrast.
    A phase across the image moves that peak, by the same vector for all readouts; it is fitted too.
    """
    square = (steps**2).sum(axis=1)
    along = np.einsum("rsd,rd->rs", traj, steps) / square[:, None]
    energy = (np.abs(np.where(weights > 0, ksp, 0)) ** 2).sum(axis=0)
    total = energy.sum(axis=1)
    found = np.divide((energy * along).sum(axis=1), total, out=np.zeros_like(total), where=total > 0)
    columns = [(move * steps).sum(axis=1) / square for move in moves] + list(-steps.T / square)
    matrix = np.sqrt(total)[:, None] * np.stack(columns, axis=1)
    rank = np.linalg.matrix_rank(matrix)
    if rank < matrix.shape[1]:
        raise UserError(
            f"gradient delays: the readouts point in too few directions (they tell {rank} of {matrix.shape[1]} "
            "numbers), expected spokes all around; do without them"
        )
    return np.asarray(np.linalg.lstsq(matrix, -np.sqrt(total) * found)[0][: len(moves)])


def _gauss_newton(
    operator: SubspaceOperator, ksp: NDArray[Any], moves: list[NDArray[Any]], offset: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the change of the parameters that explains best what the coil images cannot."""
    # where a move turns no phase: the centre of the image before it was recentred
    axes = ((np.arange(n) - n // 2) / n + shift for n, shift in zip(operator.shape, offset, strict=True))
    places = np.meshgrid(*axes, indexing="ij")
    normal = np.zeros((len(moves), len(moves)))
    right = np.zeros(len(moves))

    def explained(samples: NDArray[Any]) -> NDArray[Any]:
        target = operator.adjoint(samples)
        return conjugate_gradients(operator.normal, target, lam=0.0, iterations=_ITERATIONS)

    for samples in ksp:
        coeff = explained(samples[None])
        # missing samples may hold anything
        rest = np.where(operator.weights > 0, samples - operator.forward(coeff)[0], 0)
        slopes = [operator.forward(-2j * np.pi * place * coeff)[0] for place in places]
        columns = []
        for move in moves:
            column = np.einsum("rd,drs->rs", move, slopes)
            columns.append(column - operator.forward(explained(column[None]))[0])
        jacobian = np.stack(columns).reshape(len(moves), -1)
        weighted = (jacobian * operator.weights.ravel()).conj()
        normal += (weighted @ jacobian.T).real
        right += (weighted @ rest.ravel()).real
    return np.asarray(np.linalg.solve(normal, right))
