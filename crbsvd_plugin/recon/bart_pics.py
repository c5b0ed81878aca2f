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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import bart
from ..cartesian import CartesianOperator
from ..errors import UserError
from . import bart_grid
from .bart_command import pics_command, run_pics
from .bart_files import PSF, START, Readouts, check, columns, export
from .bart_options import BartOptions, Term, check_padding
from .eigenvalue import step_size
from .native import Start, first_images
from .objective import right_hand_side
from .penalty import Regulariser, Shift, penalty
from .scaling import Scaling, data_scale, llr_width, scaled_lam

if TYPE_CHECKING:
    from ..kernel_cache import KernelCache
    from . import Encoding
    from .choice import Solver


def solve(
    operator: Encoding,
    ksp: NDArray[Any],
    *,
    lam: float,
    regulariser: Regulariser,
    block: int,
    shift: Shift,
    scaling: Scaling,
    solver: Solver,
    iterations: int,
    start: NDArray[Any] | Start,
    options: BartOptions,
    callback: Callable[[int, None], object] | None,
) -> NDArray[np.complex64]:
    """Return coefficient images by BART; the arguments are those of `reconstruct`, which checks them."""
    cached = getattr(operator, "kernel_cache", None) is not None
    bart.require(options.features(shift=shift, regulariser=regulariser, psf=cached))
    terms = options.read()
    right, images = None, None
    if scaling == "bart" or not isinstance(start, str) or start != "zero":
        right = right_hand_side(operator, ksp)
        images = first_images(start, operator, ksp, right, lam=lam, regulariser=regulariser)
        if scaling == "bart":
            lam = scaled_lam(lam, right, scaling=scaling, regulariser=regulariser, block=block, shift=shift)
            scale = data_scale(right) if terms else 1.0
            terms = [term.scaled(scale) for term in terms]
    step = 1.0
    if solver == "fista":
        step = step_size(operator.normal, operator.coeff_shape, operator.dtype)
        if images is not None:  # its iterations begin with the proximal map, ours with the gradient
            images = images - step * (operator.normal(images) - right)
    return pics(
        operator, ksp, lam=lam, iterations=iterations, regulariser=regulariser, block=block, shift=shift, step=step,
        start=images, terms=terms, lowmem=options.lowmem, keep=options.keep, callback=callback,
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
    terms: Sequence[Term] = (),
    lowmem: bool = False,
    keep: str | None = None,
    callback: Callable[[int, None], object] | None = None,
) -> NDArray[np.complex64]:
    """Compute coefficient images with BART.

    Parameters
    ----------
    operator : SubspaceOperator or CartesianOperator
        The encoding; of the former, only the attributes of `Readouts` are used, and `kernel_cache`, if there is one:
        it keeps BART's point spread function too. A grid is solved with l2 or BART's terms.
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
    terms : sequence of Term
        BART's own, instead of `regulariser` and `lam`; of FISTA without the last proximal map, which is BART's too.
    lowmem : bool
        Take less memory for the transform of readouts.
    callback : callable, optional
        Called with the iteration and None.

    Returns
    -------
    complex64 array (K, *X)
        Coefficients.

    Raises
    ------
    UserError
        BART is missing or failed, an axis is too short for overlapping blocks, a term cannot bear the padding,
        temporary files cannot be written, or the operator is of another kind, or a grid with another penalty than l2.
    ValueError
        Shapes that do not agree, a frame or a number out of range.
    """
    given: dict[str, Any] = {
        "iterations": iterations, "regulariser": regulariser, "block": block, "shift": shift, "step": step,
        "terms": terms, "lowmem": lowmem, "start": start is not None, "watched": callback is not None,
    }  # fmt: skip
    if isinstance(operator, CartesianOperator):
        if lowmem or not (terms or regulariser == "l2"):
            what = "low memory" if lowmem else f"regulariser is {regulariser}"
            raise UserError(f"{what}: bart gets grids with l2 or its own terms alone; take the backend native")
        command = pics_command(lam=lam, **given, cartesian=True)
        return _on_grid(operator, ksp, command, iterations, start, keep, callback)
    if not isinstance(operator, Readouts):
        raise UserError(
            f"bart has no form for the operator {type(operator).__name__}, expected readouts or a grid; "
            "take the backend native or sigpy"
        )
    shape, overlap = tuple(operator.shape), shift == "overlap"
    blocks = regulariser == "llr" or any(term.kind == "L" for term in terms)
    short = [n for n in shape if 1 < n <= block]
    if blocks and overlap and short:
        raise UserError(
            f"shift is overlap, which bart gets wrong on an axis of {short[0]} voxels with blocks of {block}; "
            "use random or none, a smaller block, or the backend native"
        )
    padded, inner = _padded(shape, block if blocks else 1, overlap=overlap)
    check_padding(terms, shape, padded)
    width = llr_width(padded, operator.phi.shape[1], block, overlap=overlap) if regulariser == "llr" else 1.0
    kernel = _Kernel(operator, padded, lowmem=lowmem)
    command = pics_command(lam=lam / width, **given, psf=kernel.use)
    check(operator, ksp)
    bart.find()  # before gigabytes are written
    with bart.temporary_folder() as folder:
        export(operator, ksp, folder, padded, inner)
        if start is not None:
            whole = np.zeros((len(start), *padded), np.complex64)
            whole[:, *inner] = start
            bart.write_cfl(folder / START, columns(whole)[:, :, :, None, None, None])
        kernel.write(folder)
        image = run_pics(command, folder, iterations=iterations, callback=callback, place=keep)
        kernel.keep(folder)
    coeff = np.ascontiguousarray(image.T.reshape(-1, *padded)[:, *inner])
    if terms or regulariser == "l2":
        return coeff
    function = penalty(regulariser, shape, block=block, shift=shift)
    return function.prox(coeff, step * lam, iterations)


