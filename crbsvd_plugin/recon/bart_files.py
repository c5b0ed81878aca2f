"""The files of ``bart pics``: data, trajectory, pattern, basis, coils and images; see `bart_pics` for the why."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .. import bart, files
from ..errors import UserError

FORMAT = "crbsvd-bart-files/1"
KSP, TRAJ, PATTERN, BASIS, SENS = "ksp", "traj", "pattern", "basis", "sens"
COEFF, START, PSF = "coeff", "start", "psf"


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


def check(operator: Readouts, ksp: NDArray[Any]) -> None:
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
    for name, array in (("traj", operator.traj), ("phi", operator.phi), ("sens", operator.sens)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
    check_finite(ksp, operator.weights)


def check_finite(ksp: NDArray[Any], weights: NDArray[Any] | None) -> None:
    """Refuse k-space (C, ...) with values that are not finite, but where the weights (...) are 0."""
    missing = np.zeros((), bool) if weights is None else weights == 0
    if not all((np.isfinite(coil) | missing).all() for coil in ksp):
        raise UserError("k-space holds values that are not finite; leave these samples out, or give them weight 0")


def columns(images: NDArray[Any]) -> NDArray[Any]:
    """Return images (N, *X) as (x, y, z, N), axes that are missing of length 1."""
    axes = (*images.shape[:0:-1], 1, 1)[:3]
    return images.reshape(len(images), *axes[::-1]).T


def export(
    operator: Readouts, ksp: NDArray[Any], folder: Path, padded: tuple[int, ...], inner: tuple[slice, ...]
) -> None:
    """Write everything that `pics_command` names, with every frame padded to the largest one."""
    shape = tuple(operator.shape)
    n_coils, _, n_samples = ksp.shape
    n_frames = len(operator.phi)
    order = np.argsort(operator.frame, kind="stable")
    ends = np.cumsum(np.bincount(operator.frame, minlength=n_frames))
    frames = np.split(order, ends[:-1])
    n_spokes = max(map(len, frames))
    moved = [big // 2 - n // 2 - at.start for big, n, at in zip(padded, shape, inner, strict=True)]

    # BART divides by the root of the padded number of voxels, we by that of the true one
    sens = np.zeros((n_coils, *padded), dtype=np.complex64)
    sens[:, *inner] = operator.sens * math.sqrt(math.prod(padded) / math.prod(shape))
    bart.write_cfl(folder / SENS, columns(sens))
    bart.write_cfl(folder / BASIS, operator.phi[None, None, None, None, None])

    sampled, plane = (1, n_samples, n_spokes), (n_samples, n_spokes)
    bart.write_cfl_blocks(folder / KSP, (*sampled, n_coils, 1, n_frames), _ksp(operator, ksp, frames, n_spokes, moved))
    bart.write_cfl_blocks(folder / PATTERN, (*sampled, 1, 1, n_frames), _pattern(operator, frames, plane))
    bart.write_cfl_blocks(folder / TRAJ, (3, *plane, 1, 1, n_frames), _traj(operator, frames, plane, padded))


def keep(folder: Path, place: str | Path, command: Sequence[str]) -> Path:
    """Write what a command of ``pics`` reads into the first free of the folders 0, 1, ... of `place`, and return it.

    pics.json has the command: pasted there, it gives the file of the images.

    Raises
    ------
    UserError
        The place cannot be written.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix in (".cfl", ".hdr") and path.stem != COEFF)
    own = next(path for n in itertools.count() if not (path := Path(place) / str(n)).exists())
    with files.product(own / "pics.json", [path.name for path in found], kind=FORMAT, force=False) as product:
        for path in found:
            shutil.copyfile(path, product.path(path.name))
        product.commit({"command": list(command)})
    return own


def _ksp(
    operator: Readouts,
    ksp: NDArray[Any],
    frames: list[NDArray[np.intp]],
    n_spokes: int,
    moved: list[int],
) -> Iterator[NDArray[np.complex64]]:
    """Yield the data of each frame, the centre moved, zero where nothing was sampled (NaN times zero is NaN)."""
    n_coils, _, n_samples = ksp.shape
    for rows in frames:
        block = np.zeros((n_coils, n_spokes, n_samples), dtype=np.complex64)
        block[:, : len(rows)] = ksp[:, rows]
        if operator.weights is not None:
            block[:, : len(rows)][:, operator.weights[rows] == 0] = 0
        if any(moved):
            block[:, : len(rows)] *= np.exp(2j * np.pi * (operator.traj[rows] @ np.divide(moved, operator.shape)))
        yield block


def _pattern(
    operator: Readouts, frames: list[NDArray[np.intp]], plane: tuple[int, int]
) -> Iterator[NDArray[np.float32]]:
    """Yield the square root of the weights of each frame."""
    for rows in frames:
        block = np.zeros(plane[::-1], dtype=np.float32)
        block[: len(rows)] = 1 if operator.weights is None else np.sqrt(operator.weights[rows])
        yield block


def _traj(
    operator: Readouts, frames: list[NDArray[np.intp]], plane: tuple[int, int], padded: tuple[int, ...]
) -> Iterator[NDArray[np.float64]]:
    """Yield x, y, z of the trajectory of each frame, in cycles per padded field of view."""
    shape = np.array(operator.shape)
    size = np.where(shape > 1, padded, 0)
    for rows in frames:
        turns = operator.traj[rows] / shape
        block = np.zeros((*plane[::-1], 3))
        block[: len(rows), :, : shape.size] = ((turns - np.floor(turns + 0.5)) * size)[..., ::-1]
        yield block
