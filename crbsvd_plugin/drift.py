"""Phases of the shots, found in the data themselves.

While a scan runs for minutes the main field drifts, and breathing or heating add to it. At a given echo time that
turns the phase of whole readouts, which the basis knows nothing of: readout r, recorded at the time t_r, is

    y_r exp(i theta(t_r)),    theta from the phases theta_j of the shots, one passage through the frames each,

either theta_j throughout shot j (steps), or changing linearly from the middle of a shot to that of the next, and on at
the same rate before the first and after the last (linear).

They are those for which the subspace model explains the centre of k-space best:

    minimise over theta and c   sum over coils   1/2 sum w |exp(i theta_r) A c - y|^2,

c the low-resolution coefficient images of one coil. Shots pass through the same frames, so that contrast, coils and an
imperfect basis are the same for all of them and cancel. What is common to all shots is not to be told from the phase of
the images: the phase of the first shot is zero, and a phase that comes back with every shot belongs to the signal.

Images and phases are improved in turn: the images by conjugate gradients, the phases by a Gauss-Newton step. The first
phases are those that images of one shot alone see in the others, however far apart they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .compression import central_coils
from .encoding import SubspaceOperator
from .errors import UserError
from .recon.cg import conjugate_gradients
from .trajectory import recentred

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_array

Kind = Literal["steps", "linear"]
_COILS = 2
_NEAR = 1.0  # cycle per field of view: what all shots must see to be compared
_ITERATIONS = 10
_ROUNDS = 50
_SETTLED = 1e-4  # rad


def shots_of(frame: NDArray[np.intp], time: NDArray[Any]) -> NDArray[np.intp]:
    """Return the number (R,) of the shot of every readout: a shot begins where the frames, in time, fall back.

    Parameters
    ----------
    frame : int array (R,)
        Frames.
    time : array (R,)
        When the readouts were recorded, in any unit; no two at the same time.
    """
    order = np.argsort(time, kind="stable")
    shot = np.zeros(len(frame), np.intp)
    shot[order[1:]] = np.cumsum(np.diff(frame[order]) < 0)
    return shot


def estimate_phases(
    ksp: NDArray[Any],
    traj: NDArray[Any],
    *,
    frame: NDArray[np.intp],
    time: NDArray[Any],
    phi: NDArray[Any],
    shape: tuple[int, ...],
    kind: Kind,
    offset: ArrayLike = 0.0,
    weights: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Return the phases theta_j (shots,) in rad; that of the first shot is 0, others may exceed pi.

    Parameters
    ----------
    ksp, traj, frame, weights
        Readouts, as for `SubspaceOperator`.
    time : array (R,)
        See `shots_of`.
    phi : array (T, K)
        Basis.
    shape : tuple of int
        Image size X.
    kind : {"steps", "linear"}
        How the phase goes on within a shot.
    offset : array (ndim,)
        Where the centre of the image lies in these data, see `trajectory.recentred`.

    Raises
    ------
    UserError
        There is one shot only, a shot does not pass the centre of k-space, or the data tell no phase.

    Notes
    -----
    Linear phases of successive shots must be less than half a turn apart, or the nearest turn is taken; for steps,
    turns do not matter.
    """
    shot = shots_of(frame, time)
    n_shots = int(shot.max()) + 1
    if n_shots < 2:
        raise UserError(
            "phase drift: the readouts pass through the frames once, expected several shots to compare; "
            "do without (--phase-drift off)"
        )
    small, kept, present, samples = central_coils(ksp, traj, n_coils=_COILS, shape=shape, weights=weights)
    samples = recentred(np.where(present > 0, samples, 0), traj[:, kept], np.broadcast_to(offset, len(shape)))
    near = np.where(present > 0, np.linalg.norm(traj[:, kept], axis=2), np.inf).min(axis=1) < _NEAR
    seen = np.bincount(shot, near * (np.abs(samples) ** 2 * present).sum(axis=(0, 2)))
    if not seen.all():
        raise UserError(
            f"phase drift: shot {seen.argmin()} of {n_shots} has no signal at the centre of k-space, expected readouts "
            "through it in every shot; do without (--phase-drift off)"
        )

    def operator(weights: NDArray[Any]) -> SubspaceOperator:
        sens = np.ones((1, *small), np.complex64)
        return SubspaceOperator(traj[:, kept], frame=frame, phi=phi, sens=sens, weights=weights)

    alone = operator(present * (shot == seen.argmax())[:, None])
    whole = operator(present)
    images = [_images(alone, coil, None) for coil in samples]
    overlap, _ = _overlap(whole, images, samples)
    phases = np.unwrap(np.angle(np.bincount(shot, overlap.real) + 1j * np.bincount(shot, overlap.imag)))
    mixing = _mixing(shot, time, kind)
    for _ in range(_ROUNDS):
        turned = samples * np.exp(-1j * (mixing @ phases))[:, None].astype(samples.dtype)
        images = [_images(whole, coil, start) for coil, start in zip(turned, images, strict=True)]
        overlap, energy = _overlap(whole, images, turned)
        curvature = (mixing.T @ mixing.multiply(energy[:, None])).toarray()
        change = np.linalg.solve(curvature, mixing.T @ overlap.imag)
        change -= change[0]
        phases = phases + change
        if np.abs(change).max() < _SETTLED:
            return phases - phases[0]
    raise UserError(
        f"phase drift: the phases of {n_shots} shots are not to be found: they still change by "
        f"{np.abs(change).max():.2g} rad, expected less than {_SETTLED:g}; do without (--phase-drift off)"
    )