def _on_grid(
    operator: CartesianOperator,
    ksp: NDArray[Any],
    command: list[str],
    iterations: int,
    start: NDArray[Any] | None,
    keep: str | None,
    callback: Callable[[int, None], object] | None,
) -> NDArray[np.complex64]:
    """Run a command of `pics_command` for Cartesian k-space, see `bart_grid`."""
    bart_grid.check(operator, ksp)
    bart.find()  # before gigabytes are written
    with bart.temporary_folder() as folder:
        bart_grid.export(operator, ksp, folder)
        if start is not None:
            bart.write_cfl(folder / START, columns(start)[:, :, :, None, None, None])
        image = run_pics(command, folder, iterations=iterations, callback=callback, place=keep)
    return np.ascontiguousarray(image.T.reshape(operator.coeff_shape))


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
    options: BartOptions,
) -> list[str]:
    """Return the command line that does what `reconstruct` does with these options, as far as BART can.

    Parameters
    ----------
    shape, rank
        Image size X and number of coefficients K.
    lam, iterations, regulariser, block, shift, scaling, options
        As for `reconstruct`.
    """
    width = 1.0
    if regulariser == "llr" and scaling == "none":
        overlap = shift == "overlap"
        width = llr_width(_padded(shape, block, overlap=overlap)[0], rank, block, overlap=overlap)
    return pics_command(
        lam=lam / width, iterations=iterations, regulariser=regulariser, block=block, shift=shift, step=None,
        own_scaling=scaling == "bart", terms=options.read(), lowmem=options.lowmem,
    )  # fmt: skip


class _Kernel:
    """BART's point spread function, kept where the operator keeps its kernel."""

    def __init__(self, operator: Readouts, padded: tuple[int, ...], *, lowmem: bool):
        # not among `Readouts`: whoever has no cache need not know of it
        self._cache: KernelCache | None = getattr(operator, "kernel_cache", None)
        self._found: NDArray[Any] | None = None
        self.use: Literal["export", "import"] | None = None
        if self._cache is None:
            return
        weights = np.ones(1) if operator.weights is None else operator.weights
        self._facts = [
            "bart pics psf", bart.version(), lowmem, operator.traj, operator.frame, weights, operator.phi,
            operator.shape, padded,
        ]  # fmt: skip
        self._found = self._cache.find(self._facts)
        self.use = "export" if self._found is None else "import"

    def write(self, folder: Path) -> None:
        if self._found is not None:
            bart.write_cfl(folder / PSF, self._found)

    def keep(self, folder: Path) -> None:
        if self._cache is not None and self._found is None:
            self._cache.keep(self._facts, bart.read_cfl(folder / PSF, mapped=True))


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
