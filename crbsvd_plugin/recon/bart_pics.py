r"""Coefficient images by ``bart pics``: the same problem as the native solver's, in its scaling.

.. math:: \min_c \tfrac12 \sum w |A c - y|^2 + \tfrac\lambda2 \|c\|^2

What BART 0.8.00 needs for that, each point found by comparison with a dense solution:

* Its axes run the other way round: x, y, z, so X and the columns of the trajectory are reversed.
* It multiplies data and model by the pattern (``-p``), so the pattern is the square root of w.
* ``-w 1`` switches its own scaling of the data off; ``-S``, which undoes that scaling in the
  result, then multiplies by one and is left out.
* Odd matrix sizes are wrong in it by half a cell of its k-space grid (errors near 100 %). An odd
  axis therefore gets one more voxel at its front, where the sensitivities are zero; the centre
  stays where it was, and trajectory and scale are adapted.
* Samples beyond +-n/2 are dropped by it. As voxels sit on whole numbers, k and k + n are the same
  sample, so the trajectory is wrapped. Within 1.5 cells of the edge of k-space it still loses
  part of its gridding kernel: there, and only there, its operator is a few per cent off.
* Cartesian k-space (X Y Z COIL 1 T 1) needs no padding, and its pattern is w itself: it is applied once to the
  data and once in the normal operator. To bring the centre c = n//2 to index 0, both images and
  k-space are multiplied by D_j = exp(2 pi i (j - c/2) c/n), where k-space needs the conjugate: they
  differ for odd n, and by a sign for odd n/2. So k-space is given to it times conj(D)^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .. import bart
from ..cartesian import CartesianOperator
from ..errors import UserError
from ..threads import count

if TYPE_CHECKING:
    from . import Encoding

_KSP, _TRAJ, _PATTERN, _BASIS, _SENS, _COEFF = "ksp", "traj", "pattern", "basis", "sens", "coeff"


@runtime_checkable
class Readouts(Protocol):
    """What is needed of a `SubspaceOperator`; its documentation holds the meaning."""

    @property
    def traj(self) -> NDArray[Any]:
        """Trajectory (R, S, ndim), cycles per field of view, in the order of X."""

    @property
    def frame(self) -> NDArray[Any]:
        """Frame (R,) of each readout, in [0, T)."""

    @property
    def weights(self) -> NDArray[Any] | None:
        """Weights (R, S), zero where a sample is missing; None: all one."""

    @property
    def phi(self) -> NDArray[Any]:
        """Basis (T, K)."""

    @property
    def sens(self) -> NDArray[Any]:
        """Coil sensitivities (C, *X)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Matrix size X."""


def pics_command(*, lam: float, iterations: int, cartesian: bool = False) -> list[str]:
    """Return the command line of the reconstruction; its files are named as `pics` writes them.

    Parameters
    ----------
    lam : float
        Tikhonov weight lambda.
    iterations : int
        Iterations of conjugate gradients.
    cartesian : bool
        K-space lies on a grid: there is no trajectory.

    Raises
    ------
    ValueError
        `lam` is negative or not finite, or `iterations` is not positive.
    """
    if not (math.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam is {lam}, expected a number from 0 on")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}, expected at least 1")
    solver = ["bart", "pics", "-l2", "-r", f"{lam:.9g}", "-i", str(iterations), "-w", "1"]
    trajectory = [] if cartesian else ["-t", _TRAJ]
    return [*solver, *trajectory, "-p", _PATTERN, "-B", _BASIS, _KSP, _SENS, _COEFF]


def pics(operator: Encoding, ksp: NDArray[Any], *, lam: float, iterations: int) -> NDArray[np.complex64]:
    """Compute coefficient images with BART's conjugate gradients.

    Parameters
    ----------
    operator : SubspaceOperator or CartesianOperator
        The encoding; of the former, only the attributes of `Readouts` are used.
    ksp : complex array (C, R, S), Cartesian (C, T, *X)
        K-space data; where weights are zero, any value.
    lam : float
        Tikhonov weight lambda, as in every other backend.
    iterations : int
        Iterations of conjugate gradients, from zero.

    Returns
    -------
    complex64 array (K, *X)
        Coefficients.

    Raises
    ------
    UserError
        BART is missing or failed, temporary files cannot be written, or the operator is of another kind.
    ValueError
        Shapes that do not agree, a frame or a number out of range.
    """
    cartesian = isinstance(operator, CartesianOperator)
    command = pics_command(lam=lam, iterations=iterations, cartesian=cartesian)
    if isinstance(operator, CartesianOperator):
        _check_grid(operator, ksp)
        shape = padded = operator.shape
        export = partial(_export_grid, operator, ksp)
    elif isinstance(operator, Readouts):
        _check(operator, ksp)
        shape, padded = tuple(operator.shape), _even(operator.shape)
        export = partial(_export, operator, ksp)
    else:
        raise UserError(
            f"bart has no form for the operator {type(operator).__name__}, expected readouts or a grid; "
            "take the backend native or sigpy"
        )
    bart.find()  # before gigabytes are written
    with bart.temporary_folder() as folder:
        export(folder)
        bart.run(command[1:], folder=folder, threads=count())
        image = bart.read_cfl(folder / _COEFF)
    coeff = image.T.reshape(-1, *padded)
    inner = tuple(slice(big - small, None) for big, small in zip(padded, shape, strict=True))
    return np.ascontiguousarray(coeff[:, *inner])


def _check(operator: Readouts, ksp: NDArray[Any]) -> None:
    """Refuse what BART would answer with an assertion, or not notice."""
    shape, n_coils = tuple(operator.shape), len(operator.sens)
    for name, array, n_axes in (("traj", operator.traj, 3), ("phi", operator.phi, 2)):
        if array.ndim != n_axes:
            raise ValueError(f"{name} has the shape {array.shape}, expected {n_axes} axes")
    n_readouts, n_samples = operator.traj.shape[:2]
    expected: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "traj": (operator.traj.shape, (n_readouts, n_samples, len(shape))),
        "frame": (operator.frame.shape, (n_readouts,)),
        "sens": (operator.sens.shape, (n_coils, *shape)),
        "ksp": (ksp.shape, (n_coils, n_readouts, n_samples)),
    }
    if operator.weights is not None:
        expected["weights"] = (operator.weights.shape, (n_readouts, n_samples))
    for name, (given, wanted) in expected.items():
        if given != wanted:
            raise ValueError(f"{name} has the shape {given}, expected {wanted}")
    if ksp.size == 0:
        raise ValueError(f"ksp has the shape {ksp.shape}: there are no data")
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"the matrix {shape} has {len(shape)} axes, expected 1 to 3")
    low, high, n_frames = int(operator.frame.min()), int(operator.frame.max()), len(operator.phi)
    if low < 0 or high >= n_frames:
        raise ValueError(f"frame runs from {low} to {high}, but phi has {n_frames} frames")
    if operator.weights is not None and not operator.weights.min() >= 0:
        raise ValueError(f"weights go down to {operator.weights.min()}, expected 0 or more")


def _check_grid(operator: CartesianOperator, ksp: NDArray[Any]) -> None:
    """Refuse k-space of another shape; all else was checked when the operator was made."""
    if ksp.shape != operator.ksp_shape:
        raise ValueError(f"ksp has the shape {ksp.shape}, expected {operator.ksp_shape}")
    if ksp.size == 0:
        raise ValueError(f"ksp has the shape {ksp.shape}: there are no data")


def _even(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the matrix size that BART is given; an axis of one voxel means no axis to it."""
    return tuple(n if n == 1 else n + n % 2 for n in shape)


