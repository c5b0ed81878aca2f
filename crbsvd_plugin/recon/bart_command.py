"""The command line of ``bart pics``, and its iterations while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from .. import bart
from ..errors import UserError
from ..threads import count
from .bart_files import BASIS, COEFF, KSP, PATTERN, PSF, SENS, START, TRAJ, keep
from .bart_options import Term, solver_of
from .penalty import Regulariser, Shift

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pics_command(
    *,
    lam: float,
    iterations: int,
    regulariser: Regulariser = "l2",
    block: int = 8,
    shift: Shift = "none",
    step: float | None = 1.0,
    own_scaling: bool = False,
    terms: Sequence[Term] = (),
    lowmem: bool = False,
    start: bool = False,
    psf: Literal["export", "import"] | None = None,
    watched: bool = False,
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
    terms : sequence of Term
        BART's own, instead of `regulariser` and `lam`.
    lowmem : bool
        Take less memory for the transform.
    start : bool
        Begin with the images of the file `start`.
    psf : {"export", "import"}, optional
        Write the point spread function to the file `psf`, or read it there.
    watched : bool
        Print each iteration.
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
    if not terms and regulariser == "l2":
        penalties = ["-l2", "-r", f"{lam:.9g}"]
    else:
        if not terms:
            terms = [Term("L", (7, 7), lam) if regulariser == "llr" else Term("W", (7, 0), lam)]
        kinds = {term.kind for term in terms}
        found = ["-e"] if step is None else ["-s", f"{step:.9g}"]
        steps = found if solver_of(terms) == "fista" else []
        blocks = ["-b", str(block)] if "L" in kinds else []
        # random shifts are its default, which overlapping blocks must do without
        places = {"none": ["-n"], "random": [], "overlap": ["-n", "-N"]}[shift] if kinds & {"L", "W"} else []
        penalties = [*(word for term in terms for word in ("-R", str(term))), *blocks, *places, *steps]
    extra = [*(["-U"] if lowmem else []), *(["-d5"] if watched else []), *([f"--psf_{psf}", PSF] if psf else [])]
    unscaled = [] if own_scaling else ["-w", "1"]
    first = ["-W", START] if start else []
    files = [*([] if cartesian else ["-t", TRAJ]), "-p", PATTERN, "-B", BASIS, KSP, SENS, COEFF]
    return ["bart", "pics", *penalties, "-i", str(iterations), *unscaled, *extra, *first, *files]


def run_pics(
    command: list[str],
    folder: Path,
    *,
    iterations: int,
    callback: Callable[[int, None], object] | None,
    place: str | None = None,
) -> NDArray[np.complex64]:
    """Run a command of `pics_command` in the folder of its files, and return the images as they stand in the file.

    With a place, the files are kept there, see `bart_files.keep`.
    """
    done = 0
    if place is not None:
        keep(folder, place, command)

    def on_line(line: str) -> None:
        nonlocal done
        # "#3: 0.1" of conjugate gradients, those inside of ADMM included, "#It 003: 0.1" of FISTA
        if callback is not None and line.startswith("#") and done < iterations:
            done += 1
            callback(done, None)

    bart.run(command[1:], folder=folder, threads=count(), on_line=on_line)
    try:
        return bart.read_cfl(folder / COEFF)
    except UserError as error:
        raise UserError(f"BART ended as if all were well, but left no images: {error}") from None
