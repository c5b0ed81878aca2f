"""Where fits are tried: noisy measurements of fingerprints, and one way of fitting at every rank of a basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .basis import Basis
from .cluster import Pool
from .dictionary import Dictionary
from .errors import UserError
from .fit import nlls, perk_training
from .fit.box import Box
from .fit.emulator import check_parameters
from .fit.fitter import Fitter, Method, Signals, chosen, prepared, simulated
from .fit.forward import CompressedModel
from .fit.result import Maps
from .progress import Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

Start = Literal["dictionary", "truth"]


@dataclass(frozen=True)
class Way:
    """How measurements are fitted; the fields are options of `crbsvd study`.

    Parameters
    ----------
    method, refine, fit_starts, signals, bounds
        As for `fit.fitter.prepared`.
    start : {"dictionary", "truth"}
        For nlls: where fits start. The truth tells what the minimum next to it is worth, and needs no dictionary.
    """

    method: Method = "matching"
    refine: bool = False
    fit_starts: int = 1
    signals: Signals | None = None
    bounds: tuple[str, ...] = ()
    start: Start = "dictionary"

    @property
    def needs_dictionary(self) -> bool:
        """Whether there is anything that is matched."""
        return self.start != "truth"

    def simulates(self, box: Box) -> bool:
        """Whether every step of a fit simulates its signal, which is slow."""
        return self.method == "nlls" and chosen(self.signals, box) == "exact"

    def check(self, ranks: Sequence[int], box: Box) -> None:
        """Refuse what does not go together, or cannot be fitted, before any work.

        Raises
        ------
        UserError
            An option belongs to another method, or a rank is too small to tell the parameters.
        """
        ours = (self.fit_starts, self.signals, self.bounds, self.start)
        if self.method != "nlls" and ours != (1, None, (), "dictionary"):
            raise UserError(
                "--fit-starts, --signals, --bounds and --start belong to --method nlls; leave them out, "
                "or take that method"
            )
        if self.start == "truth" and self.fit_starts != 1:
            raise UserError("--fit-starts counts atoms, but --start truth has none; leave one of them out")
        if self.refine and self.method != "matching":
            raise UserError("--refine belongs to --method matching; leave one of them out")
        if self.method != "matching":
            nlls.check_rank(min(ranks), int(box.free.sum()))
        if self.signals == "emulated":
            check_parameters(box)


class Bench:
    """Fits in one basis, at all of its ranks.

    Parameters
    ----------
    way : Way
        How.
    basis : Basis
        The basis, whose sidecar says what the model is.
    dictionary : Dictionary, optional
        Its dictionary; None where `way` needs none.
    box : Box
        The ranges of the fit.
    seed : int
        Of the training of a regression.
    report : callable
        Told of what is prepared.

    Raises
    ------
    UserError
        There can be no emulator, or nothing to train a regression with.
    """

    def __init__(self, way: Way, basis: Basis, dictionary: Dictionary | None, box: Box, *, seed: int, report: Report):
        self._way, self._basis, self._box = way, basis, box
        self._seed, self._report = seed, report
        self._full: Fitter | CompressedModel
        if dictionary is None:
            self._full = simulated(basis, box, signals=way.signals, report=report)
        elif way.method == "perk":
            self._full = Fitter(dictionary, 0.0)
        else:
            self._full = prepared(
                basis, dictionary, method=way.method, mask_level=0.0, refine=way.refine, n_starts=way.fit_starts,
                signals=way.signals, bounds=way.bounds, report=report,
            )  # fmt: skip
        self._rank = 0
        self._now: Fitter | CompressedModel = self._full

    def fit(self, coeff: NDArray[Any], truth: NDArray[np.float64], *, pool: Pool | None = None) -> Maps:
        """Return the estimates of coefficients (K, n) of fingerprints truth (n, P)."""
        if len(coeff) != self._rank:
            # ranks come one after the other, and a regression is trained for each
            self._rank, self._now = len(coeff), self._at(len(coeff))
        if isinstance(self._now, Fitter):
            return self._now.fit(coeff, pool=pool)
        n = len(truth)
        parts = np.zeros(n, np.complex64), np.zeros(n, bool), np.ones(n, bool)
        start = Maps(self._box.parameters, truth.T.astype(np.float32), *parts)
        return nlls.fit(coeff, self._now, start, pool=pool)

    def _at(self, rank: int) -> Fitter | CompressedModel:
        if not isinstance(self._full, Fitter):
            return self._full.truncated(rank)
        found = self._full.truncated(self._basis.truncate(rank))
        if self._way.method == "perk":
            trained = perk_training.train(found.dictionary, seed=self._seed, report=self._report)
            return replace(found, perk=trained)
        return found


def measured(
    signal: NDArray[Any], phi: NDArray[Any], sigma: float, n: int, rng: np.random.Generator
) -> NDArray[np.complex128]:
    """Return the coefficients (n, K) of n noisy measurements of a signal (T,): phi^H (s + noise).

    The noise is white, of standard deviation `sigma` per real component of every frame, and so of every coefficient.
    """
    noise = rng.standard_normal((n, len(signal), 2)).view(np.complex128)[..., 0]
    found: NDArray[np.complex128] = (signal + sigma * noise) @ phi.conj()
    return found
