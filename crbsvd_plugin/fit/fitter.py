"""From coefficient images to maps, by the method that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import models
from ..basis import Basis
from ..cluster import Pool
from ..dictionary import Dictionary
from ..errors import UserError
from ..progress import Report, counted, silent
from . import nlls
from .box import Box
from .emulator import emulate
from .fixed import match_fixed
from .forward import CompressedModel, Simulated
from .matching import match
from .result import Maps
from .starts import distinct_starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["matching", "nlls"]
Signals = Literal["emulated", "exact"]


@dataclass(frozen=True)
class Fitter:
    """How maps are fitted.

    Parameters
    ----------
    dictionary : Dictionary
        What to match with.
    mask_level : float
        See `matching.match`.
    forward : CompressedModel, optional
        Signals for least squares from the best atom; None: matching alone.
    n_starts : int
        Number of starts of each voxel.
    refine : bool
        Where there is matching alone, take a step off the grid of the dictionary, see `refine.refined`.
    """

    dictionary: Dictionary
    mask_level: float = 0.05
    forward: CompressedModel | None = None
    n_starts: int = 1
    refine: bool = False

    def fit(
        self,
        coeff: NDArray[Any],
        *,
        b1: NDArray[Any] | None = None,
        report: Report | None = None,
        pool: Pool | None = None,
    ) -> Maps:
        """Return the maps of coefficient images (K, *X), made here or on the workers of a pool.

        With `b1` (*X), a measured map, every voxel is matched with atoms of its B1; least squares know no such.

        Raises
        ------
        ValueError
            There is a measured B1, and least squares are wanted.
        """
        report, total = report or silent, int(np.prod(coeff.shape[1:]))
        options: dict[str, Any] = {
            "mask_level": self.mask_level, "refine": self.refine, "progress": counted(report, "fit", total),
            "pool": pool,
        }  # fmt: skip
        if b1 is None:
            maps = match(coeff, self.dictionary, **options)
        elif self.forward is None:
            maps = match_fixed(coeff, self.dictionary, name="B1", known=b1, **options)
        else:
            raise ValueError("a measured B1 is for matching alone")
        report("fit", total, total)  # masked voxels are done too
        if self.forward is None:
            return maps
        others = None
        if self.n_starts > 1:
            others = distinct_starts(coeff, self.dictionary, maps.mask, self.n_starts, pool=pool)[1:]
        step = counted(report, "least squares", int(maps.mask.sum()))
        return nlls.fit(coeff, self.forward, maps, others=others, progress=step, pool=pool)


def prepared(
    basis: Basis,
    dictionary: Dictionary,
    *,
    method: Method = "matching",
    mask_level: float = 0.05,
    refine: bool = False,
    n_starts: int = 1,
    signals: Signals = "emulated",
    report: Report = silent,
) -> Fitter:
    """Return what fits maps; for least squares an emulator of the model is made first, where the atoms are.

    Parameters
    ----------
    basis : Basis
        The basis, whose sidecar says what the model is.
    dictionary : Dictionary
        Its dictionary, whose ranges are those of the fit.
    method : {"matching", "nlls"}
        The best atom, or nonlinear least squares from there.
    mask_level : float
        See `matching.match`.
    refine : bool
        For matching: a step off the grid of the dictionary, see `refine.refined`.
    n_starts : int
        Distinct starts of each voxel, for nlls.
    signals : {"emulated", "exact"}
        For nlls: a polynomial (see `emulator`), or the model itself.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        An option does not belong to the method, the dictionary has no derivatives to refine with, there are too few
        coefficients, or there can be no emulator.
    """
    if n_starts < 1:
        raise UserError(f"--fit-starts is {n_starts}, expected at least 1")
    if method == "matching":
        if n_starts != 1 or signals != "emulated":
            raise UserError("--fit-starts and --signals belong to --method nlls; leave them out, or take that method")
        if refine:
            dictionary.require_derivatives()
        return Fitter(dictionary, mask_level, refine=refine)
    if refine:
        raise UserError("--refine belongs to --method matching; leave one of them out")
    box = Box.around(dictionary.parameters, dictionary.theta)
    nlls.check_rank(basis.rank, int(box.free.sum()))
    exact = Simulated(models.smooth(basis.info["model"]), basis.phi, box)
    return Fitter(dictionary, mask_level, emulate(exact, report=report) if signals == "emulated" else exact, n_starts)
