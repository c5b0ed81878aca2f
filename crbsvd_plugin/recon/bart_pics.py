r"""Coefficient images by ``bart pics``: the same problem as the native solvers', in its scaling.

.. math:: \min_c \tfrac12 \sum w |A c - y|^2 + \lambda R(c)

What BART 0.8.00 needs for that, each point found by comparison with a dense solution:

* Its axes run the other way round: x, y, z, so X and the columns of the trajectory are reversed.
* It multiplies data and model by the pattern (``-p``), so the pattern is the square root of w.
* ``-w 1`` switches its own scaling of the data off; ``-S``, which undoes that scaling in the
  result, then multiplies by one and is left out.
* Odd matrix sizes are wrong in it by half a cell of its k-space grid (errors near 100 %). An odd
  axis therefore gets one more voxel at its end, where the sensitivities are zero; trajectory and
  scale are adapted, and a phase of the data moves the centre.
* For locally low rank it continues an image that its blocks do not divide periodically, and cuts
  the result, which is no proximal map. Here an axis gets voxels without sensitivity up to a whole
  number of blocks: those stay zero, and the blocks are ours. It multiplies lambda by
  `scaling.llr_width`, so lambda is divided by that. Shifted blocks wrap around in it.
* Samples beyond +-n/2 are dropped by it. As voxels sit on whole numbers, k and k + n are the same
  sample, so the trajectory is wrapped. Within 1.5 cells of the edge of k-space it still loses
  part of its gridding kernel: there, and only there, its operator is a few per cent off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import bart
from ..errors import UserError
from ..threads import count
from .penalty import Regulariser, Shift
from .scaling import llr_width

_KSP, _TRAJ, _PATTERN, _BASIS, _SENS, _COEFF = "ksp", "traj", "pattern", "basis", "sens", "coeff"
_START = "start"


class Encoding(Protocol):
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


def pics_command(
    *,
    lam: float,
    iterations: int,
    regulariser: Regulariser = "l2",
    block: int = 8,
    shift: Shift = "none",
    solver: Literal["cg", "fista", "admm"] = "cg",
    start: bool = False,
) -> list[str]:
    """Return the command line of the reconstruction; its files are named as `pics` writes them.

    Parameters
    ----------
    lam : float
        Weight of the penalty as BART wants it.
    iterations : int
        Largest number of iterations.
    regulariser, block, shift, solver
        As in `reconstruct`; l2 needs cg, the others fista or admm.
    start : bool
        Begin with the images of the file `start`.

    Raises
    ------
    ValueError
        `lam` is negative or not finite, or `iterations` is not positive.
    """
    if not (math.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam is {lam}, expected a number from 0 on")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}, expected at least 1")
    weight = f"{lam:.9g}"
    if regulariser == "l2":
        terms = ["-l2", "-r", weight]
    else:
        term = f"L:7:7:{weight}" if regulariser == "llr" else f"W:7:0:{weight}"
        blocks = ["-b", str(block)] if regulariser == "llr" else []
        # random shifts are its default; -e: the step follows from the largest eigenvalue
        places = {"none": ["-n"], "random": [], "overlap": ["-n", "-N"]}[shift]
        terms = ["-R", term, *blocks, *places, "-m" if solver == "admm" else "-e"]
    first = ["-W", _START] if start else []
    files = ["-t", _TRAJ, "-p", _PATTERN, "-B", _BASIS, _KSP, _SENS, _COEFF]
    return ["bart", "pics", *terms, "-i", str(iterations), "-w", "1", *first, *files]


def pics(
    operator: Encoding,
    ksp: NDArray[Any],
    *,
    lam: float,
    iterations: int,
    regulariser: Regulariser = "l2",
    block: int = 8,
    shift: Shift = "none",
    solver: Literal["cg", "fista", "admm"] = "cg",
    start: NDArray[Any] | None = None,
) -> NDArray[np.complex64]:
    """Compute coefficient images with BART.

    Parameters
    ----------
    operator : SubspaceOperator
        The encoding; of it, only the attributes of `Encoding` are used.
    ksp : complex array (C, R, S)
        K-space data; where weights are zero, any value.
    lam : float
        Weight of the penalty, as in every other backend.
    iterations : int
        Largest number of iterations.
    regulariser, block, shift, solver
        As in `reconstruct`.
    start : array (K, *X), optional
        First images; zero if not given.

    Returns
    -------
    complex64 array (K, *X)
        Coefficients.

    Raises
    ------
    UserError
        BART is missing or failed, cannot do what is asked, or temporary files cannot be written.
    ValueError
        Shapes that do not agree, a frame or a number out of range.
    """
    if regulariser == "l2" and solver != "cg":
        raise UserError(f"solver is {solver}, but bart solves l2 with cg; use that, or the backend native")
    if regulariser == "wavelet" and shift == "overlap":
        raise UserError("shift is overlap, which bart has for llr only; use random or none, or the backend native")
    padded = _padded(tuple(operator.shape), block if regulariser == "llr" else 1)
    if regulariser == "llr":
        lam = lam / llr_width(padded, operator.phi.shape[1], block)
    command = pics_command(
        lam=lam, iterations=iterations, regulariser=regulariser, block=block, shift=shift, solver=solver,
        start=start is not None,
    )  # fmt: skip
    _check(operator, ksp)
    bart.find()  # before gigabytes are written
    inner = tuple(map(slice, operator.shape))
    with bart.temporary_folder() as folder:
        _export(operator, ksp, folder, padded)
        if start is not None:
            whole = np.zeros((len(start), *padded), np.complex64)
            whole[:, *inner] = start
            bart.write_cfl(folder / _START, _columns(whole)[:, :, :, None, None, None])
        bart.run(command[1:], folder=folder, threads=count())
        image = bart.read_cfl(folder / _COEFF)
    return np.ascontiguousarray(image.T.reshape(-1, *padded)[:, *inner])


def _check(operator: Encoding, ksp: NDArray[Any]) -> None:
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


def _padded(shape: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Return the matrix size that BART is given: even, and whole blocks; an axis of one voxel means no axis to it."""
    wholes = (1 if n == 1 else math.lcm(2, block) if n > block else 2 for n in shape)
    return tuple(-(-n // whole) * whole for n, whole in zip(shape, wholes, strict=True))


def _columns(images: NDArray[Any]) -> NDArray[Any]:
    """Return images (N, *X) as (x, y, z, N), axes that are missing of length 1."""
    axes = (*images.shape[:0:-1], 1, 1)[:3]
    return images.reshape(len(images), *axes[::-1]).T


def _export(operator: Encoding, ksp: NDArray[Any], folder: Path, padded: tuple[int, ...]) -> None:
    """Write everything that `pics_command` names, with every frame padded to the largest one."""
    shape = tuple(operator.shape)
    n_coils, _, n_samples = ksp.shape
    n_frames = len(operator.phi)
    order = np.argsort(operator.frame, kind="stable")
    ends = np.cumsum(np.bincount(operator.frame, minlength=n_frames))
    frames = np.split(order, ends[:-1])
    n_spokes = max(map(len, frames))

    # BART divides by the root of the padded number of voxels, we by that of the true one
    sens = np.zeros((n_coils, *padded), dtype=np.complex64)
    sens[:, *map(slice, shape)] = operator.sens * math.sqrt(math.prod(padded) / math.prod(shape))
    bart.write_cfl(folder / _SENS, _columns(sens))
    bart.write_cfl(folder / _BASIS, operator.phi[None, None, None, None, None])

    sampled, plane = (1, n_samples, n_spokes), (n_samples, n_spokes)
    bart.write_cfl_blocks(folder / _KSP, (*sampled, n_coils, 1, n_frames), _ksp(operator, ksp, frames, n_spokes, padded))
    bart.write_cfl_blocks(folder / _PATTERN, (*sampled, 1, 1, n_frames), _pattern(operator, frames, plane))
    bart.write_cfl_blocks(folder / _TRAJ, (3, *plane, 1, 1, n_frames), _traj(operator, frames, plane, padded))


def _ksp(
    operator: Encoding,
    ksp: NDArray[Any],
    frames: list[NDArray[np.intp]],
    n_spokes: int,
    padded: tuple[int, ...],
) -> Iterator[NDArray[np.complex64]]:
    """Yield the data of each frame with the centre moved, zero where nothing was sampled (NaN times zero is NaN)."""
    n_coils, _, n_samples = ksp.shape
    shape = np.array(operator.shape)
    moved = np.array(padded) // 2 - shape // 2
    for rows in frames:
        block = np.zeros((n_coils, n_spokes, n_samples), dtype=np.complex64)
        block[:, : len(rows)] = ksp[:, rows]
        if operator.weights is not None:
            block[:, : len(rows)][:, operator.weights[rows] == 0] = 0
        if moved.any():
            block[:, : len(rows)] *= np.exp(2j * np.pi * (operator.traj[rows] @ (moved / shape)))
        yield block


def _pattern(
    operator: Encoding, frames: list[NDArray[np.intp]], plane: tuple[int, int]
) -> Iterator[NDArray[np.float32]]:
    """Yield the square root of the weights of each frame."""
    for rows in frames:
        block = np.zeros(plane[::-1], dtype=np.float32)
        block[: len(rows)] = 1 if operator.weights is None else np.sqrt(operator.weights[rows])
        yield block


def _traj(
    operator: Encoding, frames: list[NDArray[np.intp]], plane: tuple[int, int], padded: tuple[int, ...]
) -> Iterator[NDArray[np.float64]]:
    """Yield x, y, z of the trajectory of each frame, in cycles per padded field of view."""
    shape = np.array(operator.shape)
    size = np.where(shape > 1, padded, 0)
    for rows in frames:
        turns = operator.traj[rows] / shape
        block = np.zeros((*plane[::-1], 3))
        block[: len(rows), :, : shape.size] = ((turns - np.floor(turns + 0.5)) * size)[..., ::-1]
        yield block