def _export(operator: Readouts, ksp: NDArray[Any], folder: Path) -> None:
    """Write everything that `pics_command` names, with every frame padded to the largest one."""
    shape, padded = tuple(operator.shape), _even(operator.shape)
    n_coils, _, n_samples = ksp.shape
    n_frames = len(operator.phi)
    order = np.argsort(operator.frame, kind="stable")
    ends = np.cumsum(np.bincount(operator.frame, minlength=n_frames))
    frames = np.split(order, ends[:-1])
    n_spokes = max(map(len, frames))

    # BART divides by the root of the padded number of voxels, we by that of the true one
    sens = np.zeros((n_coils, *padded), dtype=np.complex64)
    inner = tuple(slice(big - small, None) for big, small in zip(padded, shape, strict=True))
    sens[:, *inner] = operator.sens * math.sqrt(math.prod(padded) / math.prod(shape))
    _export_model(sens, operator.phi, folder)
    sampled, plane = (1, n_samples, n_spokes), (n_samples, n_spokes)
    bart.write_cfl_blocks(folder / _KSP, (*sampled, n_coils, 1, n_frames), _ksp(operator, ksp, frames, n_spokes))
    bart.write_cfl_blocks(folder / _PATTERN, (*sampled, 1, 1, n_frames), _pattern(operator, frames, plane))
    bart.write_cfl_blocks(folder / _TRAJ, (3, *plane, 1, 1, n_frames), _traj(operator, frames, plane))


