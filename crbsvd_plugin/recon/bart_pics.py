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
  number of blocks, and at both ends where blocks overlap: those stay zero, and the blocks are ours.
  It multiplies lambda by `scaling.llr_width`, so lambda is divided by that. Random blocks wrap around.
* It skips blocks by an upper bound of their singular values that forgets a conjugate: where the
  phase varies strongly inside of a block that is close to its threshold, that block is lost in it.
* Its FISTA ends with a gradient step and leaves out the proximal map that belongs to it: every
  singular value or wavelet coefficient stays too large by step times lambda. So the step is ours
  (``-s``, not ``-e``), and that last map is applied here.
* Samples beyond +-n/2 are dropped by it. As voxels sit on whole numbers, k and k + n are the same
  sample, so the trajectory is wrapped. Within 1.5 cells of the edge of k-space it still loses
  part of its gridding kernel: there, and only there, its operator is a few per cent off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import bart
from ..cartesian import CartesianOperator
from ..errors import UserError
from ..threads import count
from . import bart_grid
from .bart_files import BASIS, COEFF, KSP, PATTERN, SENS, START, TRAJ, Readouts, check, columns, export
from .penalty import Regulariser, Shift, penalty
from .scaling import Scaling, llr_width

if TYPE_CHECKING:
    from . import Encoding