def readout_phases(
    phases: NDArray[Any], *, frame: NDArray[np.intp], time: NDArray[Any], kind: Kind
) -> NDArray[np.float64]:
    """Return the phase (R,) of every readout [rad] from those of the shots, see `estimate_phases`."""
    return np.asarray(_mixing(shots_of(frame, time), time, kind) @ phases)


def _mixing(shot: NDArray[np.intp], time: NDArray[Any], kind: Kind) -> csr_array:
    """Return the matrix (R, shots) from phases of shots to those of readouts."""
    from scipy.sparse import csr_array

    n_readouts, n_shots = len(shot), int(shot.max()) + 1
    rows = np.arange(n_readouts)
    if kind == "steps":
        return csr_array((np.ones(n_readouts), (rows, shot)), shape=(n_readouts, n_shots))
    middle = np.bincount(shot, time) / np.bincount(shot)
    left = np.clip(np.searchsorted(middle, time, side="right") - 1, 0, n_shots - 2)
    share = (time - middle[left]) / (middle[left + 1] - middle[left])
    values, columns = np.concatenate([1 - share, share]), np.concatenate([left, left + 1])
    return csr_array((values, (np.tile(rows, 2), columns)), shape=(n_readouts, n_shots))


def _images(operator: SubspaceOperator, samples: NDArray[Any], start: NDArray[Any] | None) -> NDArray[Any]:
    """Return the coefficient images (K, *X) of one coil (R, S)."""
    target = operator.adjoint(samples[None])
    return conjugate_gradients(operator.normal, target, lam=0.0, iterations=_ITERATIONS, start=start)


def _overlap(
    operator: SubspaceOperator, images: list[NDArray[Any]], samples: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return sum w conj(A c) y and sum w |A c|^2 over samples and coils, for every readout (R,)."""
    overlap, energy = np.zeros(samples.shape[1], np.complex128), np.zeros(samples.shape[1])
    for image, coil in zip(images, samples, strict=True):
        model = operator.forward(image)[0]
        overlap += np.einsum("rs,rs,rs->r", operator.weights, model.conj(), coil)
        energy += np.einsum("rs,rs->r", operator.weights, np.abs(model) ** 2)
    return overlap, energy
