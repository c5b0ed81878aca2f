"""From coefficient images to maps, by the method that was asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import models
from ..basis import Basis
from ..cluster import Pool
from ..dictionary import Dictionary
from ..errors import UserError
from ..progress import Report, counted, silent
from . import nlls, perk
from .bounds import bounded
from .box import Box
from .emulator import MOST_PARAMETERS, Emulator, emulate
from .fixed import beyond, match_fixed, slabs
from .forward import CompressedModel, Simulated
from .matching import match
from .perk import Perk
from .result import Maps
from .starts import distinct_starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["matching", "nlls", "perk"]
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
    perk : Perk, optional
        A kernel regression, instead of the dictionary.
    """

    dictionary: Dictionary
    mask_level: float = 0.05
    forward: CompressedModel | None = None
    n_starts: int = 1
    refine: bool = False
    perk: Perk | None = None

    def truncated(self, basis: Basis) -> Fitter:
        """Return the same way of fitting with the first columns of the basis, which `basis` has.

        Raises
        ------
        ValueError
            It is a regression, which must be trained anew.
        """
        if self.perk is not None:
            raise ValueError("a kernel regression belongs to the rank that it was trained for")
        forward = None if self.forward is None else self.forward.truncated(basis.rank)
        return replace(self, dictionary=self.dictionary.truncate(basis), forward=forward)

    def fit(
        self,
        coeff: NDArray[Any],
        *,
        known: Mapping[str, NDArray[np.float64]] | None = None,
        report: Report | None = None,
        pool: Pool | None = None,
    ) -> Maps:
        """Return the maps of coefficient images (K, *X), made here or on the workers of a pool.

        With `known`, measured maps (*X) by the name of the parameter, every voxel is matched with the atoms nearest to
        them, and least squares hold them at what was measured, or at the end of the dictionary's range.

        Raises
        ------
        ValueError
            There are measured maps, and a regression, which knows none.
        """
        if known and self.perk is not None:
            raise ValueError("a kernel regression did not learn from measured maps")
        report, total = report or silent, int(np.prod(coeff.shape[1:]))
        options: dict[str, Any] = {
            "mask_level": self.mask_level, "progress": counted(report, "fit", total), "pool": pool
        }  # fmt: skip
        if self.perk is not None:
            maps = perk.fit(coeff, self.perk, **options)
        elif known:
            maps = match_fixed(coeff, self.dictionary, known=known, refine=self.refine, **options)
        else:
            maps = match(coeff, self.dictionary, refine=self.refine, **options)
        report("fit", total, total)  # masked voxels are done too
        if self.forward is None:
            return maps
        others = None
        if self.n_starts > 1:
            others = distinct_starts(coeff, self.dictionary, maps.mask, self.n_starts, pool=pool)[1:]
        step = counted(report, "least squares", int(maps.mask.sum()))
        box, known = self.forward.box, known or {}
        held = {name: np.clip(values, *box.range(name)) for name, values in known.items()}
        found = nlls.fit(coeff, self.forward, maps, others=others, fixed=held, progress=step, pool=pool)
        if not known:
            return found
        grids = {name: slabs(self.dictionary, name) for name in known}
        return replace(found, edge=found.edge | (maps.mask & beyond(grids, known)))


def prepared(
    basis: Basis,
    dictionary: Dictionary,
    *,
    method: Method = "matching",
    name: str | None = None,
    mask_level: float = 0.05,
    refine: bool = False,
    n_starts: int = 1,
    signals: Signals | None = None,
    bounds: Sequence[str] = (),
    known: Collection[str] = (),
    report: Report = silent,
) -> Fitter:
    """Return what fits maps; for least squares an emulator of the model is made first, where the atoms are.

    Parameters
    ----------
    basis : Basis
        The basis, whose sidecar says what the model is.
    dictionary : Dictionary
        Its dictionary, whose ranges are those of the fit unless there are `bounds`.
    method : {"matching", "nlls", "perk"}
        The best atom, nonlinear least squares from there, or kernel regression.
    name : str, optional
        Name of the basis, beside which perk finds what it was trained to.
    mask_level : float
        See `matching.match`.
    refine : bool
        For matching: a step off the grid of the dictionary, see `refine.refined`.
    n_starts : int
        Distinct starts of each voxel, for nlls.
    signals : {"emulated", "exact"}, optional
        For nlls: a polynomial (see `emulator`), or the model itself; None: a polynomial unless parameters are too many.
    bounds : sequence of str
        For nlls: ranges other than those of the dictionary, see `bounds.bounded`. Atoms outside are no starts.
    known : collection of str
        Parameters of which there will be maps.
    report : callable
        Told of the progress.

    Raises
    ------
    UserError
        An option does not belong to the method, no atom is within the bounds, the dictionary has no derivatives to
        refine with, there are too few coefficients, there can be no emulator, or nothing was trained for this basis.
    ValueError
        perk is not told the name of the basis.
    """
    if n_starts < 1:
        raise UserError(f"--fit-starts is {n_starts}, expected at least 1")
    if method != "nlls" and (n_starts != 1 or signals is not None or bounds):
        raise UserError(
            "--fit-starts, --signals and --bounds belong to --method nlls; leave them out, or take that method"
        )
    if method != "matching" and refine:
        raise UserError("--refine belongs to --method matching; leave one of them out")
    if method == "matching":
        if refine:
            dictionary.require_derivatives()
        return Fitter(dictionary, mask_level, refine=refine)
    if method == "perk":
        if known:
            raise UserError("--b1 and --b0 do not belong to --method perk, which learned without them; leave them out")
        if name is None:
            raise ValueError("perk needs the name of the basis")
        return Fitter(dictionary, mask_level, perk=Perk.load(name, basis))
    box = bounded(Box.around(dictionary.parameters, dictionary.theta), bounds)
    if bounds:
        dictionary = dictionary.within(box.low, box.high)
    nlls.check_rank(
        basis.rank, sum(free and p.name not in known for p, free in zip(box.parameters, box.free, strict=True))
    )
    forward = simulated(basis, box, signals=signals, report=report)
    return Fitter(dictionary, mask_level, forward, n_starts)


def simulated(
    basis: Basis, box: Box, *, signals: Signals | None = None, report: Report = silent
) -> Simulated | Emulator:
    """Return the signals of a box for least squares, see `prepared`.

    Raises
    ------
    UserError
        There can be no emulator.
    """
    exact = Simulated(models.smooth(basis.info["model"]), basis.phi, box)
    return emulate(exact, report=report) if chosen(signals, box) == "emulated" else exact


def chosen(signals: Signals | None, box: Box) -> Signals:
    """Return the kind of signals that least squares are done with."""
    if signals is not None:
        return signals
    return "emulated" if box.free.sum() <= MOST_PARAMETERS else "exact"