def pics_command(
    *,
    lam: float,
    iterations: int,
    regulariser: Regulariser = "l2",
    block: int = 8,
    shift: Shift = "none",
    step: float | None = 1.0,
    own_scaling: bool = False,
    start: bool = False,
    cartesian: bool = False,
) -> list[str]:
    """Return the command line of the reconstruction; its files are named as `pics` writes them.

    Parameters
    ----------
    lam : float
        Weight of the penalty as BART wants it.
    iterations : int
        Largest number of iterations.
    regulariser, block, shift
        As in `reconstruct`. BART solves l2 by conjugate gradients, the others by FISTA.
    step : float, optional
        Step of FISTA, at most 1 / largest eigenvalue of A^H W A; None: BART finds it.
    own_scaling : bool
        Leave the scaling of the data, on which the meaning of `lam` depends, to BART.
    start : bool
        Begin with the images of the file `start`.
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
    weight = f"{lam:.9g}"
    if regulariser == "l2":
        terms = ["-l2", "-r", weight]
    else:
        term = f"L:7:7:{weight}" if regulariser == "llr" else f"W:7:0:{weight}"
        blocks = ["-b", str(block)] if regulariser == "llr" else []
        # random shifts are its default, which overlapping blocks must do without
        places = {"none": ["-n"], "random": [], "overlap": ["-n", "-N"]}[shift]
        terms = ["-R", term, *blocks, *places, *(["-e"] if step is None else ["-s", f"{step:.9g}"])]
    first = ["-W", START] if start else []
    unscaled = [] if own_scaling else ["-w", "1"]
    files = [*([] if cartesian else ["-t", TRAJ]), "-p", PATTERN, "-B", BASIS, KSP, SENS, COEFF]
    return ["bart", "pics", *terms, "-i", str(iterations), *unscaled, *first, *files]


def command_like(
    shape: tuple[int, ...],
    rank: int,
    *,
    lam: float,
    iterations: int,
    regulariser: Regulariser,
    block: int,
    shift: Shift,
    scaling: Scaling,
) -> list[str]:
    """Return the command line that does what `reconstruct` does with these options, as far as BART can.

    Parameters
    ----------
    shape, rank
        Image size X and number of coefficients K.
    lam, iterations, regulariser, block, shift, scaling
        As for `reconstruct`.
    """
    width = 1.0
    if regulariser == "llr" and scaling == "none":
        overlap = shift == "overlap"
        width = llr_width(_padded(shape, block, overlap=overlap)[0], rank, block, overlap=overlap)
    return pics_command(
        lam=lam / width, iterations=iterations, regulariser=regulariser, block=block, shift=shift, step=None,
        own_scaling=scaling == "bart",
    )  # fmt: skip


def pics(
    operator: Encoding,
    ksp: NDArray[Any],
    *,
    lam: float,
    iterations: int,
    regulariser: Regulariser = "l2",
    block: int = 8,
    shift: Shift = "none",
    step: float = 1.0,
    start: NDArray[Any] | None = None,
) -> NDArray[np.complex64]:
    """Compute coefficient images with BART.

    Parameters
    ----------
    operator : SubspaceOperator or CartesianOperator
        The encoding; of the former, only the attributes of `Readouts` are used. A grid is solved with l2 alone.
    ksp : complex array (C, R, S), Cartesian (C, T, *X)
        K-space data; where weights are zero, any value.
    lam : float
        Weight of the penalty, as in every other backend.
    iterations : int
        Largest number of iterations.
    regulariser, block, shift
        As in `reconstruct`.
    step : float
        Step of FISTA, at most 1 / largest eigenvalue of A^H W A; not used by l2.
    start : array (K, *X), optional
        First images, for FISTA before the first proximal map; zero if not given.

    Returns
    -------
    complex64 array (K, *X)
        Coefficients.

    Raises
    ------
    UserError
        BART is missing or failed, an axis is too short for overlapping blocks, temporary files cannot be written, or
        the operator is of another kind, or a grid with another penalty than l2.
    ValueError
        Shapes that do not agree, a frame or a number out of range.
    """
    if isinstance(operator, CartesianOperator):
        return _grid(operator, ksp, lam=lam, iterations=iterations, regulariser=regulariser, start=start)
    if not isinstance(operator, Readouts):
        raise UserError(
            f"bart has no form for the operator {type(operator).__name__}, expected readouts or a grid; "
            "take the backend native or sigpy"
        )
    short = [n for n in operator.shape if 1 < n <= block]
    if regulariser == "llr" and shift == "overlap" and short:
        raise UserError(
            f"shift is overlap, which bart gets wrong on an axis of {short[0]} voxels with blocks of {block}; "
            "use random or none, a smaller block, or the backend native"
        )
    overlap = shift == "overlap"
    padded, inner = _padded(tuple(operator.shape), block if regulariser == "llr" else 1, overlap=overlap)
    width = llr_width(padded, operator.phi.shape[1], block, overlap=overlap) if regulariser == "llr" else 1.0
    command = pics_command(
        lam=lam / width, iterations=iterations, regulariser=regulariser, block=block, shift=shift, step=step,
        start=start is not None,
    )  # fmt: skip
    check(operator, ksp)
    bart.find()  # before gigabytes are written
    with bart.temporary_folder() as folder:
        export(operator, ksp, folder, padded, inner)
        if start is not None:
            whole = np.zeros((len(start), *padded), np.complex64)
            whole[:, *inner] = start
            bart.write_cfl(folder / START, columns(whole)[:, :, :, None, None, None])
        bart.run(command[1:], folder=folder, threads=count())
        image = bart.read_cfl(folder / COEFF)
    coeff = np.ascontiguousarray(image.T.reshape(-1, *padded)[:, *inner])
    if regulariser == "l2":
        return coeff
    function = penalty(regulariser, tuple(operator.shape), block=block, shift=shift)
    return function.prox(coeff, step * lam, iterations)


def _grid(
    operator: CartesianOperator,
    ksp: NDArray[Any],
    *,
    lam: float,
    iterations: int,
    regulariser: Regulariser,
    start: NDArray[Any] | None,
) -> NDArray[np.complex64]:
    if regulariser != "l2":
        raise UserError(f"regulariser is {regulariser}, but bart gets grids with l2 alone; take the backend native")
    command = pics_command(lam=lam, iterations=iterations, start=start is not None, cartesian=True)
    bart_grid.check(operator, ksp)
    bart.find()  # before gigabytes are written
    with bart.temporary_folder() as folder:
        bart_grid.export(operator, ksp, folder)
        if start is not None:
            bart.write_cfl(folder / START, columns(start)[:, :, :, None, None, None])
        bart.run(command[1:], folder=folder, threads=count())
        return np.ascontiguousarray(bart.read_cfl(folder / COEFF).T.reshape(operator.coeff_shape))


def _padded(shape: tuple[int, ...], block: int, *, overlap: bool) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """Return the matrix size that BART is given, and where the image lies in it; see the head of this file.

    It is even; an axis of one voxel means no axis to it.
    """
    padded, inner = [], []
    for n in shape:
        apart = n > block
        front = block - 1 if overlap and apart else 0
        whole = 1 if n == 1 else 2 if overlap or not apart else math.lcm(2, block)
        padded.append(-(-(n + 2 * front) // whole) * whole)
        inner.append(slice(front, front + n))
    return tuple(padded), tuple(inner)