def _export_grid(operator: CartesianOperator, ksp: NDArray[Any], folder: Path) -> None:
    """Write everything that `pics_command` names for a grid, frame by frame."""
    _export_model(operator.sens, operator.phi, folder)
    grid, (n_coils, n_frames) = _axes(operator.shape), ksp.shape[:2]
    phase = _centring(operator.shape)
    samples = (np.where(weights > 0, ksp[:, t], 0) * phase for t, weights in enumerate(operator.weights))
    bart.write_cfl_blocks(folder / _KSP, (*grid, n_coils, 1, n_frames), samples)
    bart.write_cfl_blocks(folder / _PATTERN, (*grid, 1, 1, n_frames), operator.weights)


def _export_model(sens: NDArray[Any], phi: NDArray[Any], folder: Path) -> None:
    """Write sensitivities (C, *X) and basis (T, K)."""
    bart.write_cfl(folder / _SENS, sens.reshape(len(sens), *_axes(sens.shape[1:])[::-1]).T)
    bart.write_cfl(folder / _BASIS, phi[None, None, None, None, None])


def _centring(shape: tuple[int, ...]) -> NDArray[Any]:
    """Return conj(D)^2 on a grid: what BART multiplies k-space by, and what it should have."""
    phase: NDArray[Any] = np.ones((), complex)
    for n in shape:
        centre = n // 2
        turns = (np.arange(n) - centre / 2) * (centre / n)
        phase = np.multiply.outer(phase, np.exp(-4j * np.pi * turns))
    return phase


def _axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the three sizes x, y, z of an image X."""
    return (*shape[::-1], 1, 1, 1)[:3]


def _ksp(
    operator: Readouts, ksp: NDArray[Any], frames: list[NDArray[np.intp]], n_spokes: int
) -> Iterator[NDArray[np.complex64]]:
    """Yield the data of each frame, zero where nothing was sampled (NaN times zero is NaN)."""
    n_coils, _, n_samples = ksp.shape
    for rows in frames:
        block = np.zeros((n_coils, n_spokes, n_samples), dtype=np.complex64)
        block[:, : len(rows)] = ksp[:, rows]
        if operator.weights is not None:
            block[:, : len(rows)][:, operator.weights[rows] == 0] = 0
        yield block


def _pattern(
    operator: Readouts, frames: list[NDArray[np.intp]], plane: tuple[int, int]
) -> Iterator[NDArray[np.float32]]:
    """Yield the square root of the weights of each frame."""
    for rows in frames:
        block = np.zeros(plane[::-1], dtype=np.float32)
        block[: len(rows)] = 1 if operator.weights is None else np.sqrt(operator.weights[rows])
        yield block


def _traj(operator: Readouts, frames: list[NDArray[np.intp]], plane: tuple[int, int]) -> Iterator[NDArray[np.float64]]:
    """Yield x, y, z of the trajectory of each frame, in cycles per padded field of view."""
    shape = np.array(operator.shape)
    padded = np.where(shape > 1, _even(tuple(operator.shape)), 0)
    for rows in frames:
        turns = operator.traj[rows] / shape
        block = np.zeros((*plane[::-1], 3))
        block[: len(rows), :, : shape.size] = ((turns - np.floor(turns + 0.5)) * padded)[..., ::-1]
        yield block
